"""Do all modes agree? The same rows, good and bad, through each of them; values, statuses and reasons compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.assurance import modes, specimens
from tidemill.assurance.compare import compare
from tidemill.assurance.modes import Answers
from tidemill.assurance.tables import read_rows
from tidemill.errors import InputError, ModelError
from tidemill.model.package import open_package
from tidemill.model.signature import Output
from tidemill.prediction.live import Live
from tidemill.prediction.profile import example_rows
from tidemill.rows import Rows

__all__ = ["DEFAULT_ROWS", "ModeReport", "Verification", "verify"]

DEFAULT_ROWS = 2_000
# A bad row among this many: enough that most requests hold one, few enough that most rows have an answer.
BAD_EVERY = 10
SAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class ModeReport:
    """How one mode compares with the in-process answers: `rows` asked, how many of them have `equal` values (within
    the declared tolerance), the `largest` difference of a float, equal `statuses` and `texts`, seconds taken, and
    the first difference in words.
    """

    mode: str
    rows: int
    equal: int
    largest: float
    statuses: int
    texts: int
    seconds: float
    difference: str

    @property
    def agrees(self) -> bool:
        return not self.difference


@dataclass(frozen=True, slots=True)
class Verification:
    """The modes that were run, and the rows: how many of them were `bad` on purpose, and where they are from."""

    modes: tuple[ModeReport, ...]
    rows: int
    bad: int
    source: str

    @property
    def agrees(self) -> bool:
        return all(mode.agrees for mode in self.modes)


def verify(package: str | os.PathLike[str], source: str | None = None, rows: int = DEFAULT_ROWS) -> Verification:
    """Send rows through every mode and compare each with the in-process answers.

    `source` is a table to take rows from (else the package's samples, else values made from its signature); they
    are repeated up to `rows`. Every rule of the signature is broken by some of them, unless rows depend on each
    other: then one bad row takes all answers away, and there is nothing to compare.

    Raises SourceError or InputError for a table that cannot be read, PackageError, ModelError where no row is
    answered, and Unavailable if the server does not start.
    """
    live = Live.open(open_package(package))
    good, origin = _rows(live, source, rows)
    asked, bad = _with_bad(live, good)
    expected = modes.in_process(live, asked)
    if "ok" not in expected.statuses:
        raise ModelError(f"none of {asked.n} rows is answered, so there is nothing to compare: {expected.texts[0]}")
    outputs = live.package.manifest.outputs
    reports = [_report("in-process", outputs, expected, expected)]
    reports.append(_report("batch", outputs, expected, modes.batch(live, asked)))
    with modes.serving(live.package.directory) as address:
        found = modes.rest(live, asked, address, binary=False)
        reports.append(_report("REST JSON", outputs, expected, found, over_json=True))
        reports.append(_report("REST binary", outputs, expected, modes.rest(live, asked, address, binary=True)))
        reports.append(_report("gRPC", outputs, expected, modes.grpc(live, asked, address)))
    return Verification(tuple(reports), asked.n, bad, origin)


def _rows(live: Live, source: str | None, n: int) -> tuple[Rows, str]:
    if source is None:
        found = example_rows(live, SAMPLES)
        origin = "the package's samples" if live.package.manifest.samples else "the signature"
    else:
        found, origin = live.intake.from_arrow(read_rows(source, live, n)), source
    if not found.n:
        raise InputError(f"{origin}: has no rows")
    return specimens.tiled(found, n), origin


def _with_bad(live: Live, rows: Rows) -> tuple[Rows, int]:
    """Each rule of the signature broken in turn, one row in ten."""
    edits = specimens.breaking(live.package.manifest.inputs)
    if not edits or not live.divisible:
        return rows, 0
    places = range(BAD_EVERY // 2, rows.n, BAD_EVERY)
    return specimens.apply(rows, [(row, edits[i % len(edits)]) for i, row in enumerate(places)]), len(places)


def _report(
    mode: str, outputs: Sequence[Output], expected: Answers, found: Answers, *, over_json: bool = False
) -> ModeReport:
    n = len(expected.statuses)
    answered = np.array([a == b == "ok" for a, b in zip(expected.statuses, found.statuses, strict=True)], np.bool_)
    values = compare(
        outputs,
        {name: array[answered] for name, array in expected.outputs.items()},
        {name: array[answered] for name, array in found.outputs.items()},
        over_json=over_json,
    )
    equal = int(values.rows.sum()) + int((~answered).sum())
    statuses = sum(a == b for a, b in zip(expected.statuses, found.statuses, strict=True))
    texts = sum(a == b for a, b in zip(expected.texts, found.texts, strict=True))
    difference = next(_differences(expected, found), "") or values.example
    return ModeReport(mode, n, equal, values.worst, statuses, texts, found.seconds, difference)


def _differences(expected: Answers, found: Answers) -> Iterator[str]:
    for what in ("statuses", "texts"):
        for row, (a, b) in enumerate(zip(getattr(expected, what), getattr(found, what), strict=True)):
            if a != b:
                yield f"row {row}: {b!r}, expected {a!r}"
