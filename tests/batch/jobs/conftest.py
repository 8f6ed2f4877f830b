"""An index of its own for each test, a package and rows for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.support import table, write
from tidemill.batch.jobs.index import RunIndex


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunIndex:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / "home"))
    return RunIndex()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four thousand rows in two files."""
    for i in range(2):
        write(table(2000, start=2000 * i), tmp_path / "in" / f"{i}.parquet", group=1000)
    return tmp_path / "in"
