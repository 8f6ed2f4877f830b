"""A chunk through the path, and who answers chunks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from tidemill.batch.dead import DeadLetters
from tidemill.batch.plan import Plan
from tidemill.errors import InputError, Problem, SourceError
from tidemill.prediction.columns import output_arrays, output_schema
from tidemill.prediction.live import Live

__all__ = ["Answers", "OutOfTime", "Scored", "Scorer", "Threads", "misread"]

# Chunks that are read but not yet written, beside the one in hand: enough to keep a pool busy, no more.
AHEAD = 2


class OutOfTime(Exception):
    """The shard or the run that a chunk is of has no time left for it."""


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
        self.answer_schema = output_schema(self._outputs)

    def score(self, name: str, first_row: int, batch: pa.RecordBatch) -> Scored:
        """Answer each row, or set it aside with its reason. Raises SourceError where the chunk is not a table of it."""
        try:
            rows = self._live.intake.from_arrow(batch)
        except InputError as error:
            raise misread(name, first_row, error) from None
        except (ValueError, pa.ArrowException) as error:  # text that is not UTF-8, whatever the file says
            raise SourceError(f"{name}: rows from {first_row}: cannot be understood: {error}") from error
        result = self._live.predict(rows)
        outputs = result.outputs.take(result.answered) if result.problems else result.outputs
        return self.ended(name, first_row, batch, output_arrays(self._outputs, outputs), result.problems)

    def ended(
        self, name: str, first_row: int, batch: pa.RecordBatch, outputs: Sequence[pa.Array], problems: Sequence[Problem]
    ) -> Scored:
        """The end of an answered chunk: `outputs` are columns of `answer_schema` for its rows that have no problem."""
        good, dead = batch, None
        errors: dict[str, int] = {}
        if problems:
            dead, errors = self._dead.of(name, first_row, batch, problems)
            answered = np.ones(batch.num_rows, np.bool_)
            answered[[p.row for p in problems]] = False
            good = batch.filter(pa.array(answered))
        columns = [*(good.column(n) for n in self._copied), *outputs]
        return Scored(batch.num_rows, pa.RecordBatch.from_arrays(columns, schema=self.schema), dead, errors)


class Threads:
    """Answers in a pool of threads, for runtimes that release the interpreter's lock."""

    ahead = AHEAD
    deaths = 0

    def __init__(self, scorer: Scorer, pool: Executor) -> None:
        self._score = scorer.score
        self._pool = pool

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch, until: float = math.inf) -> Future[Scored]:
        """The future raises OutOfTime for a chunk that is not begun until then, a time.monotonic() moment."""

        def score() -> Scored:
            if time.monotonic() > until:
                raise OutOfTime
            return self._score(name, first_row, batch)

        return self._pool.submit(score)


def misread(name: str, first_row: int, error: InputError) -> SourceError:
    """The path's own words, with the row of the chunk told as the row of the file."""
    text = str(error)
    if error.row is None:
        return SourceError(f"{name}: rows from {first_row}: {text}")
    return SourceError(f"{name}: " + text.replace(f"row {error.row}", f"row {first_row + error.row}", 1))
