"""For people's own tests: the checks of `tidemill check` as assertions, and a server that is none.

@pytest.mark.parametrize("check", model_checks("model/"), ids=str)
def test_the_package_keeps_its_word(check):
    check()
"""

from tidemill.testing.checks import ModelCheck, check_package, model_checks
from tidemill.testing.fake import FakePredictor

__all__ = ["FakePredictor", "ModelCheck", "check_package", "model_checks"]
