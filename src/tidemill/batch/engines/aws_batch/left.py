"""What runs on AWS Batch left in a store: their roots, with the stages of those that never came to their commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from tidemill.batch.engines.aws_batch.client import Aws
from tidemill.batch.engines.aws_batch.jobs import living
from tidemill.batch.engines.aws_batch.records import ORDER, Order, last_submission, read_record, root_of
from tidemill.batch.plan import Plan
from tidemill.batch.stage import HELD, open_stage
from tidemill.batch.stores.objects import Entry, Objects
from tidemill.errors import TidemillError

__all__ = ["LeftRoot", "is_gone", "left_roots", "remove_roots"]

_PLAN = "stage/plan.json"
_BEGINNING = re.compile(rf"(?:(?P<run>[^/]+)/)?(?:{re.escape(ORDER)}|{re.escape(_PLAN)})")
_MANIFEST = "stage.manifest.json"


@dataclass(frozen=True, slots=True)
class LeftRoot:
    """The root of a run, what of it may go, when it was last written to, and why it stays: "" where it does not."""

    uri: str
    entries: tuple[Entry, ...]
    modified: datetime
    kept: str


def left_roots(uri: str, older_than: timedelta, now: datetime) -> Iterator[LeftRoot]:
    """Roots that lie at a prefix or directly below it and that nobody has written to for so long.

    A run lives while AWS Batch has a job of it, or cannot be asked. Raises RunError where the store cannot be asked.
    """
    entries = list(Objects(uri).list())
    beginnings = {m["run"] or "" for e in entries if (m := _BEGINNING.fullmatch(e.name)) is not None}
    for run in sorted(beginnings):
        root, start = (f"{uri.rstrip('/')}/{run}", f"{run}/") if run else (uri.rstrip("/"), "")
        inside = {e.name.removeprefix(start): e for e in entries if e.name.startswith(start)}
        modified = max(e.modified for e in inside.values())
        if now - modified < older_than or (ORDER not in inside and not _was_planned(root)):
            continue
        # Manifest and dead letters of an output in a database belong to that output.
        published = _MANIFEST in inside
        gone = [e for name, e in inside.items() if not (published and name.startswith("stage."))]
        if gone:
            yield LeftRoot(root, tuple(gone), modified, _wanted(root, f"stage/{HELD}" in inside))


def remove_roots(uri: str, found: LeftRoot) -> None:
    """Remove a root that was found below this prefix. Raises RunError."""
    Objects(uri).delete(e.name for e in found.entries)


def is_gone(stage: str) -> bool:
    """Whether the root of the run with this stage is not there any more. Raises RunError where the store is away."""
    return open_stage(root_of(stage)).get(ORDER) is None


def _was_planned(root: str) -> bool:
    """Whether a submission was cut off there before its order: a stage of the run that the root is named for."""
    data = open_stage(root).get(_PLAN)
    try:
        return data is not None and msgspec.json.decode(data, type=Plan).run_id == root.rpartition("/")[2]
    except msgspec.DecodeError:
        return False


def _wanted(root: str, held: bool) -> str:
    """Why a root is still wanted."""
    if held:
        return "held: publish or discard the run"
    try:
        stage = open_stage(root)
        submission = last_submission(stage)
        if submission is None:
            return ""
        read_record(stage, ORDER, Order)
        return "AWS Batch still has its run" if living(Aws(submission.region), submission) else ""
    except TidemillError as error:
        return f"whether its run lives is not known: {error}"
