"""One package of each case for a whole test run."""

from __future__ import annotations

import pytest

from tests.runtimes.cases import CASES, Case
from tidemill.prediction.live import Live


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="session")
def live(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live.open(case.build(tmp_path_factory.mktemp(case.name) / "package"))
