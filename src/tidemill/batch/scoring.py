"""A chunk through the path, and who answers chunks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from tidemill.batch.dead import DeadLetters
from tidemill.batch.plan import Plan
from tidemill.errors import InputError, SourceError
from tidemill.prediction.columns import output_arrays
from tidemill.prediction.live import Live

__all__ = ["Answers", "Inline", "Scored", "Scorer", "Threads"]

# Chunks that are read but not yet written, beside the one in hand: enough to keep a pool busy, no more.
AHEAD = 2


@dataclass(frozen=True, slots=True)
class Scored:
    """One chunk's end: rows for the output, rows for the dead letters, and the dead by code."""

    read: int
    output: pa.RecordBatch
    dead: pa.RecordBatch | None
    errors: dict[str, int]


class Answers(Protocol):
    """Answers the chunks of shards. A shard may have `ahead` of them under way beside the one in hand."""

    ahead: int

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch) -> Future[Scored]:
        """Score rows of the file `name` from `first_row` on."""
        ...


class Scorer:
    """Scores one chunk; safe to call from several threads."""

    def __init__(self, live: Live, plan: Plan) -> None:
        self._live = live
        self._outputs = plan.outputs(live)
        self._copied = plan.copied
        self._dead = DeadLetters(plan.read_schema)
        self.schema = plan.output_schema(live)

    def score(self, name: str, first_row: int, batch: pa.RecordBatch) -> Scored:
        """Answer each row, or set it aside with its reason. Raises SourceError where the chunk is not a table of it."""
        try:
            rows = self._live.intake.from_arrow(batch)
        except InputError as error:
            raise _at(name, first_row, error) from None
        except (ValueError, pa.ArrowException) as error:  # text that is not UTF-8, whatever the file says
            raise SourceError(f"{name}: rows from {first_row}: cannot be understood: {error}") from error
        result = self._live.predict(rows)
        outputs, dead = result.outputs, None
        errors: dict[str, int] = {}
        good = batch
        if result.problems:
            dead, errors = self._dead.of(name, first_row, batch, result.problems)
            answered = result.answered
            good, outputs = batch.filter(pa.array(answered)), outputs.take(answered)
        columns = [good.column(n) for n in self._copied] + output_arrays(self._outputs, outputs)
        return Scored(batch.num_rows, pa.RecordBatch.from_arrays(columns, schema=self.schema), dead, errors)


class Inline:
    """Answers in the thread that reads and writes the shard."""

    ahead = 0

    def __init__(self, scorer: Scorer) -> None:
        self._score: Callable[[str, int, pa.RecordBatch], Scored] = scorer.score

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch) -> Future[Scored]:
        future: Future[Scored] = Future()
        future.set_result(self._score(name, first_row, batch))
        return future


class Threads:
    """Answers in a pool of threads, for runtimes that release the interpreter's lock."""

    ahead = AHEAD

    def __init__(self, scorer: Scorer, pool: Executor) -> None:
        self._score, self._pool = scorer.score, pool

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch) -> Future[Scored]:
        return self._pool.submit(self._score, name, first_row, batch)


def _at(name: str, first_row: int, error: InputError) -> SourceError:
    """The path's own words, with the row of the chunk told as the row of the file."""
    text = str(error)
    if error.row is None:
        return SourceError(f"{name}: rows from {first_row}: {text}")
    return SourceError(f"{name}: " + text.replace(f"row {error.row}", f"row {first_row + error.row}", 1))
