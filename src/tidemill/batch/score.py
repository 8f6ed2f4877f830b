"""One run from its options to its report: plan, score what is not yet sealed, count, commit."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from tidemill.batch.apart import check_apart, check_letters, check_outside, check_stage
from tidemill.batch.calls import settled
from tidemill.batch.columns import wanted_columns
from tidemill.batch.engines.base import Work
from tidemill.batch.inputs import Asked, Found, Origin, find_input
from tidemill.batch.ledger import decode_kept
from tidemill.batch.manifest import RunManifest
from tidemill.batch.options import Progress, RunReport, ScoreOptions
from tidemill.batch.places import Place, SinkPlace, parse_place
from tidemill.batch.plan import (
    Plan,
    PlannedJob,
    build_plan,
    differences,
    job_differences,
    package_id,
    planned_job,
)
from tidemill.batch.run import Observer, report, run_plan
from tidemill.batch.stage import Stage, open_stage
from tidemill.batch.targets import Target, open_target
from tidemill.batch.targets.letters import place_dead
from tidemill.batch.watch import Watch
from tidemill.config import decode
from tidemill.errors import BudgetExceeded, Held, RunError
from tidemill.model.package import open_package
from tidemill.prediction.live import Live

__all__ = ["Begun", "Prepared", "begin", "new_run_id", "prepare", "score"]

_DEFAULTS = ScoreOptions()


def score(
    package: str | os.PathLike[str],
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    options: ScoreOptions = _DEFAULTS,
    progress: Callable[[Progress], None] | None = None,
    observer: Observer | None = None,
) -> RunReport:
    """Score every row of `source` with a package into `sink`: complete, or not at all.

    `source` is a file, a directory or a glob of Parquet, Arrow, CSV or JSON lines, or the URI of what is read; `sink`
    ends in .parquet, .arrow, .csv or .jsonl for one file, is the URI of what is written, or else a directory of Parquet
    parts. Each input row ends as an output row or a dead letter, in the input's order. With the `run_id` of a run that
    was cut off, its sealed shards are kept; a finished run is not done again. `progress` is called from any thread,
    about ten times a second.

    Raises ConfigError for options that do not fit, SourceError for input that cannot be read as planned, SinkError
    for output that cannot be written, RunError where the run may not go on, BudgetExceeded where too many rows
    failed, Held where the gate of `observer` did. None of them leaves an output.
    """
    with begin(package, source, sink, options, progress) as run:
        if isinstance(run, RunReport):
            return run
        if observer is not None:
            observer.planned(run.work)
        return run_plan(run.work, run.target, observer)


def new_run_id() -> str:
    """An id that no other run has."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class Begun:
    """A run whose plan is settled and kept in its stage: what scores it, and where it goes."""

    work: Work
    target: Target


