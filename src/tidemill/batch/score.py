"""One run from its options to its report: plan, score what is not yet sealed, count, commit."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

import msgspec

from tidemill.batch.commit import commit
from tidemill.batch.engines.local import run_local
from tidemill.batch.ledger import Ledger, Sealed, stage_path, write_durably
from tidemill.batch.manifest import DIRECTORY, RunManifest, checked_manifest, committed, manifest_path
from tidemill.batch.options import Progress, RunReport, ScoreOptions
from tidemill.batch.places import SinkPlace, find_files, sink_place
from tidemill.batch.plan import Plan, build_plan, differences
from tidemill.batch.sinks import sink as sink_format
from tidemill.batch.watch import Watch
from tidemill.config import decode
from tidemill.errors import BudgetExceeded, ConfigError, RunError
from tidemill.model.package import Package, open_package
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["score"]

# Small calls stay in the cache: about a thousand rows beat sixteen thousand. Wide rows are bounded by bytes.
_CALL_ROWS = 1024
_CALL_BYTES = 8 << 20
_DEFAULTS = ScoreOptions()


def score(
    package: str | os.PathLike[str],
    source: str | os.PathLike[str],
    sink: str | os.PathLike[str],
    options: ScoreOptions = _DEFAULTS,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Score every row of `source` with a package into `sink`: complete, or not at all.

    `source` is a file, a directory or a glob of Parquet, CSV or JSON lines; `sink` ends in .parquet, .csv or .jsonl for
    one file, and is a directory of Parquet parts otherwise. Each input row ends as an output row or a dead letter, in
    the input's order. With the `run_id` of a run that was cut off, its sealed shards are kept; a finished run is
    not done again. `progress` is called from any thread, about ten times a second.

    Raises ConfigError for options that do not fit, SourceError for input that cannot be read as planned, SinkError
    for output that cannot be written, RunError where the run may not go on, BudgetExceeded where too many rows
    failed. None of them leaves an output.
    """
    options = _checked(options)
    place = sink_place(os.fspath(sink))
    run_id = options.run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    found = committed(place)
    ours = found is not None and found.run_id == run_id
    root, format_, files = find_files(os.fspath(source))
    _check_apart(Path(source), root, [f.name for f in files], place)
    if not ours:
        _check_target(place, found, options.overwrite)
    live = _open(open_package(package), options)
    plan = build_plan(run_id, os.fspath(source), place, options, live, root, format_, files)
    reason = sink_format(place.format).check(plan.output_schema(live))
    if reason is not None:
        raise ConfigError(f"output {place.path}: {reason}")
    stage = stage_path(Path(place.path), run_id)
    if found is not None and ours:
        _check_same(found.plan, plan)
        with Ledger(stage) as ledger:  # what a crash after the commit left behind
            ledger.remove()
        return _report(found, "already_done", 0, 0.0, 0)
    with Ledger(stage) as ledger, _terminable():
        begun = ledger.plan()
        if begun is None:
            ledger.begin(plan)
        else:
            _check_same(begun, plan)
            plan = begun
        try:
            return _run(live, plan, ledger, options, progress)
        except BudgetExceeded:
            raise
        except RunError as error:
            raise type(error)(f"{error} (run {run_id})") from error


