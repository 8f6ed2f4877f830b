"""What only Ray does: a machine that is lost with everything on it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.batch.support import make_package, table, write
from tests.clusters import RAY_NODE
from tidemill.batch import Progress, ScoreOptions, score
from tidemill.batch.engines.options import EngineOptions, RayOptions
from tidemill.errors import RunError

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.xdist_group("clusters"),
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("small_shards"),
]

SLOW = """
import os, time

def before(rows):
    with open({nodes!r}, "a") as file:
        import ray
        print(ray.get_runtime_context().get_node_id(), file=file)
    time.sleep(0.3)
    return rows
"""


def test_a_node_that_is_killed_costs_its_shards_alone(ray_cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 for the raylet of one of two nodes, while both score: its shards go to the other."""
    second = ray_cluster.add_node(**RAY_NODE)
    nodes = tmp_path / "nodes"
    rows = table(16_000)
    source = write(rows, tmp_path / "in.parquet")
    package = make_package(tmp_path / "package", transform=SLOW.format(nodes=str(nodes)))
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and second.node_id in nodes.read_text().split():
            killed.append(progress.shards_done)
            ray_cluster.remove_node(second, allow_graceful=False)

    try:
        options = ScoreOptions(pass_through=("id",), engine=EngineOptions(name="ray"))
        report = score(package, source, tmp_path / "out", options, kill)
    finally:
        if not killed:
            ray_cluster.remove_node(second, allow_graceful=False)
    assert killed
    assert killed[0] < 16
    assert (report.read, report.written) == (16_000, 16_000)
    assert pl.read_parquet(tmp_path / "out/*.parquet")["id"].to_list() == list(range(16_000))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 16


def test_a_cluster_that_is_not_there_is_told_at_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would go on asking for it."""
    write(table(10), tmp_path / "in.parquet")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        engine = EngineOptions(name="ray", ray=RayOptions(address=address))
        with pytest.raises(RunError, match=f"Ray at {address} cannot be reached: .*refused"):
            score(package, tmp_path / "in.parquet", tmp_path / "out", ScoreOptions(engine=engine))
    assert [p.name for p in tmp_path.iterdir()] == ["in.parquet"]
