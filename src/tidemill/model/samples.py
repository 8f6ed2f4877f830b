"""Samples: real input rows with the outputs that the package gave for them, kept as one Arrow IPC file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from tidemill.errors import PackageError
from tidemill.model.package import Package

__all__ = ["EXPECTED", "SAMPLES_FILE", "read_samples", "write_samples"]

SAMPLES_FILE = "samples.arrow"
EXPECTED = "expected."


def write_samples(path: Path, inputs: pa.RecordBatch, outputs: pa.RecordBatch) -> None:
    """Write input rows and expected outputs (columns prefixed `expected.`) of equal length."""
    names = list(inputs.schema.names) + [EXPECTED + n for n in outputs.schema.names]
    batch = pa.RecordBatch.from_arrays([*inputs.columns, *outputs.columns], names=names)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_samples(package: Package) -> tuple[pa.RecordBatch, pa.RecordBatch] | None:
    """The sample rows and their expected outputs, or None for a package without samples."""
    name = package.manifest.samples
    if name is None:
        return None
    try:
        with pa.memory_map(str(package.path(name))) as source:
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise PackageError(f"{package.name}/{name}: not an Arrow IPC file: {error}") from None
    batch = table.combine_chunks().to_batches()[0]
    inputs = batch.select([n for n in batch.schema.names if not n.startswith(EXPECTED)])
    expected = batch.select([n for n in batch.schema.names if n.startswith(EXPECTED)])
    return inputs, expected.rename_columns([n.removeprefix(EXPECTED) for n in expected.schema.names])
