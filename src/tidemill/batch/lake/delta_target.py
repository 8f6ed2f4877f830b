"""`delta:PATH` as an output: data files are written while rows are scored, and one commit of the log publishes them.

The commit carries the run id as application id, and as its version a number that only this execution has: the table
itself tells whether a run was committed, and by which of its executions.
"""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import remote
from tidemill.batch.databases.names import quoted
from tidemill.batch.lake.columns import delta_schema, fitted
from tidemill.batch.lake.keys import cannot_key, check_keys
from tidemill.batch.lake.options import spread_options
from tidemill.batch.lake.records import Records
from tidemill.batch.lake.tables import (
    delta_errors,
    location,
    open_delta,
    overtaken,
    storage_options,
    unwritable,
)
from tidemill.batch.ledger import PartFile, Sealed, disk_refused
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import DIRECTORY, Mode, Place, SinkPlace, partition_of
from tidemill.batch.plan import Plan
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.sinks.partitions import PartitionWriter, cannot_partition
from tidemill.batch.stage import Stage
from tidemill.batch.targets.base import Guarantee, Publication, run_stage
from tidemill.batch.targets.order import InOrder
from tidemill.errors import ConfigError, RunError, SinkError

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from deltalake.transaction import AddAction

__all__ = ["DeltaTarget"]

# Commits that others were quicker with, before the run gives up.
_TRIES = 8


class DeltaTarget:
    """A Delta table: readers see the version before the run or the one after it."""

    guarantee: Guarantee = "atomic"

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        self._spread = spread_options(place)
        self._mode: Mode = mode
        self._key = key
        self._uri = location(place)
        query = place.shown.partition("?")[2]
        self._shown = f"delta:{self._uri}" + (f"?{query}" if query else "")
        self._records = Records(f"{self._uri}/{DIRECTORY}")

    def describe(self, run_id: str) -> SinkPlace:
        return SinkPlace(
            uri=self._shown,
            mode=self._mode,
            key=self._key,
            format="parquet",
            dead=f"{self._records.where}/{run_id}.dead.parquet",
            manifest=f"{self._records.where}/{run_id}.manifest.json",
        )

    def stage(self, run_id: str) -> str:
        if remote(self._uri):
            return run_stage(run_id)
        path = Path(self._uri)
        return str(path.parent / f".{path.name}.tidemill-{run_id}")

    def committed(self, run_id: str) -> RunManifest | None:
        table = self._open()
        execution = table.transaction_version(run_id) if table is not None else None
        return None if execution is None else self._records.settled(run_id, execution)

    def allow(self) -> None:
        table = self._open()
        if table is None:
            self._check_free()
        elif self._mode == "create":
            raise RunError(
                f"{self._shown}: is a table; choose another, or pass --overwrite, or --mode append or upsert"
            )
        else:
            reason = unwritable(table, self._mode) if self._mode != "upsert" else None
            if reason is not None:
                raise ConfigError(f"output {self._shown}: {reason}; Tidemill does not write such tables")
        if remote(self._uri):
            self._records.check_conditions()

    def check(self, schema: pa.Schema) -> None:
        self._layout(schema, self._open())

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        table = self._open()
        written, keys = self._layout(schema, table)
        if self._mode == "upsert" and table is not None:
            return _Merge(self._uri, self._records, plan, stage, written)
        mode: Mode = "append" if self._mode == "upsert" else self._mode
        return _Files(self._uri, self._records, plan, stage, written, keys, self._spread.file_bytes, mode)

    def _open(self) -> DeltaTable | None:
        return open_delta(self._uri, self._shown, SinkError)

    def _check_free(self) -> None:
        """A directory that is no table may hold what an interrupted run left, and nothing else."""
        path = Path(self._uri)
        if remote(self._uri) or not path.exists():
            return
        ours = path.is_dir() and (path / DIRECTORY).is_dir() and not (path / DIRECTORY / "manifest.json").exists()
        if not ours and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path}: is there, and is not a Delta table; it is left alone; choose another output")

    def _layout(self, schema: pa.Schema, table: DeltaTable | None) -> tuple[pa.Schema, tuple[str, ...]]:
        """The columns as they are written, and those that name directories. Raises ConfigError for what cannot be."""
        written, keys = delta_schema(schema, self._shown), self._spread.keys
        lost = [k for k in self._key if k not in schema.names]
        if lost:
            raise ConfigError(f"output {self._shown}: key column {lost[0]!r} is not in the output; pass it through")
        unfit = cannot_key(schema, self._key)
        if unfit is not None:
            raise ConfigError(f"output {self._shown}: {unfit}")
        if table is not None:
            theirs = tuple(table.metadata().partition_columns)
            if "partition_by" in self._spread.given and keys != theirs:
                raise ConfigError(
                    f"output {self._shown}: the table is partitioned by {', '.join(theirs) or 'nothing'}; leave "
                    "partition_by out, or write another table"
                )
            keys = theirs
            if self._mode != "overwrite":
                written = fitted(written, pa.schema(table.schema().to_arrow()), self._shown)
        reason = cannot_partition(written, keys)
        if reason is not None:
            raise ConfigError(f"output {self._shown}: {reason}")
        return written, keys


