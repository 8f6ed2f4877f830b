"""The run index: a directory of small JSON records that tell where each run is and what became of it.

It only points: the stage and the manifest hold the truth, and from them a lost record is made anew.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tidemill.batch.distribution import Distribution
from tidemill.batch.jobs.gate import Check
from tidemill.batch.options import RUN_ID
from tidemill.batch.places import SinkPlace
from tidemill.config import Config
from tidemill.errors import ConfigError, NotFound, RunError
from tidemill.renames import write_whole

__all__ = ["Driver", "HookResult", "RunIndex", "RunRecord", "State", "home", "now", "seen_now", "this_process"]

State = Literal["planned", "running", "committing", "held", "done", "failed", "cancelled", "over_budget"]
UNDER_WAY = frozenset({"planned", "running", "committing"})
_MOST_BYTES = 8 << 20
_SILENT = timedelta(minutes=10)
# Seconds that are worth telling: a hundred years.
_LONGEST = 3.2e9


class Driver(Config, frozen=True, kw_only=True):
    """The process that drives a run. `started` tells it from a later one of the same number; "" where unknown."""

    host: str
    # Others than these mean all processes, or none.
    pid: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    started: str = ""

    @property
    def alive(self) -> bool | None:
        """Whether it lives; None where that cannot be told from this machine."""
        if self.host != socket.gethostname():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        ended, started = _stat(self.pid)
        return not ended and (not self.started or started == self.started)


class HookResult(Config, frozen=True, kw_only=True):
    """What became of a hook: its kind, whether it went well, how often it was tried, and what was wrong."""

    kind: Literal["webhook", "command"]
    passed: bool
    attempts: int
    told: str = ""


class RunRecord(Config, frozen=True, kw_only=True):
    """A run as the index knows it.

    `job` is "" for a run of `tidemill score`. Times are ISO 8601 in UTC; `seconds` are of the last execution.
    `attempts` counts, by shard, those that were begun more than once. `cost` is in the currency of the job's
    `price_per_hour`.
    """

    format: Literal[1]
    run_id: Annotated[str, msgspec.Meta(pattern=RUN_ID)]
    job: str = ""
    state: State
    package: str
    source: str
    output: str
    sink: SinkPlace | None = None
    stage: str
    job_file: str | None = None
    manifest: str = ""
    dead_letters: str | None = None
    engine: str = "local"
    driver: Driver | None = None
    created_at: str
    updated_at: str
    finished_at: str | None = None
    read: int = 0
    written: int = 0
    dead: int = 0
    total_rows: int | None = None
    resumed_rows: int = 0
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    shards: int = 0
    shards_done: int = 0
    attempts: dict[int, int] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    rows_per_second: float = 0.0
    peak_rss_bytes: int = 0
    cpu_seconds: float = 0.0
    cost: float | None = None
    outputs: dict[str, Distribution] = msgspec.field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    hooks: tuple[HookResult, ...] = ()
    error: str | None = None

    def __post_init__(self) -> None:
        for moment in (self.created_at, self.updated_at, self.finished_at):
            if moment is not None and datetime.fromisoformat(moment).tzinfo is None:
                raise ValueError(f"{moment!r} is no time in UTC")

    def plain(self) -> dict[str, Any]:
        """All fields as plain data, also those that are as they are by default."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        plain: dict[str, Any] = msgspec.to_builtins(fields, str_keys=True)
        return plain

    @property
    def under_way(self) -> bool:
        """Whether a driver should be at it."""
        return self.state in UNDER_WAY

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where rows or rate are not known."""
        if self.total_rows is None or self.rows_per_second <= 0:
            return None
        left = max(0.0, (self.total_rows - self.read) / self.rows_per_second)
        return left if left < _LONGEST else None


def seen_now(record: RunRecord) -> RunRecord:
    """The record as it stands: a run whose driver is gone has failed, whatever its driver wrote last. One on another
    machine is gone when it has written nothing for ten minutes.
    """
    if not record.under_way or record.driver is None or record.driver.alive:
        return record
    if record.driver.alive is None and datetime.now(UTC) - datetime.fromisoformat(record.updated_at) < _SILENT:
        return record
    error = f"its driver is gone; the same command with the run id {record.run_id} goes on"
    return msgspec.structs.replace(record, state="failed", error=error)


def home() -> Path:
    """Where Tidemill keeps its own state: `$TIDEMILL_HOME`, or by the XDG rules `~/.local/state/tidemill`. Raises
    ConfigError where there is none.
    """
    given = os.environ.get("TIDEMILL_HOME")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME", "")
    # A relative one is to be ignored, says the specification.
    try:
        return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "tidemill"
    except RuntimeError:  # a user that the system does not know, as in a container
        raise ConfigError(
            "there is no home directory; set TIDEMILL_HOME to where runs are to be kept on record"
        ) from None


def now() -> str:
    """This moment as records tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_process() -> Driver:
    """The process that asks."""
    return Driver(host=socket.gethostname(), pid=os.getpid(), started=_stat(os.getpid())[1])


