"""Small named checks that any package must pass, through the one prediction path.

Each check is a plain function from a Subject to a Finding. `tidemill check` prints them, `tidemill.testing` gives
them to pytest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tidemill.assurance import specimens
from tidemill.assurance.compare import compare
from tidemill.assurance.specimens import Edit, tiled
from tidemill.assurance.tables import read_outputs
from tidemill.errors import Problem
from tidemill.model.package import Package, open_package
from tidemill.model.samples import read_samples
from tidemill.model.signature import Input
from tidemill.prediction.live import Live
from tidemill.prediction.profile import example_rows, measure
from tidemill.prediction.result import Result
from tidemill.rows import Array, Rows

__all__ = ["CHECKS", "Check", "Checked", "Finding", "Subject", "run_check", "run_checks"]

SAMPLES = 256
MANY_ROWS = 10_000
MANY_BYTES = 256 << 20
THREADS = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """What a check looks at: a loaded package, `rows` it should accept, and its `answer` to all of them at once.

    `sampled` tells whether the rows are the package's samples (else they are made from its signature).
    """

    live: Live
    rows: Rows
    answer: Result
    sampled: bool

    @classmethod
    def of(cls, package: Package) -> Subject:
        """Load a package and ask it for the answers that the checks compare with."""
        live = Live.open(package)
        samples = read_samples(package)
        rows = example_rows(live, SAMPLES)
        return cls(live, rows, live.predict(rows), samples is not None and samples[0].num_rows > 0)

    def difference(self, result: Result, index: Array) -> str:
        """How a result differs from the known answers of the rows at `index`; empty when it does not."""
        expected = Result(self.answer.outputs.take(index), _problems_at(self.answer, index))
        if result.statuses() != expected.statuses():
            bad = next(i for i, (a, b) in enumerate(zip(result.statuses(), expected.statuses(), strict=True)) if a != b)
            return f"row {bad} is {result.statuses()[bad]}, was {expected.statuses()[bad]}"
        outputs = self.live.package.manifest.outputs
        return compare(outputs, expected.outputs.columns, result.outputs.columns).example


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and what it rests on, in one line."""

    verdict: Literal["pass", "fail", "skip"]
    figures: str


@dataclass(frozen=True, slots=True)
class Checked:
    """One check that was run: its name, what it asks, the verdict and its figures, and the seconds it took."""

    name: str
    question: str
    verdict: Literal["pass", "fail", "skip"]
    figures: str
    seconds: float


Check = Callable[[Subject], Finding]


def run_checks(package: str | os.PathLike[str] | Package) -> list[Checked]:
    """Run every check on a package. Raises PackageError where it cannot be opened or loaded."""
    subject = Subject.of(package if isinstance(package, Package) else open_package(package))
    return [run_check(check, subject) for check in CHECKS]


def run_check(check: Check, subject: Subject) -> Checked:
    """Run one check."""
    started = time.perf_counter()
    finding = check(subject)
    seconds = time.perf_counter() - started
    return Checked(check.__name__, (check.__doc__ or "").strip(), finding.verdict, finding.figures, seconds)


def samples_reproduce(subject: Subject) -> Finding:
    """The samples get the outputs that the package holds for them."""
    samples = read_samples(subject.live.package)
    if samples is None or not samples[0].num_rows:
        return Finding("skip", "the package has no samples; `tidemill package --like TABLE` keeps some")
    inputs, expected = samples
    live = subject.live
    result = live.predict(live.intake.from_arrow(inputs))
    if result.problems:
        first = result.problems[0]
        rows = len({p.row for p in result.problems})
        return Finding("fail", f"{rows} of {result.n} have no answer; row {first.row}: {first.message}")
    outputs = live.package.manifest.outputs
    found = compare(outputs, read_outputs(outputs, expected), result.outputs.columns)
    if not found.equal:
        return Finding("fail", f"{int((~found.rows).sum())} of {result.n} differ; {found.example}")
    return Finding("pass", f"{result.n} rows, largest difference {found.worst:g}")


def answers_rows(subject: Subject) -> Finding:
    """Good rows are answered, with text outputs among their labels and no NaN or infinity."""
    result = subject.answer
    if result.problems:
        return Finding("fail", f"row {result.problems[0].row}: {result.problems[0].message}")
    for output in subject.live.package.manifest.outputs:
        array = result.outputs[output.name]
        if output.type.is_float and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            return Finding("fail", f"{output.name} of row {row} is not finite, which JSON cannot carry")
        if output.datatype == "BYTES" and output.labels:
            strange = set(array.reshape(-1).tolist()) - set(output.labels)
            if strange:
                return Finding("fail", f"{output.name} gave {strange.pop()!r}, which is none of its labels")
    return Finding("pass", f"{result.n} rows {'from the samples' if subject.sampled else 'made from the signature'}")


