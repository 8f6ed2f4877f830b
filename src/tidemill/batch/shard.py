"""score_shard: the one function every engine calls. Source → chunks → the path → part and dead letters, sealed."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.dead import DeadLetters, dead_schema
from tidemill.batch.ledger import PartFile, PieceCount, Sealed, part_file, sync_directory, write_durably
from tidemill.batch.plan import Plan, PlannedFile, Shard
from tidemill.batch.sinks import PartWriter, sink
from tidemill.batch.snapshot import take_snapshot
from tidemill.batch.sources import Piece, source
from tidemill.errors import InputError, RunError, SinkError, SourceError
from tidemill.prediction.columns import output_arrays
from tidemill.prediction.live import Live

__all__ = ["Note", "read_piece", "score_shard"]

# Called with each chunk's rows and its dead rows by code. What it raises ends the shard, which stays unsealed.
Note = Callable[[int, dict[str, int]], None]

# Chunks that are read but not yet written, beside the one in hand: enough to keep a pool busy, no more.
_AHEAD = 2


def score_shard(
    live: Live, plan: Plan, shard: Shard, stage: Path, *, note: Note | None = None, pool: Executor | None = None
) -> Sealed:
    """Score one shard and seal it in the stage: durable part and dead letters, then the marker.

    `pool` answers chunks of this shard side by side; order is kept, and at most three chunks are held. Raises
    SourceError for input that cannot be read as planned, SinkError for a part that cannot be written; the shard then
    stays as it was, to be scored again.
    """
    chunk = _Chunk(live, plan)
    parts = _Parts(plan, chunk.schema, shard, stage)
    counts = [PieceCount(file=p.file, read=0, dead=0) for p in shard.pieces]
    errors: Counter[str] = Counter()
    waiting: deque[tuple[int, Future[_Scored] | _Scored]] = deque()

    def write_next() -> None:
        index, answer = waiting.popleft()
        scored = answer.result() if isinstance(answer, Future) else answer
        parts.write(scored)
        was = counts[index]
        counts[index] = PieceCount(
            file=was.file, read=was.read + scored.read, dead=was.dead + sum(scored.errors.values())
        )
        errors.update(scored.errors)
        if note is not None:
            note(scored.read, scored.errors)

    try:
        for index, piece in enumerate(shard.pieces):
            name = plan.files[piece.file].name
            for first_row, batch in read_piece(plan, piece):
                if pool is None:
                    waiting.append((index, chunk.score(name, first_row, batch)))
                else:
                    waiting.append((index, pool.submit(chunk.score, name, first_row, batch)))
                while len(waiting) > (_AHEAD if pool is not None else 0):
                    write_next()
        while waiting:
            write_next()
        _check_counts(plan, shard, counts)
        return parts.seal(counts, dict(errors))
    except BaseException:
        for _, answer in waiting:
            if isinstance(answer, Future):
                answer.cancel()
        parts.abandon()
        raise


def read_piece(plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a piece, in the plan's columns and types, each with the row of the file it begins at.

    Raises SourceError for what cannot be read, or for a file that is not the planned one before and after.
    """
    file = plan.files[piece.file]
    path = Path(plan.root) / file.name
    schema = plan.read_schema
    absent = [f for f in schema if f.name in file.partition]
    inside = pa.schema([f for f in schema if f not in absent])
    _check_unchanged(path, file)
    row = piece.first_row
    for batch in source(plan.source_format).read(path, file.name, piece, inside, plan.job.chunk_rows):
        full = _with_partition(batch, schema, file, absent) if absent else batch
        yield row, full
        row += batch.num_rows
    _check_unchanged(path, file)


def _with_partition(
    batch: pa.RecordBatch, schema: pa.Schema, file: PlannedFile, absent: Sequence[pa.Field]
) -> pa.RecordBatch:
    columns = []
    for field in schema:
        if field not in absent:
            columns.append(batch.column(field.name))
            continue
        text = file.partition[field.name]
        try:
            value = pa.scalar(text, pa.string()).cast(field.type)
        except pa.ArrowException:
            raise SourceError(f"{file.name}: partition {field.name}={text} cannot become {field.type}") from None
        columns.append(pa.repeat(value, batch.num_rows))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_unchanged(path: Path, file: PlannedFile) -> None:
    if take_snapshot(path, file.name) != file.snapshot:
        raise SourceError(f"{file.name}: was changed after the run was planned; begin a new run")


def _check_counts(plan: Plan, shard: Shard, counts: Sequence[PieceCount]) -> None:
    for piece, count in zip(shard.pieces, counts, strict=True):
        if piece.rows is not None and piece.rows != count.read:
            name = plan.files[piece.file].name
            raise SourceError(f"{name}: holds {piece.rows} rows from row {piece.first_row} on, {count.read} were read")


