"""Tables of other engines through the path: every row comes back, with its answers or with the reason it has none."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from tidemill.batch.calls import CALL_BYTES, CALL_ROWS
from tidemill.batch.columns import model_columns
from tidemill.batch.options import ScoreOptions
from tidemill.batch.workers.transient import again
from tidemill.errors import ConfigError, InputError, listing
from tidemill.model.package import open_package
from tidemill.prediction.columns import output_arrays, output_schema, where_answered
from tidemill.prediction.live import Live

__all__ = ["WHY", "FrameScorer", "Layout", "lay_out", "open_for_frames"]

WHY = pa.schema([(name, pa.string()) for name in ("_status", "_code", "_field", "_message")])


def open_for_frames(package: str | os.PathLike[str]) -> Live:
    """A package to score frames with. Raises PackageError and its kinds where it cannot be loaded, ConfigError where
    its answers would depend on how an engine cuts its batches.
    """
    opened = open_package(package)
    if not opened.manifest.rows_independent:
        raise ConfigError(
            f"{opened.name}: its rows depend on each other, and engines cut batches as they like; score files with "
            "`tidemill score`, whose cuts are planned"
        )
    # The same calls however an engine cuts its batches.
    rows = CALL_BYTES // sum(i.row_bytes for i in opened.manifest.inputs)
    return Live.open(opened, call_rows=max(1, min(CALL_ROWS, rows)))


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of columns: those that the path reads, those that are passed through, and the outputs that are written."""

    reads: tuple[str, ...]
    copied: tuple[str, ...]
    outputs: tuple[str, ...]


def lay_out(live: Live, table: pa.Schema, pass_through: Sequence[str], select: Sequence[str]) -> Layout:
    """What scoring a table of these columns reads and gives; "*" in `pass_through` is every column.

    Raises ConfigError for names that do not fit, InputError for a column that is missing or that the path cannot
    read, whatever its cells are.
    """
    for wish, names in (("pass_through", pass_through), ("select", select)):
        if isinstance(names, str):
            raise ConfigError(f"{wish} is the text {names!r}, expected a list of names")
    inputs, declared = live.package.manifest.inputs, [o.name for o in live.package.manifest.outputs]
    reads = model_columns(inputs, table.names)
    absent = [n for n in pass_through if n != "*" and n not in table.names]
    if absent:
        raise ConfigError(f"pass_through: the table has no column {absent[0]!r}; it has {listing(table.names)}")
    unknown = [n for n in select if n not in declared]
    if unknown:
        raise ConfigError(f"select: the model has no output {unknown[0]!r}; it has {listing(declared)}")
    copied = table.names if "*" in pass_through else list(dict.fromkeys(pass_through))
    outputs = [n for n in declared if not select or n in select]
    for name in copied:
        if name in outputs:
            raise ConfigError(
                f"column {name!r} is both passed through and a model output; leave it out of pass_through, rename it, "
                "or write other outputs with select"
            )
        if name in WHY.names:
            raise ConfigError(f"column {name!r} has a name that the reasons need; rename it")
        if copied.count(name) > 1:
            raise ConfigError(f"the table has {copied.count(name)} columns named {name!r}; keep one")
    # The path itself says what is wrong with a column, before there is a row.
    live.intake.from_arrow(pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in table], schema=table))
    return Layout(tuple(reads), tuple(copied), tuple(outputs))


class FrameScorer:
    """Scores batches that have the columns of a layout; calls that raise Transient are made again, after a while.
    Thread-safe.
    """

    def __init__(self, live: Live, layout: Layout) -> None:
        self._live = live
        # An engine that has to end a task ends its process: nobody waits for the pause.
        live.again = again(ScoreOptions().transient_tries, threading.Event().wait)
        self._copied = layout.copied
        self._outputs = [o for o in live.package.manifest.outputs if o.name in layout.outputs]
        self.answers = output_schema(self._outputs)
        """The outputs that are written, and their Arrow types."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """All rows, in their order: the columns passed through, the outputs (null where a row has no answer), `_status`
        (ok, rejected, failed), and `_code`, `_field` and `_message` of its first problem (null where it has none).

        Raises InputError for a batch that cannot be read as rows of the signature.
        """
        try:
            rows = self._live.intake.from_arrow(batch)
        except (ValueError, pa.ArrowException) as error:  # text that is not UTF-8, whatever the table says
            raise InputError(f"a batch of {batch.num_rows} rows cannot be understood: {error}") from error
        result = self._live.predict(rows)
        n = batch.num_rows
        answers = output_arrays(self._outputs, result.outputs)
        if not result.problems:
            why = [pa.repeat("ok", n), *(pa.nulls(n, pa.string()) for _ in WHY.names[1:])]
        else:
            answers = where_answered(answers, result.answered)
            first = {p.row: p for p in reversed(result.problems)}
            told = [first.get(i) for i in range(n)]
            why = [pa.array(result.statuses(), pa.string())]
            why += [
                pa.array([None if p is None else getattr(p, name) for p in told], pa.string())
                for name in ("code", "field", "message")
            ]
        columns = [*(batch.column(name) for name in self._copied), *answers, *why]
        fields = [*(batch.schema.field(name) for name in self._copied), *self.answers, *WHY]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