@contextmanager
def begin(
    package: str | os.PathLike[str],
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    options: ScoreOptions,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Begun | RunReport]:
    """A run of `score`, planned or taken up again and held; or the report of one that was committed before.

    An error inside leaves the stage as it is, if there is anything in it to resume. Raises as `score` does.
    """
    ready = prepare(package, source, sink, options)
    options, run_id, live, target, done = ready.options, ready.run_id, ready.live, ready.target, ready.done
    stage = open_stage(options.stage or target.stage(run_id))
    if done is not None:
        # Also what a driver has left that was overtaken by another, elsewhere.
        place_dead(done, msgspec.structs.replace(done.plan, job=ready.job))
        found = ready.find(None, done.plan.origin)
        if found is None:
            _refuse(run_id, job_differences(done.plan, ready.job, package_id(live)))
        else:
            _refuse(run_id, differences(done.plan, build_plan(run_id, ready.job, live, found)))
        with stage.held():  # what a crash after the commit left behind
            stage.remove()
        yield report(done, "already_done")
        return
    with stage.held(), _terminable():
        try:
            plan = _begun(stage)
            if plan is None:
                stage.forget()
            found = stage.shared()
            if found is None:
                found = ready.find(stage.spool, None if plan is None else plan.origin)
                assert found is not None  # noqa: S101 - there was a spool to copy it to
                found = stage.share(found)
            new = ready.plan(found)
            if plan is None:
                plan = settled(live, new)
                stage.put("plan.json", msgspec.json.encode(plan))
            _refuse(run_id, differences(plan, new))
            live = Live(live.package, live.runtime, call_rows=plan.call_rows)
            job = plan.job
            watch = Watch(
                run_id, plan.total_rows, len(plan.shards), job.max_error_rate, progress, max_errors=job.max_errors
            )
            work = Work(live, plan, stage, live.package.directory, options, watch)
            try:
                yield Begun(work, target)
            except (BudgetExceeded, Held):
                raise
            except RunError as error:
                raise type(error)(f"{error} (run {run_id})") from error
        except BaseException:
            stage.remove_unused()
            raise


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of a run before its input is looked at. `done` is its manifest if it was committed before."""

    options: ScoreOptions
    run_id: str
    place: Place
    target: Target
    done: RunManifest | None
    live: Live
    job: PlannedJob

    def find(self, spool: Path | None, pinned: Origin | None) -> Found | None:
        """The input; None where finding it would mean copying it, and no spool was given."""

        def wanted(present: Sequence[str]) -> list[str]:
            return wanted_columns(self.live.package.manifest.inputs, self.job.pass_through, present)

        return find_input(self.place, Asked(spool, pinned, wanted))

    def plan(self, found: Found) -> Plan:
        """The plan for an input that was found, once the target has agreed to its columns."""
        check_outside(found, self.target, self.job.sink, self.job.dead_letters)
        plan = build_plan(self.run_id, self.job, self.live, found)
        self.target.check(plan.output_schema(self.live))
        return plan


def prepare(
    package: str | os.PathLike[str], source: str | os.PathLike[str], sink: str | os.PathLike[str], options: ScoreOptions
) -> Prepared:
    """Open package and target, and see that a run may write there. Raises as `score` does."""
    options = _checked(options)
    parse_place(os.fspath(package))  # a path, too
    place, target = parse_place(os.fspath(source)), _target(os.fspath(sink), options)
    run_id = options.run_id or new_run_id()
    kept = _beside_the_stage(target.describe(run_id), target.stage(run_id), options.stage)
    check_apart(place, target, kept.uri)
    if options.stage is not None:
        check_stage(options.stage, place, target)
    check_letters(options.dead_letters, kept, target)
    done = target.committed(run_id)
    if done is None:
        target.allow()
    live = Live.open(open_package(package))
    return Prepared(options, run_id, place, target, done, live, planned_job(place.shown, kept, options))


def _beside_the_stage(sink: SinkPlace, usual: str, asked: str | None) -> SinkPlace:
    """What a target keeps beside its usual stage lies beside the one that was asked for: any driver finds it there."""
    if asked is None:
        return sink
    moved = {
        name: asked + place.removeprefix(usual)
        for name, place in (("dead", sink.dead), ("manifest", sink.manifest))
        if place.startswith(f"{usual}.")
    }
    return msgspec.structs.replace(sink, **moved)


def _begun(stage: Stage) -> Plan | None:
    """The plan this run was begun with, or None for a new run."""
    data = stage.get("plan.json")
    return None if data is None else decode_kept(data, Plan, f"{stage.where}/plan.json")


def _target(sink: str, options: ScoreOptions) -> Target:
    return open_target(parse_place(sink), options.mode, options.key)


def _checked(options: ScoreOptions) -> ScoreOptions:
    """Structs built in Python are not validated by msgspec: do it here, in the words of the option."""
    return decode(msgspec.to_builtins(options), ScoreOptions, "options")


def _refuse(run_id: str, changed: list[str]) -> None:
    if changed:
        raise RunError(f"run {run_id} cannot go on: {'; '.join(changed[:5])}; begin a new run, with another run id")


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: shards stop at their next chunk and the ledger stays resumable.

    Only where nobody else handles it, and only in the main thread, which is where signals arrive.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
