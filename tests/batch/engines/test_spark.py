"""What only Spark does: two attempts at one shard at once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tests.batch.support import make_package, table, write
from tidemill.batch import ScoreOptions, score
from tidemill.batch.engines.options import EngineOptions

pytestmark = [
    pytest.mark.xdist_group("clusters"),
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("spark", "small_shards"),
]

# Who comes to one row first waits there for a second, so that both go on from there at once.
SLOW = """
import time
from pathlib import Path

def before(rows):
    if (rows["x"][:, 2] == 77).any():
        with open({attempts!r}, "a") as file:
            print("here", file=file)
        until = time.monotonic() + 60
        while Path({attempts!r}).read_text().count("here") < 2 and time.monotonic() < until:
            time.sleep(0.01)
    return rows
"""


def test_a_second_attempt_at_a_shard_leaves_one_output(tmp_path: Path) -> None:
    """The one that comes second finds the shard sealed; whichever that is, its part is not published."""
    rows = table(6_000)
    c = rows["c"].to_pylist()
    c[2_500] = 77.0
    source = write(rows.set_column(3, "c", pa.array(c, pa.float32())), tmp_path / "in.parquet")
    attempts = tmp_path / "attempts"
    package = make_package(tmp_path / "package", transform=SLOW.format(attempts=str(attempts)))
    attempts.write_text("here\n")
    score(package, source, tmp_path / "whole", ScoreOptions(pass_through=("id",)))
    attempts.unlink()
    options = ScoreOptions(pass_through=("id",), engine=EngineOptions(name="spark"))
    report = score(package, source, tmp_path / "out", options)
    assert len(attempts.read_text().split()) >= 2
    assert pl.read_parquet(tmp_path / "out/*.parquet").equals(pl.read_parquet(tmp_path / "whole/*.parquet"))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == report.shards == 6
    assert report.read == 6_000