def _run(
    live: Live, plan: Plan, ledger: Ledger, options: ScoreOptions, progress: Callable[[Progress], None] | None
) -> RunReport:
    sealed = ledger.sealed(plan)
    resumed = len(sealed)
    watch = Watch(plan.run_id, plan.total_rows, len(plan.shards), plan.job.max_error_rate, progress)
    for marker in sealed.values():
        watch.resumed(marker.read, marker.errors)
    pending = [s for s in plan.shards if s.index not in sealed]

    def keep(marker: Sealed) -> None:
        sealed[marker.shard] = marker

    def manifest(state: Literal["done", "over_budget"]) -> RunManifest:
        return checked_manifest(
            plan,
            [sealed[i] for i in sorted(sealed)],
            ledger.stage,
            state=state,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=watch.seconds,
        )

    try:
        run_local(live, plan, pending, ledger.stage, options.workers or cpu_budget(), watch, keep)
        watch.finish()
    except BudgetExceeded as error:
        record = manifest("over_budget")
        read, dead, errors = watch.totals()
        where = ledger.stage / "manifest.json"
        write_durably(where, msgspec.json.encode(record))
        told = _report(record, "over_budget", resumed, watch.seconds, watch.fresh_rows)
        told = msgspec.structs.replace(
            told,
            read=read,
            written=read - dead,
            dead=dead,
            errors=errors,
            dead_letters=str(ledger.stage / "dead"),
            manifest=str(where),
        )
        raise BudgetExceeded(
            f"{error}; nothing is published; the dead letters are in {ledger.stage / 'dead'}", report=told
        ) from None
    record = manifest("done")
    markers = [sealed[i] for i in sorted(sealed)]
    commit(record, markers, ledger.stage, plan.output_schema(live), overwrite=options.overwrite)
    ledger.remove()
    return _report(record, "done", resumed, watch.seconds, watch.fresh_rows)


def _checked(options: ScoreOptions) -> ScoreOptions:
    """Structs built in Python are not validated by msgspec: do it here, in the words of the option."""
    return decode(msgspec.to_builtins(options), ScoreOptions, "options")


def _open(package: Package, options: ScoreOptions) -> Live:
    row_bytes = 0
    for one in package.manifest.inputs:
        cells = 1
        for d in one.shape[1:]:
            cells *= max(d, 1)
        row_bytes += cells * max(one.type.size, 8)
    by_bytes = max(1, _CALL_BYTES // max(1, row_bytes))
    return Live.open(package, call_rows=min(options.call_rows or _CALL_ROWS, by_bytes))


def _check_target(place: SinkPlace, found: RunManifest | None, overwrite: bool) -> None:
    path = Path(place.path)
    if not path.exists():
        return
    if not overwrite:
        raise RunError(f"{path}: exists; choose another output, or pass --overwrite")
    if path.is_dir() != place.directory:
        raise RunError(f"{path}: is {'a directory' if path.is_dir() else 'a file'}; it is left alone")
    if place.directory and found is None and any(path.iterdir()):
        raise RunError(
            f"{path}: is not an output of Tidemill (no {DIRECTORY}/manifest.json); it is left alone; remove it yourself"
        )


def _check_apart(source: Path, root: Path, names: list[str], place: SinkPlace) -> None:
    target = Path(place.path).resolve()
    if source.is_dir() and source.resolve() in target.parents:
        raise ConfigError(f"output {place.path}: lies inside the input {source}, which would hold it the next time")
    for name in names:
        path = (root / name).resolve()
        if path == target or target in path.parents:
            raise ConfigError(f"output {place.path}: holds the input {name}; choose another place")


def _check_same(begun: Plan, plan: Plan) -> None:
    changed = differences(begun, plan)
    if changed:
        raise RunError(
            f"run {plan.run_id} cannot go on: {'; '.join(changed[:5])}; begin a new run, with another run id"
        )


def _report(
    manifest: RunManifest,
    state: Literal["done", "already_done", "over_budget"],
    resumed: int,
    seconds: float,
    fresh: int,
) -> RunReport:
    plan = manifest.plan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return RunReport(
        run_id=plan.run_id,
        state=state,
        read=manifest.read,
        written=manifest.written,
        dead=manifest.dead,
        errors=manifest.errors,
        files=len(plan.files),
        shards=len(plan.shards),
        resumed_shards=resumed,
        seconds=round(seconds, 3),
        rows_per_second=round(fresh / seconds, 1) if seconds > 0 else 0.0,
        peak_rss_bytes=peak if sys.platform == "darwin" else peak * 1024,
        output=plan.job.sink.path,
        dead_letters=manifest.dead_letters,
        manifest=str(manifest_path(plan.job.sink)),
    )


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
