"""The gRPC part runs, asks for right answers first, and writes its section."""

import shutil
from pathlib import Path

import pytest

from benchmarks import grpc_calls

pytestmark = [
    pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load comes with `make setup-services`"),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk comes with `make setup-services`"),
]


def test_the_part_runs_and_tells(tmp_path: Path) -> None:
    settings = grpc_calls.Settings(rounds=1, seconds=1, shapes=((8, 8), (64, 1)))
    found = grpc_calls.run(tmp_path, settings)
    assert len(found.loads) == 7
    for load in found.loads:
        assert load.errors == 0
        assert load.per_second > 0
        assert load.server_us > 0
    told = grpc_calls.section(found)
    assert "| gRPC | 8 x 8 |" in told
    assert [row[1] for row in grpc_calls.goals(found)][2] == "0"