class _Commit(ABC):
    """One execution's commit, settled by reading the table back."""

    def __init__(self, uri: str, records: Records, plan: Plan) -> None:
        self._uri, self._records, self._plan = uri, records, plan
        self._shown = plan.job.sink.uri
        self._run_id = plan.run_id
        self._execution = secrets.randbits(62)

    def _settle(self, record: RunManifest) -> RunManifest:
        """Publish, unless another execution of this run has.

        The library would repeat a commit whose answer was lost as one more version. Here each try is one, made from a
        state of the table in which the run was looked for and not found, and settled by looking again.
        """
        self._records.keep(self._execution, record)
        for left in reversed(range(_TRIES)):
            table = self._open()
            found = self._found(table)
            if found is not None:
                break
            try:
                with delta_errors(self._shown, SinkError):
                    self._publish(table, self._properties())
            except SinkError as error:
                found = self._found(self._open())
                if found is None and not (left and overtaken(error)):
                    raise SinkError(f"{error}; nothing is published; resume the run") from error
            else:
                found = self._execution
            if found is not None:
                break
        assert found is not None  # noqa: S101 - the last try ended otherwise
        if found != self._execution:
            self._records.drop(self._run_id, self._execution)
        return self._records.settled(self._run_id, found)

    def _open(self) -> DeltaTable | None:
        return open_delta(self._uri, self._shown, SinkError)

    def _found(self, table: DeltaTable | None) -> int | None:
        """Which execution of this run the table holds."""
        return table.transaction_version(self._run_id) if table is not None else None

    def _properties(self) -> CommitProperties:
        from deltalake import CommitProperties, Transaction

        return CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(self._run_id, self._execution)],
            custom_metadata={"tidemill": json.loads(self._plan.stamp)},
        )

    @abstractmethod
    def _publish(self, table: DeltaTable | None, properties: CommitProperties) -> None: ...