def single_equals_batched(subject: Subject) -> Finding:
    """A row alone gets the answer that it gets among others, at every size of call."""
    if not subject.live.divisible:
        return Finding("skip", "its rows depend on each other (rows_independent = false)")
    sizes = [s for s in (1, 3, 16, 100) if s <= subject.rows.n]
    for size in sizes:
        for start in range(0, subject.rows.n, size):
            stop = min(start + size, subject.rows.n)
            text = subject.difference(subject.live.predict(subject.rows.slice(start, stop)), np.arange(start, stop))
            if text:
                return Finding("fail", f"rows {start} to {stop - 1} as one call: {text}")
    return Finding("pass", f"{subject.rows.n} rows in calls of {', '.join(map(str, sizes))}")


def shuffled_rows(subject: Subject) -> Finding:
    """Rows in another order get the same answers, in that order."""
    if not subject.live.divisible:
        return Finding("skip", "its rows depend on each other (rows_independent = false)")
    random = np.random.default_rng(0)
    for _ in range(5):
        index = random.permutation(subject.rows.n)
        text = subject.difference(subject.live.predict(subject.rows.take(index)), index)
        if text:
            return Finding("fail", text)
    return Finding("pass", f"{subject.rows.n} rows in 5 orders")


def repeats(subject: Subject) -> Finding:
    """Asked again, it answers the same."""
    if not subject.live.package.manifest.repeatable:
        return Finding("skip", "its calls may not be repeated (repeatable = false)")
    everything = np.arange(subject.rows.n)
    for _ in range(3):
        text = subject.difference(subject.live.predict(subject.rows), everything)
        if text:
            return Finding("fail", text)
    return Finding("pass", "3 times")


def nulls(subject: Subject) -> Finding:
    """A missing cell is refused where the signature forbids it, and answered where it allows it."""
    inputs = subject.live.package.manifest.inputs
    refused = [e for e in specimens.breaking(inputs) if e.code == "null"]
    allowed = specimens.missing(inputs)
    return _edited(subject, [*refused, *allowed], f"{len(refused)} refused, {len(allowed)} answered")


def bounds(subject: Subject) -> Finding:
    """A value just over a limit is refused, the limit itself is answered."""
    inputs = subject.live.package.manifest.inputs
    over = [e for e in specimens.breaking(inputs) if e.code.endswith("imum")]
    at = [e for e in specimens.at_limits(inputs) if not _of(subject, e).categories]
    if not over and not at:
        return Finding("skip", "no input has a minimum or a maximum")
    return _edited(subject, [*over, *at], f"{len(over)} refused, {len(at)} answered")


def categories(subject: Subject) -> Finding:
    """An unknown category is refused, every known one is answered."""
    inputs = subject.live.package.manifest.inputs
    unknown = [e for e in specimens.breaking(inputs) if e.code == "unknown_category"]
    known = [e for e in specimens.at_limits(inputs) if _of(subject, e).categories]
    if not known:
        return Finding("skip", "no input has categories")
    return _edited(subject, [*unknown, *known], f"{len(unknown)} refused, {len(known)} answered")


def bad_rows_harm_nobody(subject: Subject) -> Finding:
    """Bad rows among good ones are set aside with their reason, and the good ones get the answers they get alone."""
    edits = specimens.breaking(subject.live.package.manifest.inputs)
    if not edits:
        return Finding("skip", "the signature forbids no value")
    if not subject.live.divisible:
        return Finding("skip", "its rows depend on each other (rows_independent = false)")
    n = max(subject.rows.n, 2 * len(edits))
    index = np.arange(n) % subject.rows.n
    spoiled = [(2 * i, edit) for i, edit in enumerate(edits)]
    result = subject.live.predict(specimens.apply(tiled(subject.rows, n), spoiled))
    rejected = {p.row for p in result.problems}
    expected = {row for row, _ in spoiled} | {p.row for p in _problems_at(subject.answer, index)}
    if rejected != expected:
        row = min(rejected ^ expected)
        return Finding("fail", f"row {row} was {'refused' if row in rejected else 'answered'} by mistake")
    good = np.setdiff1d(np.arange(n), list(expected))
    text = subject.difference(Result(result.outputs.take(good)), index[good])
    return Finding("fail", text) if text else Finding("pass", f"{len(edits)} bad among {n}")


