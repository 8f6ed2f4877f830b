"""Every source of this part into Parquet, and Parquet into every sink: each id once, as a row or as a dead letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as pa_feather
import pytest
from deltalake import write_deltalake
from pyiceberg.catalog.sql import SqlCatalog

from tests.batch.lake.delta_logs import delete_rows
from tests.batch.lake.support import delta_ids
from tests.batch.support import OUTPUTS, answers, table, write
from tidemill.batch import ScoreOptions, score

ROWS = 2500
GONE = [3, 1500]


def rows() -> pa.Table:
    """A bad row in each 256."""
    found = table(ROWS)
    bad = pc.equal(pc.bit_wise_and(found["id"], 255), 9)
    return found.set_column(1, "a", pc.if_else(bad, -1.0, found["a"]))


BAD = [i for i in range(ROWS) if i & 255 == 9]


def arrow(place: Path) -> str:
    return str(write(rows(), place / "in.arrow", group=700))


def feather(place: Path) -> str:
    pa_feather.write_feather(rows(), place / "in.feather", compression="zstd", chunksize=600)
    return str(place / "in.feather")


def delta(place: Path) -> str:
    for i in range(5):
        write_deltalake(place / "t", rows().slice(500 * i, 500), mode="append")
    return f"delta:{place}/t?version=4"


def delta_with_deletions(place: Path) -> str:
    write_deltalake(place / "t", rows())
    delete_rows(place / "t", GONE)
    return f"delta:{place}/t"


def iceberg(place: Path) -> str:
    catalog = SqlCatalog("default", uri=f"sqlite:///{place}/c.db", warehouse=f"file://{place}/w")
    catalog.create_namespace("ns")
    made = catalog.create_table("ns.t", schema=rows().schema)
    made.append(rows().slice(0, 1000))
    made.append(rows().slice(1000))
    catalog.close()
    return "iceberg:ns.t"


SOURCES: list[Callable[[Path], str]] = [arrow, feather, delta, delta_with_deletions, iceberg]


@pytest.mark.parametrize("make", SOURCES, ids=lambda f: f.__name__)
def test_every_source_loses_nothing_and_gives_nothing_twice(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, make: Callable[[Path], str]
) -> None:
    from pyiceberg import catalog

    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path}/c.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{tmp_path}/w")
    monkeypatch.setattr(catalog, "_ENV_CONFIG", type(catalog._ENV_CONFIG)())
    wanted = set(range(ROWS)) - set(GONE if make is delta_with_deletions else [])
    report = score(
        package, make(tmp_path), tmp_path / "out", ScoreOptions(pass_through=("id", "label"), chunk_rows=300)
    )
    assert (report.read, report.dead) == (len(wanted), len(BAD))
    with duckdb.connect() as reader:
        out = reader.execute(f"select id from '{tmp_path}/out/*.parquet'").fetchall()
        dead = reader.execute(f"select id from '{tmp_path}/out/_tidemill/dead/*.parquet'").fetchall()
    assert Counter(i for (i,) in out + dead) == Counter(wanted)
    assert sorted(i for (i,) in dead) == BAD
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("id")
    good = rows().filter(pc.is_in(rows()["id"], pa.array(found["id"].to_list())))
    assert {n: found[n].to_list() for n in OUTPUTS} == answers(good)
    assert found["label"].to_list() == good["label"].to_pylist()


def read_delta(place: Path) -> list[int] | None:
    return delta_ids(place / "t")


def read_spread(place: Path) -> list[int]:
    with duckdb.connect() as reader:
        found = reader.execute(f"select id from read_parquet('{place}/out/verdict=*/*.parquet')").fetchall()
    return [i for (i,) in found]


def read_arrow(place: Path) -> list[int]:
    return pl.read_ipc(place / "out.arrow")["id"].to_list()


SINKS: dict[str, Callable[[Path], list[int] | None]] = {
    "delta:{}/t": read_delta,
    "delta:{}/t?partition_by=verdict&file_size=10KB": read_delta,
    "parquet:{}/out?partition_by=verdict": read_spread,
    "{}/out.arrow": read_arrow,
}


@pytest.mark.parametrize("sink", SINKS)
def test_every_sink_holds_each_row_once(package: Path, tmp_path: Path, small_shards: None, sink: str) -> None:
    write(rows(), tmp_path / "in.parquet", group=500)
    options = ScoreOptions(run_id="r1", pass_through=("id",), chunk_rows=300)
    report = score(package, tmp_path / "in.parquet", sink.format(tmp_path), options)
    assert (report.shards, report.read, report.dead) == (3, ROWS, len(BAD))
    assert report.dead_letters is not None
    place = Path(report.dead_letters)
    letters = pl.read_parquet(place / "*.parquet" if place.is_dir() else place)["id"].to_list()
    assert letters == BAD
    found = SINKS[sink](tmp_path)
    assert found is not None
    assert Counter([*found, *letters]) == Counter(range(ROWS))
    again = score(package, tmp_path / "in.parquet", sink.format(tmp_path), options)
    assert (again.state, SINKS[sink](tmp_path)) == ("already_done", found)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
