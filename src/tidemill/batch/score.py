"""One run from its options to its report: plan, score what is not yet sealed, count, commit."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec

from tidemill.batch.calls import call_rows
from tidemill.batch.ledger import Ledger, stage_path
from tidemill.batch.manifest import DIRECTORY, RunManifest, committed
from tidemill.batch.options import Progress, RunReport, ScoreOptions
from tidemill.batch.places import SinkPlace, find_files, sink_place
from tidemill.batch.plan import Plan, build_plan, differences
from tidemill.batch.run import report, run_plan
from tidemill.batch.sinks import sink as sink_format
from tidemill.config import decode
from tidemill.errors import BudgetExceeded, ConfigError, RunError
from tidemill.model.package import open_package
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["score"]

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
    live = Live.open(open_package(package))
    plan = build_plan(run_id, os.fspath(source), place, options, live, root, format_, files)
    reason = sink_format(place.format).check(plan.output_schema(live))
    if reason is not None:
        raise ConfigError(f"output {place.path}: {reason}")
    stage = stage_path(Path(place.path), run_id)
    if found is not None and ours:
        _check_same(found.plan, plan)
        with Ledger(stage) as ledger:  # what a crash after the commit left behind
            ledger.remove()
        return report(found, "already_done")
    with Ledger(stage) as ledger, _terminable():
        begun = ledger.plan()
        if begun is None:
            begun = msgspec.structs.replace(plan, call_rows=call_rows(live, plan))
            ledger.begin(begun)
        _check_same(begun, plan)
        live = Live(live.package, live.runtime, call_rows=begun.call_rows)
        workers = options.workers or cpu_budget()
        try:
            return run_plan(live, begun, ledger, workers=workers, overwrite=options.overwrite, tell=progress)
        except BudgetExceeded:
            raise
        except RunError as error:
            raise type(error)(f"{error} (run {run_id})") from error
        finally:
            ledger.remove_unused()


def _checked(options: ScoreOptions) -> ScoreOptions:
    """Structs built in Python are not validated by msgspec: do it here, in the words of the option."""
    return decode(msgspec.to_builtins(options), ScoreOptions, "options")


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