def empty_input(subject: Subject) -> Finding:
    """No rows in give no rows out, with the declared datatypes."""
    result = subject.live.predict(subject.rows.slice(0, 0))
    for output in subject.live.package.manifest.outputs:
        array = result.outputs[output.name]
        if len(array) or array.dtype != output.type.dtype:
            return Finding("fail", f"{output.name} is {array.dtype}{list(array.shape)}")
    return Finding("pass", "0 rows")


def many_rows(subject: Subject) -> Finding:
    """Ten thousand rows at once (fewer where they are large) get the answers of the few."""
    if not subject.live.divisible:
        return Finding("skip", "its rows depend on each other (rows_independent = false)")
    row_bytes = max(1, subject.rows.nbytes // subject.rows.n)
    n = max(subject.rows.n, min(MANY_ROWS, MANY_BYTES // row_bytes))
    index = np.arange(n) % subject.rows.n
    started = time.perf_counter()
    result = subject.live.predict(subject.rows.take(index))
    seconds = time.perf_counter() - started
    text = subject.difference(result, index)
    return Finding("fail", text) if text else Finding("pass", f"{n:,} rows in {seconds:.2f} s")


def thread_safety(subject: Subject) -> Finding:
    """Calls from several threads at once get the answers of calls one by one."""
    if not subject.live.divisible:
        return Finding("skip", "its rows depend on each other (rows_independent = false)")
    step = max(1, subject.rows.n // THREADS)
    starts = [start % subject.rows.n for start in range(0, step * THREADS * 4, step)]
    calls = [np.arange(start, min(start + step, subject.rows.n)) for start in starts]
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda index: subject.live.predict(subject.rows.take(index)), calls))
    for index, result in zip(calls, results, strict=True):
        text = subject.difference(result, index)
        if text:
            return Finding("fail", text)
    return Finding("pass", f"{len(calls)} calls from {THREADS} threads")


def latency_profile(subject: Subject) -> Finding:
    """One row is answered within the package's own p99 (medians by call size, on this machine)."""
    profile = measure(subject.live)
    slo = subject.live.package.manifest.slo.p99_ms
    one = profile.cost(1) * 1000
    pairs = zip(profile.sizes, profile.seconds, strict=True)
    shown = [f"{n}: {s * 1000:.3g} ms" for n, s in list(pairs)[::2]]
    best = profile.best_rows
    figures = f"rows {', '.join(shown)}; best {best / profile.cost(best):,.0f} rows/s at {best} rows"
    return Finding("pass", figures) if one <= slo else Finding("fail", f"over the p99 of {slo:g} ms; {figures}")


CHECKS: tuple[Check, ...] = (
    samples_reproduce,
    answers_rows,
    repeats,
    single_equals_batched,
    shuffled_rows,
    nulls,
    bounds,
    categories,
    bad_rows_harm_nobody,
    empty_input,
    many_rows,
    thread_safety,
    latency_profile,
)


def _edited(subject: Subject, edits: Sequence[Edit], figures: str) -> Finding:
    """Each edit on a good row of its own: refused with its code and field, or answered where it has no code."""
    answered = np.setdiff1d(np.arange(subject.rows.n), [p.row for p in subject.answer.problems])
    if not len(answered):
        return Finding("fail", "no row to start from is answered")
    for i, edit in enumerate(edits):
        base = int(answered[i % len(answered)])
        row = specimens.apply(subject.rows.slice(base, base + 1), [(0, edit)])
        problems = subject.live.predict(row).problems
        shown = "missing" if edit.value is None else repr(edit.value)
        if not edit.code and problems:
            return Finding("fail", f"{edit.field} {shown} is allowed, but got: {problems[0].message}")
        if edit.code and not any(p.code == edit.code and p.field == edit.field for p in problems):
            got = problems[0].message if problems else "an answer"
            return Finding("fail", f"{edit.field} {shown} must be refused as {edit.code}, but got: {got}")
    return Finding("pass", figures)


def _of(subject: Subject, edit: Edit) -> Input:
    return subject.live.intake.by_name[edit.input]


def _problems_at(answer: Result, index: Array) -> list[Problem]:
    """The problems of an answer whose rows are taken at `index`."""
    if not answer.problems:
        return []
    return [p.at(i) for i, row in enumerate(index.tolist()) for p in answer.problems if p.row == row]
