"""A shard until it is sealed: tried again where it failed by no fault of the run's, and set aside where that is no use.

Of a shard that is set aside every row is a dead letter of code `quarantined`, or `unreadable` where only its place is
known: what was read is still what was written and what is dead.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Protocol

import pyarrow as pa

from tidemill.batch.dead import DeadLetters
from tidemill.batch.engines.base import Work
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.retry import UNREADABLE
from tidemill.batch.scoring import OutOfTime, Scored
from tidemill.batch.shard import Note, read_piece, score_shard
from tidemill.batch.sources import Piece
from tidemill.batch.watch import Stopped, Watch
from tidemill.batch.workers.transient import backoff
from tidemill.errors import Problem, RunError, SourceChanged, SourceError

__all__ = ["Attempts", "Timed"]

_BLANK_ROWS = 16_384


class Timed(Protocol):
    """Answers that end at a time.monotonic() moment: the future of a chunk raises OutOfTime then.

    `deaths` counts the processes that ended while they answered.
    """

    ahead: int

    @property
    def deaths(self) -> int: ...

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch, until: float = math.inf) -> Future[Scored]: ...


class Attempts:
    """Seals the shards of a run, within its limits of time and tries. Thread-safe."""

    def __init__(self, work: Work, answers: Timed, schema: pa.Schema) -> None:
        self._work = work
        self._answers = answers
        self._schema = schema
        seconds = work.options.run_timeout
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def seal(self, shard: Shard) -> Sealed:
        """Raises SourceError for a shard that cannot be read, and RunError for one that has no time left, unless it is
        to be set aside; RunError when the run has none; Stopped, GivenUp, and what else `score_shard` raises.
        """
        options, watch = self._work.options, self._work.watch
        tries = 0
        while True:
            tries += 1
            if tries > 1:
                watch.again(shard.index, tries)
            tally = _Tally(watch, self._work.noting(shard) if self._work.noting is not None else None)
            try:
                return self._score(shard, tally)
            except SourceChanged:
                raise
            except (SourceError, OutOfTime) as error:
                if time.monotonic() > self._end:
                    raise RunError(
                        f"not done within run_timeout, {options.run_timeout:g} s; what is sealed stays: resume the run"
                    ) from None
                tally.take_back()
                reason = self._reason(shard, error)
            if tries >= options.shard_tries:
                break
            if watch.stopping.wait(backoff(tries)):
                raise Stopped
        if options.on_poisoned_shard == "fail":
            raise reason
        return self._set_aside(shard, f"{reason} ({tries} tries)", watch)

    def _score(self, shard: Shard, tally: _Tally) -> Sealed:
        work, seconds = self._work, self._work.options.shard_timeout
        until = self._end if seconds is None else min(self._end, time.monotonic() + seconds)
        answers = _Until(self._answers, until)
        return score_shard(work.plan, shard, work.stage, answers, self._schema, note=tally.note, attempt=work.attempt)

    def _reason(self, shard: Shard, error: SourceError | OutOfTime) -> RunError:
        if isinstance(error, SourceError):
            return error
        files = [self._work.plan.files[p.file].name for p in shard.pieces]
        seconds = self._work.options.shard_timeout
        return RunError(f"shard {shard.index} ({files[0]}): not done within shard_timeout, {seconds:g} s")

    def _set_aside(self, shard: Shard, reason: str, watch: Watch) -> Sealed:
        work = self._work
        answers = _Aside(work.plan, self._schema, reason)
        return score_shard(
            work.plan,
            shard,
            work.stage,
            answers,
            self._schema,
            note=watch.note,
            attempt=work.attempt,
            read=answers.read,
            quarantined=reason,
        )


class _Tally:
    """What one try has told the watch, and whoever else hears of the shard."""

    def __init__(self, watch: Watch, also: Note | None) -> None:
        self._watch = watch
        self._also = also
        self._rows = 0
        self._errors: Counter[str] = Counter()

    def note(self, rows: int, errors: dict[str, int]) -> None:
        self._rows += rows
        self._errors.update(errors)
        self._watch.note(rows, errors)
        if self._also is not None:
            self._also(rows, errors)

    def take_back(self) -> None:
        self._watch.take_back(self._rows, self._errors)


class _Until:
    """Answers for one try."""

    def __init__(self, answers: Timed, until: float) -> None:
        self.ahead = answers.ahead
        self._answers, self._until = answers, until

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch) -> Future[Scored]:
        return self._answers.submit(name, first_row, batch, self._until)


class _Aside:
    """Reads a shard and answers none of its rows."""

    ahead = 0

    def __init__(self, plan: Plan, schema: pa.Schema, reason: str) -> None:
        self._letters = DeadLetters(plan.read_schema)
        self._nothing = pa.RecordBatch.from_pylist([], schema)
        self._reason = f"its shard was set aside: {reason}"[:1000]
        self._code = "quarantined"

    def read(self, plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of a piece, and nulls for those from where on it cannot be read. Raises SourceError where nobody
        knows how many those are.
        """
        row = piece.first_row
        self._code = "quarantined"
        try:
            for first_row, batch in read_piece(plan, piece):
                yield first_row, batch
                row = first_row + batch.num_rows
        except SourceChanged:
            raise
        except SourceError as error:
            if piece.rows is None:
                raise SourceError(f"{error}; how many rows follow is not known, so they cannot be set aside") from None
            schema = plan.read_schema
            self._code = UNREADABLE
            for first_row in range(row, piece.first_row + piece.rows, _BLANK_ROWS):
                rows = min(_BLANK_ROWS, piece.first_row + piece.rows - first_row)
                yield first_row, pa.RecordBatch.from_arrays([pa.nulls(rows, f.type) for f in schema], schema=schema)

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch) -> Future[Scored]:
        problems = [Problem(i, self._code, "", self._reason) for i in range(batch.num_rows)]
        dead, errors = self._letters.of(name, first_row, batch, problems)
        future: Future[Scored] = Future()
        future.set_result(Scored(batch.num_rows, self._nothing, dead, errors))
        return future
