"""The checks as people's own tests use them."""

from pathlib import Path

import pytest

from tests.assurance.support import python_package, twice
from tidemill.assurance.checks import CHECKS
from tidemill.errors import PackageError
from tidemill.testing import check_package, model_checks

pytest_plugins = ["pytester"]


def test_a_good_package_passes(tmp_path: Path) -> None:
    assert len(check_package(twice(tmp_path).directory)) == len(CHECKS)


def test_all_that_failed_is_named(tmp_path: Path) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * np.float32('nan')}")
    with pytest.raises(AssertionError, match=r"1 of \d+ checks failed\nanswers_rows: .*score of row 0 is not finite"):
        check_package(package.directory)


def test_what_is_no_package_is_refused_when_its_checks_run(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        model_checks(tmp_path)[0]()


def test_each_check_is_a_test_of_its_name(tmp_path: Path, pytester: pytest.Pytester) -> None:
    package = python_package(tmp_path, "return {'score': rows['x'] * np.float32('nan')}")
    pytester.makepyfile(
        f"""
        import pytest
        from tidemill.testing import model_checks

        @pytest.mark.parametrize("check", model_checks({str(package.directory)!r}), ids=str)
        def test_the_package_keeps_its_word(check):
            check()
        """
    )
    done = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider", "-p", "no:randomly")
    done.assert_outcomes(passed=len(CHECKS) - 1, failed=1)
    done.stdout.fnmatch_lines(["*test_the_package_keeps_its_word[[]answers_rows[]] FAILED*"])