@dataclass(frozen=True, slots=True)
class _Scored:
    """One chunk's end: rows for the output, rows for the dead letters, and the dead by code."""

    read: int
    output: pa.RecordBatch
    dead: pa.RecordBatch | None
    errors: dict[str, int]


class _Chunk:
    """Scores one batch; safe to call from several threads."""

    def __init__(self, live: Live, plan: Plan) -> None:
        self._live = live
        self._outputs = plan.outputs(live)
        self._copied = plan.copied
        self._dead = DeadLetters(plan.read_schema)
        self.schema = plan.output_schema(live)

    def score(self, name: str, first_row: int, batch: pa.RecordBatch) -> _Scored:
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
        return _Scored(batch.num_rows, pa.RecordBatch.from_arrays(columns, schema=self.schema), dead, errors)


def _at(name: str, first_row: int, error: InputError) -> SourceError:
    """The path's own words, with the row of the chunk told as the row of the file."""
    text = str(error)
    if error.row is None:
        return SourceError(f"{name}: rows from {first_row}: {text}")
    return SourceError(f"{name}: " + text.replace(f"row {error.row}", f"row {first_row + error.row}", 1))


class _Parts:
    """The part and dead letters of one shard while they are written, and their sealing."""

    def __init__(self, plan: Plan, schema: pa.Schema, shard: Shard, stage: Path) -> None:
        self._shard = shard
        self._stage = stage
        self._work = stage / "work"
        self._sink = sink(plan.job.sink.format)
        self._dead_sink = sink("parquet")
        self._schema, self._dead_schema = schema, dead_schema(plan.read_schema)
        self._stamp = plan.stamp
        self._part_name = f"part-{shard.index:05d}{self._sink.suffix}"
        self._dead_name = f"part-{shard.index:05d}{self._dead_sink.suffix}"
        self._part: PartWriter | None = None
        self._dead: PartWriter | None = None
        try:
            passing = not plan.job.sink.directory
            self._part = self._sink.open(self._work / self._part_name, schema, self._stamp, passing=passing)
        except OSError as error:
            raise _unwritable(self._part_name, error) from error

    def write(self, scored: _Scored) -> None:
        try:
            if self._part is not None and scored.output.num_rows:
                self._part.write(scored.output)
            if scored.dead is not None:
                if self._dead is None:
                    path = self._work / f"dead-{self._dead_name}"
                    self._dead = self._dead_sink.open(path, self._dead_schema, self._stamp)
                self._dead.write(scored.dead)
        except OSError as error:
            raise _unwritable(self._part_name, error) from error
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise SinkError(
                f"{self._part_name}: {self._sink.suffix[1:]} cannot hold a value of this output: {error}; write Parquet"
            ) from error

    def seal(self, counts: Sequence[PieceCount], errors: dict[str, int]) -> Sealed:
        """Close, count what the files hold, make them durable, move them to their places, and only then mark."""
        try:
            dead = None
            if self._dead is not None:
                self._dead.close()
                dead = self._keep(self._work / f"dead-{self._dead_name}", self._stage / "dead" / self._dead_name)
            if self._part is not None:
                self._part.close()
            part = self._keep(self._work / self._part_name, self._stage / "parts" / self._part_name)
        except OSError as error:
            raise _unwritable(self._part_name, error) from error
        self._part = self._dead = None
        marker = Sealed(format=1, shard=self._shard.index, pieces=tuple(counts), errors=errors, part=part, dead=dead)
        if marker.read != part.rows + marker.dead_rows or marker.dead_rows != sum(c.dead for c in counts):
            raise RunError(
                f"shard {marker.shard}: {marker.read} rows were read, but {part.name} holds {part.rows} "
                f"and its dead letters {marker.dead_rows}; nothing is published"
            )
        write_durably(self._stage / "shards" / f"{self._shard.index:05d}.json", msgspec.json.encode(marker))
        return marker

    def _keep(self, path: Path, place: Path) -> PartFile:
        counter = self._dead_sink if place.parent.name == "dead" else self._sink
        kept = part_file(path, counter.count(path))
        os.rename(path, place)
        sync_directory(place.parent)
        return msgspec.structs.replace(kept, name=place.name)

    def abandon(self) -> None:
        """Close what is open. Dead letters found so far are kept to be looked at; a resume writes them anew."""
        with suppress(OSError, pa.ArrowException):
            if self._part is not None:
                self._part.close()
        with suppress(OSError, pa.ArrowException):
            if self._dead is not None:
                self._dead.close()
                os.rename(self._work / f"dead-{self._dead_name}", self._stage / "dead" / self._dead_name)


def _unwritable(name: str, error: OSError) -> SinkError:
    reason = error.strerror or str(error).splitlines()[0]
    return SinkError(f"{name}: cannot be written: {reason}; make room and resume the run")
