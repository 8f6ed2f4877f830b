"""What every test shares: hypothesis profiles."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# A slow machine is not a failure. CI draws the same examples every time, so that a red run can be repeated.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped for a missing component: that fails, naming what is missing."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not take: {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The index of runs is the tests' own, also for the processes they start."""
    os.environ["TIDEMILL_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests/models.py keeps its packages: one directory for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = shared / "models"
    directory.mkdir(exist_ok=True)
    return directory