class _Files(_Commit):
    """New data files, spread over the table's directories as parts are sealed, and added by the commit."""

    def __init__(
        self,
        uri: str,
        records: Records,
        plan: Plan,
        stage: Stage,
        schema: pa.Schema,
        keys: Sequence[str],
        file_bytes: int,
        mode: Mode,
    ) -> None:
        super().__init__(uri, records, plan)
        self._schema, self._keys, self._mode, self._stage = schema, list(keys), mode, stage
        self._remote = remote(uri)
        self._directory = stage.work() / "files" if self._remote else Path(uri)
        if not self._remote:
            self._records.begin()
        suffix = f"-{self._execution:016x}"
        self._writer = PartitionWriter(self._directory, schema, plan.stamp, keys, file_bytes, suffix)
        self._order = InOrder(plan, stage, self._writer.add)
        self._written: list[PartFile] = []
        # Whether the files are, or after a commit without an answer may be, part of the table.
        self._needed = False

    def add(self, marker: Sealed) -> None:
        self._order.add(marker)

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        rows = self._order.finish()
        key = self._plan.job.sink.key
        if key:
            check_keys(_rows(self._stage, sealed, self._schema), key)
        try:
            self._written = self._writer.close()
        except OSError as error:
            raise disk_refused(self._shown, error) from error
        found = sum(pq.read_metadata(self._directory / f.name).num_rows for f in self._written)
        if not found == rows == manifest.written:
            raise RunError(f"{self._shown}: {found} rows written of {manifest.written}; nothing is published")
        record = msgspec.structs.replace(manifest, parts=tuple(self._written))
        settled = self._settle(record)
        self._needed = self._needed and settled == record
        return settled

    def abandon(self) -> None:
        self._order.abandon()
        self._writer.abandon()
        if self._needed:
            return
        for name in self._writer.names:
            with suppress(OSError):
                (self._directory / name).unlink()

    def _publish(self, table: DeltaTable | None, properties: CommitProperties) -> None:
        from deltalake.schema import Schema
        from deltalake.transaction import create_table_with_add_actions

        if self._remote:
            self._records.send(self._directory, self._uri, [f.name for f in self._written])
        adds = [self._action(f) for f in self._written]
        if table is None:
            self._needed = True
            create_table_with_add_actions(
                self._uri,
                Schema.from_arrow(self._schema),
                adds,
                mode="error",
                partition_by=self._keys,
                storage_options=storage_options(self._uri),
                commit_properties=properties,
            )
        elif self._mode == "create":
            raise RunError(
                f"{self._shown}: appeared while the run was going; move it away, or pass --overwrite, and resume"
            )
        else:
            schema = self._schema if self._mode == "overwrite" else table.schema()
            self._needed = True
            table.create_write_transaction([*adds], self._mode, schema, self._keys, commit_properties=properties)

    def _action(self, file: PartFile) -> AddAction:
        from deltalake.transaction import AddAction

        return AddAction(
            path=file.name,
            size=file.bytes,
            partition_values=partition_of(file.name),
            modification_time=time.time_ns() // 1_000_000,
            data_change=True,
            stats=json.dumps({"numRecords": file.rows}),
        )


class _Merge(_Commit):
    """Rows replace those of the same key and are added where there are none, by the library's MERGE."""

    def __init__(self, uri: str, records: Records, plan: Plan, stage: Stage, schema: pa.Schema) -> None:
        super().__init__(uri, records, plan)
        self._stage, self._schema = stage, schema
        self._sealed: list[Sealed] = []

    def add(self, marker: Sealed) -> None:
        """They are taken over all at once."""

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        self._sealed = list(sealed)
        check_keys(self._batches(), self._plan.job.sink.key)
        return self._settle(manifest)

    def abandon(self) -> None:
        """Nothing is held."""

    def _publish(self, table: DeltaTable | None, properties: CommitProperties) -> None:
        if table is None:
            raise RunError(f"{self._shown}: the table was removed while the run was going")
        key = self._plan.job.sink.key
        same = " AND ".join(f"target.{quoted(k)} = source.{quoted(k)}" for k in key)
        source = pa.RecordBatchReader.from_batches(self._schema, self._batches())
        merger = table.merge(source, same, source_alias="source", target_alias="target", commit_properties=properties)
        merger.when_matched_update_all().when_not_matched_insert_all().execute()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        return _rows(self._stage, self._sealed, self._schema)


def _rows(stage: Stage, sealed: Sequence[Sealed], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of the parts in the table's types."""
    for marker in sealed:
        for batch in read_part(stage.fetch("parts", marker.part.name), 32_768):
            yield batch.cast(schema) if batch.schema != schema else batch
