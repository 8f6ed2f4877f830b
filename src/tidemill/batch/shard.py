"""score_shard: the one function every engine calls. Source → chunks → the path → part and dead letters, sealed."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.blobs import Blob, blob
from tidemill.batch.dead import dead_schema
from tidemill.batch.distribution import Collector
from tidemill.batch.ledger import PartFile, PieceCount, Sealed, disk_refused, part_file
from tidemill.batch.plan import Plan, PlannedFile, Shard
from tidemill.batch.scoring import Answers, Scored
from tidemill.batch.sinks import UNHELD, PartWriter, sink
from tidemill.batch.sources import Piece, source
from tidemill.batch.stage import Kind, Stage
from tidemill.errors import RunError, SinkError, SourceChanged, SourceError, first_line

__all__ = ["Note", "Reader", "read_piece", "score_shard"]

# Called with each chunk's rows and its dead rows by code. What it raises ends the shard, which stays unsealed.
Note = Callable[[int, dict[str, int]], None]

# Gives the batches of a piece, each with the row of the file it begins at.
Reader = Callable[[Plan, Piece], Iterator[tuple[int, pa.RecordBatch]]]


def score_shard(
    plan: Plan,
    shard: Shard,
    stage: Stage,
    answers: Answers,
    schema: pa.Schema,
    *,
    note: Note | None = None,
    attempt: str = "",
    read: Reader | None = None,
    quarantined: str | None = None,
) -> Sealed:
    """Score one shard into rows of `schema` and seal it in the stage: durable part and dead letters, then the marker.

    Order is kept, and at most `answers.ahead` chunks are held beside the one in hand. An `attempt` that may meet
    another at the same shard carries a name of its own; the marker that is returned is the one that counts. `read`
    reads a piece (`read_piece`), and the marker says why the shard was `quarantined`, where it was. Raises
    SourceError for input that cannot be read as planned, SinkError for a part that cannot be written; the shard then
    stays as it was, to be scored again.
    """
    parts = _Parts(plan, schema, shard, stage, attempt)
    counts = [PieceCount(file=p.file, read=0, dead=0) for p in shard.pieces]
    errors: Counter[str] = Counter()
    waiting: deque[tuple[int, Future[Scored]]] = deque()
    read = read or read_piece

    def write_next() -> None:
        index, answer = waiting.popleft()
        scored = answer.result()
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
            for first_row, batch in read(plan, piece):
                waiting.append((index, answers.submit(name, first_row, batch)))
                while len(waiting) > answers.ahead:
                    write_next()
        while waiting:
            write_next()
        _check_counts(plan, shard, counts)
        return parts.seal(counts, dict(errors), quarantined)
    except BaseException:
        for _, answer in waiting:
            answer.cancel()
        parts.abandon()
        raise


def read_piece(plan: Plan, piece: Piece) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a piece, in the plan's columns and types, each with the row of the file it begins at.

    Raises SourceError for what cannot be read, or for a file that is not the planned one before and after.
    """
    planned = plan.files[piece.file]
    file = blob(plan.root, planned.name)
    schema = plan.read_schema
    absent = [f for f in schema if f.name in planned.partition]
    inside = pa.schema([f for f in schema if f not in absent])
    _check_unchanged(file, planned)
    row = piece.first_row
    rows = plan.chunk_rows or plan.job.chunk_rows
    for batch in source(plan.source_format).read(file, piece, inside, rows):
        full = _with_partition(batch, schema, planned, absent) if absent else batch
        yield row, full
        row += batch.num_rows
    _check_unchanged(file, planned)


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


def _check_unchanged(found: Blob, file: PlannedFile) -> None:
    if found.snapshot() != file.snapshot:
        raise SourceChanged(f"{file.name}: was changed after the run was planned; begin a new run")


def _check_counts(plan: Plan, shard: Shard, counts: Sequence[PieceCount]) -> None:
    for piece, count in zip(shard.pieces, counts, strict=True):
        if piece.rows is not None and piece.rows != count.read:
            name = plan.files[piece.file].name
            raise SourceError(f"{name}: holds {piece.rows} rows from row {piece.first_row} on, {count.read} were read")


