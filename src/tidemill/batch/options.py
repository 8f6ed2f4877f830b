"""What a run is asked for, what it tells while it goes, and what it reports at its end."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.places import Mode
from tidemill.config import Config

__all__ = ["RUN_ID", "Positive", "Progress", "RunReport", "ScoreOptions", "Seconds"]

RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
# What every library and every file takes for a number.
Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class ScoreOptions(Config, frozen=True, kw_only=True):
    """Options of one run.

    `chunk_rows` is what is read, converted and written at a time; `call_rows` bounds one model call (None: 1,024,
    or for a large input what is measured to be quickest). `workers` are threads or processes (None: the CPU budget).
    `select` names the model outputs to write (empty: all), `pass_through` the input columns to copy beside them ("*":
    every one). `max_errors` and `max_error_rate` are the number and the share of rows that may become dead letters
    (None: any). `dead_letters` is a file for them (.parquet or .jsonl); by default they lie with the output. `mode` is
    what becomes of rows that the output holds already, `key` the columns by which an upsert finds them. `engine` says
    where shards are scored, `stage` where the run keeps what is sealed until it is published (None: beside the output,
    or in tidemill-runs).

    Limits, None for none: seconds that one model call, one try of a shard and one execution of the run may take, and
    `worker_memory`, the bytes that a process may have for itself; with a limit of the first or the last kind, and for
    models that hold the interpreter's lock, processes answer. `transient_tries` is how often a call is made that
    raises Transient, `shard_tries` how often a shard that cannot be read or is late is tried; then the run fails, or
    the shard is set aside with all its rows: `on_poisoned_shard`.
    """

    chunk_rows: Positive = 16_384
    call_rows: Positive | None = None
    workers: Positive | None = None
    select: tuple[str, ...] = ()
    pass_through: tuple[str, ...] = ()
    run_id: Annotated[str, msgspec.Meta(pattern=RUN_ID)] | None = None
    max_error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_errors: Annotated[int, msgspec.Meta(ge=0)] | None = None
    call_timeout: Seconds | None = None
    shard_timeout: Seconds | None = None
    run_timeout: Seconds | None = None
    worker_memory: Positive | None = None
    transient_tries: Positive = 5
    shard_tries: Positive = 3
    on_poisoned_shard: Literal["fail", "quarantine"] = "fail"
    dead_letters: str | None = None
    mode: Mode = "create"
    key: tuple[str, ...] = ()
    engine: EngineOptions = EngineOptions()
    stage: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a run. `total_rows` is None while an input's rows cannot be known without reading it.

    `errors` counts dead rows by the code of their first problem, `attempts` how often those shards were begun that had
    to be begun more than once. Rows of a resumed run's sealed shards are counted
    in; `resumed_rows` tells how many those are, so that a rate can leave them out.
    """

    run_id: str
    rows_read: int
    rows_written: int
    rows_dead: int
    total_rows: int | None
    resumed_rows: int
    shards_done: int
    shards: int
    seconds: float
    errors: dict[str, int]
    attempts: dict[int, int] = msgspec.field(default_factory=dict)


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a run: `read = written + dead`, counted against what was written.

    `seconds`, `rows_per_second` and `worker_deaths` (processes that ended while they answered) are of this execution
    alone; `peak_rss_bytes` is the driver's own peak. `quarantined_shards` are those all of whose rows were set aside.
    `chunk_rows` and `call_rows` are what was settled for it.
    """

    run_id: str
    state: Literal["done", "already_done", "over_budget", "held"]
    read: int
    written: int
    dead: int
    errors: dict[str, int]
    files: int
    shards: int
    resumed_shards: int
    seconds: float
    rows_per_second: float
    peak_rss_bytes: int
    output: str
    dead_letters: str | None
    manifest: str
    chunk_rows: int
    call_rows: int
    quarantined_shards: int = 0
    worker_deaths: int = 0

    def to_json(self) -> str:
        """The report as one JSON object."""
        return msgspec.json.encode(self).decode()
