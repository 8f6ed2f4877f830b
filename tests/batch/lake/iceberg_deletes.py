"""Iceberg snapshots with delete files, which PyIceberg reads but does not write, by hand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import AddSnapshotUpdate, SetSnapshotRefUpdate
from pyiceberg.typedef import Record

# Reserved field ids of the specification.
_FILE_PATH, _POS = 2147483546, 2147483545


class _Deletes(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def delete_positions(table: Table, directory: Path, positions: Sequence[int]) -> None:
    """One more snapshot, in which these rows of the only data file are deleted by position."""
    [task] = table.scan().plan_files()
    before = table.current_snapshot()
    assert before is not None
    schema = pa.schema(
        [
            pa.field("file_path", pa.string(), nullable=False, metadata={"PARQUET:field_id": str(_FILE_PATH)}),
            pa.field("pos", pa.int64(), nullable=False, metadata={"PARQUET:field_id": str(_POS)}),
        ]
    )
    rows = pa.table([[task.file.file_path] * len(positions), list(positions)], schema=schema)
    pq.write_table(rows, directory / "deletes.parquet")
    number, sequence = before.snapshot_id + 1, table.metadata.last_sequence_number + 1
    file = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"file://{directory}/deletes.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=len(positions),
        file_size_in_bytes=(directory / "deletes.parquet").stat().st_size,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        lower_bounds={},
        upper_bounds={},
        key_metadata=None,
        split_offsets=None,
        equality_ids=None,
        sort_order_id=None,
    )
    output = table.io.new_output(f"file://{directory}/deletes.avro")
    with _Deletes(table.spec(), table.schema(), output, number, "deflate") as writer:
        writer.add_entry(
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=number, sequence_number=None, data_file=file
            )
        )
    manifests = [writer.to_manifest_file(), *before.manifests(table.io)]
    listed = f"file://{directory}/snapshot.avro"
    with write_manifest_list(
        2, table.io.new_output(listed), number, before.snapshot_id, sequence, "deflate"
    ) as manifest_list:
        manifest_list.add_manifests(manifests)
    snapshot = Snapshot(
        snapshot_id=number,
        parent_snapshot_id=before.snapshot_id,
        sequence_number=sequence,
        timestamp_ms=time.time_ns() // 1_000_000,
        manifest_list=listed,
        summary=Summary(Operation.DELETE),
        schema_id=table.schema().schema_id,
    )
    changes = (
        AddSnapshotUpdate(snapshot=snapshot),
        SetSnapshotRefUpdate(
            ref_name="main",
            type="branch",
            snapshot_id=number,
            max_ref_age_ms=None,
            max_snapshot_age_ms=None,
            min_snapshots_to_keep=None,
        ),
    )
    table.catalog.commit_table(table, (), changes)
