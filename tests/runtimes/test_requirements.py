"""Requirements are met by the exact version or refused by name."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.runtimes import packages
from tidemill.errors import PackageError
from tidemill.prediction.live import Live
from tidemill.runtimes.requirements import check_requirements

NUMPY = version("numpy")


def test_met() -> None:
    check_requirements([f"numpy=={NUMPY}", f" NumPy == {NUMPY} ", f"scikit_learn=={version('scikit-learn')}"], "m")
    check_requirements([], "m")


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(PackageError) as error:
        check_requirements(["numpy==1.0", "no-such-thing==2.1", f"pyarrow=={version('pyarrow')}"], "churn")
    assert str(error.value) == (
        f"churn: requirements are not met: numpy is {NUMPY}, the package was made with 1.0; "
        "no-such-thing 2.1 is not installed: pip install 'numpy==1.0' 'no-such-thing==2.1', or package the model anew"
    )


@pytest.mark.parametrize("text", ["numpy", "numpy>=2", "numpy==2.*", "numpy==2,<3", "", "numpy @ file:x", "a==1; x"])
def test_only_one_version_is_a_requirement(text: str) -> None:
    with pytest.raises(PackageError, match="does not name one version"):
        check_requirements([text], "m")


@pytest.mark.parametrize("build", [packages.scorer_package, packages.forest_package])
def test_sklearn_and_python_packages_are_held_to_them(build, tmp_path: Path) -> None:
    made = build(tmp_path / "p")
    manifest = made.manifest
    package = packages.make(
        tmp_path / "q",
        manifest.runtime.name,
        made.path(manifest.runtime.artifact).read_bytes(),
        manifest.inputs,
        manifest.outputs,
        spec={"trusted": manifest.runtime.trusted},
        requirements=("numpy==0.1",),
    )
    with pytest.raises(PackageError, match=rf"numpy is {NUMPY}, the package was made with 0\.1"):
        Live.open(package)