def _stat(pid: int) -> tuple[bool, str]:
    """Whether a process has ended, though its parent has not asked for that, and when it began, in ticks of the kernel
    since the machine did; "" where the kernel does not tell.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False, ""
    fields = stat.rpartition(")")[2].split()
    return fields[0] in "ZX", fields[19]


class RunIndex:
    """The records below a directory. Each is written whole, by rename; the driver of a run is its one writer."""

    def __init__(self, root: Path | None = None) -> None:
        self.directory = (root or home()) / "runs"

    def path(self, run_id: str) -> Path:
        """Where the record of a run lies. Raises NotFound for what cannot be a run's id."""
        if not re.match(RUN_ID, run_id):
            raise NotFound(f"{run_id!r} is no run id: letters, digits and . _ - are, 64 at most")
        return self.directory / f"{run_id}.json"

    def write(self, record: RunRecord) -> None:
        """Put a record in place of the one before. Raises OSError."""
        path = self.path(record.run_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, msgspec.json.encode(record))

    def find(self, run_id: str) -> RunRecord | None:
        """The record of a run, or None. Raises RunError for one that was damaged."""
        path = self.path(run_id)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise RunError(f"{path}: is no record of a run; remove it, and `tidemill run add` it again")
            record = msgspec.json.decode(path.read_bytes(), type=RunRecord)
            if record.run_id != run_id:
                raise RunError(
                    f"{path}: is the record of run {record.run_id}; remove it, and `tidemill run add` it again"
                )
            return record
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: was damaged ({error}); remove it, and `tidemill run add` it again") from None

    def get(self, run_id: str) -> RunRecord:
        """The record of a run. Raises NotFound, RunError for one that was damaged."""
        found = self.find(run_id)
        if found is None:
            raise NotFound(
                f"run {run_id}: not in {self.directory}; `tidemill run list` shows those that are, and "
                "`tidemill run add PLACE` takes one up from its output or its stage"
            )
        return found

    def all(self) -> Iterator[RunRecord]:
        """Every record that can be read, the latest first."""
        found = []
        for path in self.directory.glob("*.json"):
            try:
                record = self.find(path.stem)
            except (RunError, NotFound, OSError):
                continue
            if record is not None:
                found.append(record)
        yield from sorted(found, key=lambda r: (r.created_at, r.run_id), reverse=True)

    def last_done(self, job: str, *, but: str = "") -> RunRecord | None:
        """The last published run of a job, other than the one named."""
        done = [r for r in self.all() if r.job == job and r.state == "done" and r.run_id != but]
        return max(done, key=lambda r: r.finished_at or "", default=None)

    def remove(self, run_id: str) -> None:
        """Forget a run."""
        self.path(run_id).unlink(missing_ok=True)
