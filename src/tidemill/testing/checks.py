"""For the tests of people's own models: the checks of `tidemill check`, as one assertion or one test each.

@pytest.mark.parametrize("check", model_checks("model/"), ids=str)
def test_the_package_keeps_its_word(check):
    check()
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from tidemill.assurance.checks import CHECKS, Check, Checked, Subject, run_check, run_checks
from tidemill.model.package import open_package

__all__ = ["ModelCheck", "check_package", "model_checks"]


class _Loaded:
    """A package that is loaded once, when the first of its checks runs."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = directory

    @cached_property
    def subject(self) -> Subject:
        return Subject.of(open_package(self._directory))


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """One check of one package: call it to run it. Its `str` is the check's name."""

    package: _Loaded
    check: Check

    def __call__(self) -> Checked:
        """Run the check. Raises AssertionError with its figures if it fails; one that does not apply passes."""
        found = run_check(self.check, self.package.subject)
        if found.verdict == "fail":
            raise AssertionError(f"{found.name}: {found.question} {found.figures}")
        return found

    def __str__(self) -> str:
        return self.check.__name__


def model_checks(directory: str | os.PathLike[str]) -> list[ModelCheck]:
    """Every check, to parametrise a test with."""
    package = _Loaded(directory)
    return [ModelCheck(package, check) for check in CHECKS]


def check_package(directory: str | os.PathLike[str]) -> list[Checked]:
    """Run every check on a package. Raises AssertionError naming all that failed."""
    found = run_checks(directory)
    failed = [f"{c.name}: {c.question} {c.figures}" for c in found if c.verdict == "fail"]
    if failed:
        raise AssertionError("\n".join([f"{len(failed)} of {len(found)} checks failed", *failed]))
    return found
