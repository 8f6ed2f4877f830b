"""The dead letters of a run as one file, where they do not lie inside its output: made ready before the commit, put in
place after it, so that an output and its letters are of one run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.batch.blobs import remote
from tidemill.batch.dead import dead_schema
from tidemill.batch.ledger import Sealed, aside, disk_refused, part_file, put_in_place
from tidemill.batch.manifest import RunManifest, dead_place
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import UNHELD, sink
from tidemill.batch.sinks.parquet import read_part
from tidemill.batch.stage import Stage
from tidemill.errors import RunError, SinkError, first_line

if TYPE_CHECKING:
    from tidemill.batch.stores.objects import Objects

__all__ = ["drop_dead", "place_dead", "ready_dead", "write_dead"]


def ready_dead(manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    """Before the commit: join them beside their place, if they have one of their own. Raises SinkError, RunError."""
    if not manifest.dead or _inside(manifest.plan):
        return
    place = dead_place(manifest.plan)
    if remote(place):
        objects, _, ready = _objects(place, manifest.run_id)
        path = stage.work() / "letters"
        _write(path, Path(place).suffix, manifest, sealed, stage)
        objects.put(ready, path)
    else:
        path = aside(Path(place), manifest.run_id)
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, Path(place).suffix, manifest, sealed, stage)


def place_dead(manifest: RunManifest, ours: Plan | None = None) -> None:
    """After the commit: put them in their place, where a run that was cut off has not. Those of an output that was
    replaced by one without any go, and so do those that a driver which was overtaken has made ready elsewhere, by
    `ours`, its own plan. Raises SinkError.
    """
    plan = manifest.plan
    if ours is not None and dead_place(ours) != dead_place(plan):
        drop_dead(ours)
    if _inside(plan):
        return
    place = dead_place(plan)
    if remote(place):
        if manifest.dead:
            _place_object(place, manifest.run_id)
    elif manifest.dead:
        put_in_place(Path(place), manifest.run_id)
    elif plan.job.dead_letters is None:
        with _told(place):
            Path(place).unlink(missing_ok=True)


def drop_dead(plan: Plan) -> None:
    """The run will never be committed: take away what was made ready."""
    place = dead_place(plan)
    if _inside(plan):
        return
    if remote(place):
        objects, _, ready = _objects(place, plan.run_id)
        objects.delete([ready])
    else:
        aside(Path(place), plan.run_id).unlink(missing_ok=True)


def _inside(plan: Plan) -> bool:
    """Whether they are a part of the output, and come and go with it."""
    return plan.job.sink.directory and plan.job.dead_letters is None


def _objects(place: str, run_id: str) -> tuple[Objects, str, str]:
    from tidemill.batch.stores.objects import Objects

    parent, _, name = place.rpartition("/")
    return Objects(parent, SinkError), name, f".{name}.tidemill-{run_id}"


def _place_object(place: str, run_id: str) -> None:
    objects, name, ready = _objects(place, run_id)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "letters")
        with _told(path):
            found = objects.fetch(ready, path)
        if found is not None:
            objects.put(name, path)
            objects.delete([ready])


def _write(path: Path, suffix: str, manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    try:
        with _told(path):
            write_dead(path, suffix, manifest, sealed, stage)
    except UNHELD as error:
        raise SinkError(
            f"{dead_place(manifest.plan)}: cannot hold a value of a dead letter: {first_line(error)}; nothing is "
            "published; begin a new run whose dead letters go into a .parquet file"
        ) from error


def write_dead(path: Path, suffix: str, manifest: RunManifest, sealed: Sequence[Sealed], stage: Stage) -> None:
    """Join them to one durable file, in the format of the suffix. Raises OSError as the disk does, RunError."""
    # A driver that was stopped while it wrote goes on in a file of its own, not in what another has put in place.
    path.unlink(missing_ok=True)
    format_ = sink("jsonl" if suffix == ".jsonl" else "parquet")
    writer = format_.open(path, dead_schema(manifest.plan.read_schema), b"{}")
    try:
        for marker in sealed:
            if marker.dead is not None:
                for batch in read_part(stage.fetch("dead", marker.dead.name), 8192):
                    writer.write(batch)
    finally:
        writer.close()
    found = part_file(path, format_.count(path)).rows
    if found != manifest.dead:
        raise RunError(f"{path.name} holds {found} dead letters, {manifest.dead} were counted; nothing is published")


@contextmanager
def _told(what: object) -> Iterator[None]:
    """Errors of the disk in our words."""
    try:
        yield
    except OSError as error:
        raise disk_refused(what, error) from error
