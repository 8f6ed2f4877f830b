"""One small package for all batch tests of a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.support import make_package


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package") / "sums")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a thousand rows, so that a small table has many."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)