class _Parts:
    """The part and dead letters of one shard while they are written, and their sealing."""

    def __init__(self, plan: Plan, schema: pa.Schema, shard: Shard, stage: Stage, attempt: str) -> None:
        self._shard = shard
        self._stage = stage
        self._work = stage.work()
        self._sink = sink(plan.job.sink.format)
        self._dead_sink = sink("parquet")
        self._schema, self._dead_schema = schema, dead_schema(plan.read_schema)
        self._stamp = plan.stamp
        name = f"part-{shard.index:05d}{f'-{attempt}' if attempt else ''}"
        self._part_name = name + self._sink.suffix
        self._dead_name = name + self._dead_sink.suffix
        self._outputs = Collector(schema.names[len(plan.copied) :])
        self._part: PartWriter | None = None
        self._dead: PartWriter | None = None
        try:
            self._part = self._sink.open(
                self._work / self._part_name, schema, self._stamp, passing=plan.job.sink.passing
            )
        except OSError as error:
            raise disk_refused(self._part_name, error) from error

    def write(self, scored: Scored) -> None:
        try:
            if self._part is not None and scored.output.num_rows:
                self._part.write(scored.output)
                self._outputs.add(scored.output)
            if scored.dead is not None:
                if self._dead is None:
                    path = self._work / f"dead-{self._dead_name}"
                    self._dead = self._dead_sink.open(path, self._dead_schema, self._stamp)
                self._dead.write(scored.dead)
        except OSError as error:
            raise disk_refused(self._part_name, error) from error
        except UNHELD as error:
            raise self._unheld(error) from error

    def seal(self, counts: Sequence[PieceCount], errors: dict[str, int], quarantined: str | None) -> Sealed:
        """Close, count what the files hold, make them durable, move them to their places, and only then mark."""
        try:
            dead = None
            if self._dead is not None:
                self._dead.close()
                dead = self._keep("dead", self._work / f"dead-{self._dead_name}", self._dead_name)
            if self._part is not None:
                self._part.close()
            part = self._keep("parts", self._work / self._part_name, self._part_name)
        except OSError as error:
            raise disk_refused(self._part_name, error) from error
        except UNHELD as error:
            raise self._unheld(error) from error
        self._part = self._dead = None
        marker = Sealed(
            format=1,
            shard=self._shard.index,
            pieces=tuple(counts),
            errors=errors,
            part=part,
            dead=dead,
            quarantined=quarantined,
            outputs=self._outputs.result(),
        )
        if marker.read != part.rows + marker.dead_rows or marker.dead_rows != sum(c.dead for c in counts):
            raise RunError(
                f"shard {marker.shard}: {marker.read} rows were read, but {part.name} holds {part.rows} "
                f"and its dead letters {marker.dead_rows}; nothing is published"
            )
        return self._stage.mark(marker)

    def _unheld(self, error: Exception) -> SinkError:
        format_ = self._sink.suffix[1:]
        other = "leave its column out, or cast it" if format_ == "parquet" else "write Parquet"
        return SinkError(
            f"{self._part_name}: {format_} cannot hold a value of this output: {first_line(error)}; {other}"
        )

    def _keep(self, kind: Kind, path: Path, name: str) -> PartFile:
        counter = self._dead_sink if kind == "dead" else self._sink
        kept = msgspec.structs.replace(part_file(path, counter.count(path)), name=name)
        self._stage.keep(kind, path, name)
        return kept

    def abandon(self) -> None:
        """Close what is open. Dead letters found so far are kept to be looked at; a resume writes them anew."""
        with suppress(OSError, pa.ArrowException):
            if self._part is not None:
                self._part.close()
        with suppress(OSError, pa.ArrowException):
            if self._dead is not None:
                self._dead.close()
                self._stage.keep("dead", self._work / f"dead-{self._dead_name}", self._dead_name)
