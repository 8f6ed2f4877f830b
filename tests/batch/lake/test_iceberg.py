"""An Iceberg table at a snapshot, in a catalog of SQLite that PyIceberg's configuration names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DoubleType

from tests.batch.lake.iceberg_deletes import delete_positions
from tests.batch.lake.support import interrupt
from tests.batch.support import OUTPUTS, answers, table
from tidemill.batch import ScoreOptions, score
from tidemill.batch.options import RunReport
from tidemill.errors import ConfigError, SourceError, TidemillError


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    """The catalog `lab`, found through the environment."""
    monkeypatch.setenv("PYICEBERG_CATALOG__LAB__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAB__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", type(_env())())
    found = load_catalog("lab")
    found.create_namespace("ns")
    yield found
    found.close()


def _env() -> Any:
    from pyiceberg import catalog

    return catalog._ENV_CONFIG


def plan(report: RunReport) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(report.manifest).read_bytes())["plan"]
    return found


def scored(package: Path, source: str, out: Path, **options: Any) -> tuple[RunReport, pl.DataFrame]:
    report = score(package, source, out, ScoreOptions(pass_through=("id",), **options))
    return report, pl.read_parquet(out / "*.parquet").sort("id")


def same(found: pl.DataFrame, rows: pa.Table) -> bool:
    columns = {n: found[n].to_list() for n in ("id", *OUTPUTS)}
    wanted = rows.sort_by("id")
    return bool(columns == {"id": wanted["id"].to_pylist()} | answers(wanted))


def filled(catalog: Catalog, *parts: pa.Table) -> list[str]:
    """The table `ns.t` with these appended, and the snapshot ids."""
    made = catalog.create_table("ns.t", schema=parts[0].schema)
    for part in parts:
        made.append(part)
    return [str(s.snapshot_id) for s in made.snapshots()]


def test_a_snapshot_is_read_in_place(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    first, last = filled(catalog, table(300), table(200, start=300))
    report, found = scored(package, f"iceberg:ns.t?catalog=lab&snapshot={first}", tmp_path / "first")
    assert same(found, table(300))
    origin = plan(report)["origin"]
    assert (origin["kind"], origin["read"]["snapshot_id"]) == ("iceberg", first)
    report, found = scored(package, "iceberg:ns.t?catalog=lab", tmp_path / "last")
    assert same(found, table(500))
    assert plan(report)["origin"]["read"]["snapshot_id"] == last
    assert plan(report)["root"] == f"{tmp_path}/warehouse/ns/t"
    assert report.files == 2


def test_the_usual_catalog_needs_no_name(
    package: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__WAREHOUSE", f"file://{tmp_path}/warehouse")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", type(_env())())
    usual = load_catalog()
    usual.create_namespace("ns")
    filled(usual, table(30))
    usual.close()
    _, found = scored(package, "iceberg:ns.t", tmp_path / "out")
    assert same(found, table(30))


def test_rows_deleted_since_are_not_read(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    [before] = filled(catalog, table(300))
    catalog.load_table("ns.t").delete("id >= 200")
    _, found = scored(package, "iceberg:ns.t?catalog=lab", tmp_path / "new")
    assert same(found, table(200))
    _, found = scored(package, f"iceberg:ns.t?catalog=lab&snapshot={before}", tmp_path / "old")
    assert same(found, table(300))


def test_rows_of_a_delete_file_are_not_read(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    [before] = filled(catalog, table(300))
    delete_positions(catalog.load_table("ns.t"), tmp_path, [0, 7, 299])
    report, found = scored(package, "iceberg:ns.t?catalog=lab", tmp_path / "new")
    assert report.read == 297
    assert found["id"].to_list() == [i for i in range(300) if i not in (0, 7, 299)]
    assert plan(report)["root"] != f"{tmp_path}/warehouse/ns/t"
    _, found = scored(package, f"iceberg:ns.t?catalog=lab&snapshot={before}", tmp_path / "old")
    assert same(found, table(300))


def test_partitioned_tables(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    rows = table(60).append_column("region", pa.array([("eu/ä %", "us", None)[i % 3] for i in range(60)]))
    made = catalog.create_table("ns.t", schema=rows.schema)
    with made.update_spec() as spec:
        spec.add_field("region", IdentityTransform(), "region")
    made.append(rows)
    score(package, "iceberg:ns.t?catalog=lab", tmp_path / "out", ScoreOptions(pass_through=("id", "region")))
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").sort("id")
    assert same(found, rows)
    assert found["region"].to_list() == rows["region"].to_pylist()


def test_changed_columns_are_read_as_the_snapshot_has_them(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    rows = table(100)
    [before] = filled(catalog, rows.rename_columns({"c": "old"}))
    made = catalog.load_table("ns.t")
    with made.update_schema() as change:
        change.rename_column("old", "c")
        change.update_column("a", DoubleType())
        change.add_column("later", DoubleType())
    made.append(table(100, start=100).set_column(1, "a", pc.cast(table(100, start=100)["a"], pa.float64())))
    report, found = scored(package, "iceberg:ns.t?catalog=lab", tmp_path / "out")
    assert same(found, table(200))
    assert plan(report)["root"] != f"{tmp_path}/warehouse/ns/t"
    with pytest.raises(SourceError, match="column 'c' is missing; there are id, a, b, old, label"):
        score(package, f"iceberg:ns.t?catalog=lab&snapshot={before}", tmp_path / "before")


def test_a_table_without_rows(package: Path, catalog: Catalog, tmp_path: Path) -> None:
    catalog.create_table("ns.t", schema=table(1).schema)
    report = score(package, "iceberg:ns.t?catalog=lab", tmp_path / "out")
    assert (report.state, report.read) == ("done", 0)


@pytest.mark.parametrize("copied", [False, True])
def test_a_resume_reads_the_snapshot_it_began_with(
    package: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, copied: bool
) -> None:
    filled(catalog, table(1000), table(1000, start=1000))
    made = catalog.load_table("ns.t")
    if copied:
        with made.update_schema() as change:
            change.add_column("later", DoubleType())
    interrupt(package, "iceberg:ns.t?catalog=lab", tmp_path / "out", monkeypatch, 0 if copied else 1)
    made.refresh().append(table(300, start=2000))
    report, found = scored(package, "iceberg:ns.t?catalog=lab", tmp_path / "out", run_id="r1")
    assert (report.read, report.resumed_shards) == (2000, 0 if copied else 1)
    assert same(found, table(2000))


@pytest.mark.parametrize(
    ("uri", "error", "told"),
    [
        ("iceberg:ns.other?catalog=lab", SourceError, "there is no such table in the catalog"),
        ("iceberg:no.t?catalog=lab", SourceError, "there is no such table in the catalog"),
        ("iceberg:ns.t?catalog=elsewhere", SourceError, "PYICEBERG_CATALOG__ELSEWHERE__URI"),
        ("iceberg:ns.t?catalog=lab&snapshot=5", SourceError, "there is no snapshot 5; it never was, or has expired"),
        ("iceberg:ns.t?catalog=lab&snapshot=x", ConfigError, "snapshot: expected a snapshot's id, got 'x'"),
        ("iceberg:t?catalog=lab", ConfigError, "expected iceberg:NAMESPACE.TABLE, got 't'"),
        ("iceberg:ns.t?version=1", ConfigError, "unknown option version; expected snapshot, catalog"),
    ],
)
def test_what_cannot_be_understood(
    package: Path, catalog: Catalog, tmp_path: Path, uri: str, error: type[TidemillError], told: str
) -> None:
    filled(catalog, table(10))
    with pytest.raises(error, match=told):
        score(package, uri, tmp_path / "out")
