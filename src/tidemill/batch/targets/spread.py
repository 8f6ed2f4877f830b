"""`parquet:DIR?partition_by=a,b&file_size=256MB`: rows by `key=value` directories and by size, in one rename."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.lake.options import spread_options
from tidemill.batch.ledger import Sealed
from tidemill.batch.manifest import RunManifest
from tidemill.batch.places import Mode, Place, SinkPlace
from tidemill.batch.plan import Plan
from tidemill.batch.sinks.partitions import PartitionWriter, cannot_partition
from tidemill.batch.stage import OUTPUT, LocalStage, Stage
from tidemill.batch.targets.base import Publication
from tidemill.batch.targets.files import FileTarget, interrupted, publish_directory, refused
from tidemill.batch.targets.order import InOrder
from tidemill.errors import ConfigError, RunError

__all__ = ["SpreadTarget"]


class SpreadTarget(FileTarget):
    """A directory of Parquet files that its columns and their size lay out."""

    def __init__(self, place: Place, mode: Mode, key: tuple[str, ...]) -> None:
        self._spread = spread_options(place)
        if not place.body.strip("/") or "://" in place.body:
            raise ConfigError(f"output {place.shown}: names no directory of this machine; expected parquet:DIR")
        super().__init__(replace(place, body=f"{place.body}/"), mode, key)
        query = place.shown.partition("?")[2]
        self._shown = f"parquet:{self.path}" + (f"?{query}" if query else "")

    def describe(self, run_id: str) -> SinkPlace:
        return msgspec.structs.replace(super().describe(run_id), uri=self._shown, passing=True)

    def check(self, schema: pa.Schema) -> None:
        reason = cannot_partition(schema, self._spread.keys)
        if reason is not None:
            raise ConfigError(f"output {self._shown}: {reason}")

    def publication(self, plan: Plan, stage: Stage, schema: pa.Schema) -> Publication:
        if not isinstance(stage, LocalStage):
            raise ConfigError(f"output {self._shown}: a directory needs a stage beside it, got {stage.where}")
        if interrupted(stage.path, self.path):
            return _Finished(self, stage.path)
        return _Spread(self, plan, stage, schema, self._spread.keys, self._spread.file_bytes)


class _Spread:
    """Parts are spread as they are sealed, in their order."""

    def __init__(
        self,
        target: SpreadTarget,
        plan: Plan,
        stage: LocalStage,
        schema: pa.Schema,
        keys: Sequence[str],
        file_bytes: int,
    ) -> None:
        self._target, self._stage = target, stage.path
        self._directory = stage.path / OUTPUT
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()
        self._writer = PartitionWriter(self._directory, schema, plan.stamp, keys, file_bytes)
        self._order = InOrder(plan, stage, self._writer.add)

    def add(self, marker: Sealed) -> None:
        self._order.add(marker)

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        rows = self._order.finish()
        try:
            files = self._writer.close()
            found = sum(pq.read_metadata(self._directory / f.name).num_rows for f in files)
            if not found == rows == manifest.written:
                raise RunError(f"{self._target.path}: {found} rows written of {manifest.written}; nothing is published")
            record = msgspec.structs.replace(manifest, parts=tuple(files))
            return publish_directory(self._directory, self._target, record, sealed, self._stage)
        except OSError as error:
            raise refused(manifest, error) from error

    def abandon(self) -> None:
        self._order.abandon()
        self._writer.abandon()


class _Finished:
    """All was in place but for the last rename."""

    def __init__(self, target: SpreadTarget, stage: Path) -> None:
        self._target, self._stage = target, stage

    def add(self, marker: Sealed) -> None:
        """It is there already."""

    def commit(self, manifest: RunManifest, sealed: Sequence[Sealed]) -> RunManifest:
        try:
            return publish_directory(self._stage / OUTPUT, self._target, manifest, sealed, self._stage)
        except OSError as error:
            raise refused(manifest, error) from error

    def abandon(self) -> None:
        """Nothing is held."""
