"""`optimise`: make the forms, ask and time them beside their parent, judge, and write the one that is worth it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tidemill.batch.calls import CALL_ROWS
from tidemill.errors import ConfigError, NothingGained, PackageError, TidemillError
from tidemill.model.manifest import Figures, Optimised
from tidemill.model.package import Package, open_package
from tidemill.optimise import cpu
from tidemill.optimise.candidates import candidates
from tidemill.optimise.data import Evaluation, answers, read_evaluation
from tidemill.optimise.judge import best_of, gains_and_losses, verdict, why_slow
from tidemill.optimise.measure import ROUNDS, Timing, noise, ratio, time_all
from tidemill.optimise.metrics import Metric, metric_for
from tidemill.optimise.options import Candidate, OptimiseOptions, Report
from tidemill.packaging.rebuilt import Rebuilt, rebuild, try_rebuilt
from tidemill.prediction.live import Live
from tidemill.rows import Array, Rows
from tidemill.runtimes import Runtime

__all__ = ["differences", "optimise"]

# The parent, and the parent once more: how far these two are apart is what a difference must exceed.
_PARENT, _AGAIN = "", "parent again"


def optimise(
    directory: str | os.PathLike[str], options: OptimiseOptions, told: Callable[[str], None] | None = None
) -> Report:
    """Try every form of a package that the options ask for; write the best one (or `choose`) at `out` if that is given.

    `told` hears what is being done. Raises NothingGained, its report with it, where no form is worth having;
    PackageError for a package that does not run through ONNX Runtime, or `out` that exists; ConfigError for a metric,
    an output or a choice that does not fit; InputError for the table.
    """
    parent = open_package(directory)
    spec = parent.manifest.runtime
    if spec.name != "onnx":
        raise PackageError(
            f"{parent.name} runs through {spec.name}, and only ONNX packages are optimised: package the model as ONNX"
        )
    if options.out is not None and Path(options.out).exists() and not options.overwrite:
        raise PackageError(f"{options.out} exists; choose another --out, or pass --overwrite")
    say = told or (lambda _: None)
    say("reading the rows")
    live = Live.open(parent)
    data = read_evaluation(options.evaluate, options.target, live)
    metric = metric_for(options.metric, parent.manifest, data.truth, options.target, options.output)
    with tempfile.TemporaryDirectory(prefix="tidemill-") as work:
        trial = _Trial(parent, live, data, metric, Path(work))
        unused = {}
        for name, form in candidates(parent, _reached(live, data.calibration), options, Path(work)):
            say(f"trying {name}")
            why = form if isinstance(form, str) else trial.enter(name, form)
            if why:
                unused[name] = why
        say(f"timing {len(trial.forms)} forms, {ROUNDS} rounds")
        report = trial.judged(options, unused)
        name = _chosen(report, options)
        if options.out is None:
            return report
        say(f"writing {name}")
        return trial.written(report, name, options)


@dataclass(frozen=True, slots=True)
class _Form:
    rebuilt: Rebuilt
    live: Live
    metric: float
    differences: dict[str, float]
    notes: tuple[str, ...]


class _Trial:
    """The parent and the forms that answer, with what they answered to the same rows."""

    def __init__(self, parent: Package, live: Live, data: Evaluation, metric: Metric, work: Path) -> None:
        self.parent, self.live, self.data, self.metric, self.work = parent, live, data, metric, work
        self.forms: dict[str, _Form] = {}
        self._expected, _, _ = answers(live, data.rows)
        self._value = metric.score(self._expected)

    def enter(self, name: str, rebuilt: Rebuilt) -> str:
        """Load a form and ask it everything; returns why it cannot take part, or ""."""
        try:
            live = Live.open(try_rebuilt(self.parent, rebuilt, self.work / name))
        except TidemillError as error:
            return str(error)
        given, good, why = answers(live, self.data.rows)
        notes: tuple[str, ...] = ()
        value = float("nan")
        if good.all():
            value = self.metric.score(given)
        else:
            notes = (f"{len(good) - int(good.sum())} of {len(good)} rows fail: {why}",)
        self.forms[name] = _Form(rebuilt, live, value, differences(self._expected, given), notes)
        return ""

    def judged(self, options: OptimiseOptions, unused: Mapping[str, str]) -> Report:
        """Time everyone, and say what is worth having."""
        lives = {
            _PARENT: self.live,
            _AGAIN: Live.open(self.parent),
            **{name: form.live for name, form in self.forms.items()},
        }
        timings = time_all(lives, self.data.rows)
        base = timings[_PARENT]
        batch_noise = noise(ratio(timings[_AGAIN].rates, base.rates))
        single_noise = noise(ratio(timings[_AGAIN].single_rates, base.single_rates))
        before = _figures(self.live, self._value, base)
        found = []
        for name, form in self.forms.items():
            figures = _figures(form.live, form.metric, timings[name])
            batch = ratio(timings[name].rates, base.rates)
            single = ratio(timings[name].single_rates, base.single_rates)
            size = figures.bytes / before.bytes
            gains, losses, slower = gains_and_losses(batch, single, size, batch_noise, single_noise)
            drop = self.metric.drop(self._value, form.metric)
            found.append(
                Candidate(
                    name=name,
                    how=form.rebuilt.how,
                    verdict=verdict(drop, options.max_drop, gains),
                    figures=figures,
                    drop=drop,
                    batch=batch,
                    single=single,
                    size=size,
                    rows_independent=form.live.divisible,
                    differences=form.differences,
                    gains=gains,
                    losses=losses,
                    slower=slower,
                    notes=(*form.notes, *(why_slow(name) if batch.high < 1.0 - batch_noise else ())),
                )
            )
        best, reason = best_of(found)
        return Report(
            package=self.parent.name,
            version=self.parent.version,
            fingerprint=self.live.fingerprint,
            data=self.data.table.name,
            rows=self.data.rows.n,
            calibration_rows=self.data.calibration.n,
            metric=self.metric.name,
            max_drop=options.max_drop,
            call_rows=CALL_ROWS,
            rounds=ROUNDS,
            machine=cpu.describe(),
            noise=max(batch_noise, single_noise),
            parent=before,
            candidates=tuple(found),
            unused=dict(unused),
            notes=self.data.notes,
            best=best.name if best is not None else None,
            reason=reason,
        )

    def written(self, report: Report, name: str, options: OptimiseOptions) -> Report:
        """The report with the package that was made of one of the forms."""
        chosen = next(c for c in report.candidates if c.name == name)
        optimised = Optimised(
            parent=report.fingerprint,
            parent_version=report.version,
            how=chosen.how,
            data=report.data,
            rows=report.rows,
            metric=report.metric,
            call_rows=report.call_rows,
            machine=report.machine,
            before=report.parent,
            after=chosen.figures,
            differences=chosen.differences,
        )
        made = rebuild(
            self.parent,
            self.forms[name].rebuilt,
            str(options.out),
            version=options.version or f"{self.parent.version}-{name}",
            table=self.data.table,
            optimised=optimised,
            overwrite=options.overwrite,
        )
        notes = (*report.notes, *made.notes)
        return msgspec.structs.replace(report, notes=notes, written=str(made.package.directory))


def _chosen(report: Report, options: OptimiseOptions) -> str:
    """The name of the form to write. Raises NothingGained, ConfigError for a choice that is not offered."""
    offered = [c.name for c in report.candidates if c.verdict == "offered"]
    if options.choose is not None and options.choose not in offered:
        why = "it is none of them"
        for one in report.candidates:
            if one.name == options.choose:
                lost = f"{report.metric} is worse by {one.drop:.4g}, and {report.max_drop:g} is allowed"
                why = lost if one.verdict == "metric" else "it is neither quicker nor smaller"
        why = report.unused.get(options.choose, why)
        raise ConfigError(f"--choose {options.choose}: not offered ({why}); offered: {', '.join(offered) or 'none'}")
    if options.choose is not None:
        return options.choose
    if report.best is None and (options.out is not None or not offered):
        raise NothingGained(f"no form of {report.package} is worth having: {report.reason}", report)
    return report.best or offered[0]


class _Recorder:
    """A runtime that keeps the rows it is asked, as they come out of intake, fills and transform."""

    def __init__(self, runtime: Runtime) -> None:
        self.version, self.releases_gil = runtime.version, runtime.releases_gil
        self.seen: list[Rows] = []
        self._runtime = runtime

    def run(self, rows: Rows) -> Rows:
        self.seen.append(rows)
        return self._runtime.run(rows)


def _reached(live: Live, rows: Rows) -> Rows:
    recorder = _Recorder(live.runtime)
    Live(live.package, recorder).predict(rows)
    return Rows.concat(recorder.seen)


def _figures(live: Live, metric: float, timing: Timing) -> Figures:
    package, manifest = live.package, live.package.manifest
    kept = manifest.files.keys() - {manifest.samples, manifest.profile}
    return Figures(
        metric=metric,
        rows_per_second=round(timing.rows_per_second, 1),
        p50_ms=round(timing.single_ms(0.5), 6),
        p99_ms=round(timing.single_ms(0.99), 6),
        bytes=sum(package.path(name).stat().st_size for name in kept),
    )


def differences(expected: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, float]:
    """How far two packages' answers to the same rows are apart: of each float output the greatest difference (infinite
    where one of both is no number, or has another shape), of others the share of rows that differ.
    """
    found = {}
    for name in expected.keys() & given.keys():
        want, got = expected[name], given[name]
        if want.shape != got.shape:
            found[name] = math.inf
        elif want.dtype.kind != "f":
            found[name] = float(np.mean(got != want))
        elif not np.array_equal(np.isfinite(got), np.isfinite(want)):
            found[name] = math.inf
        else:
            finite = np.isfinite(want)
            apart = np.abs(got[finite].astype(np.float64) - want[finite].astype(np.float64))
            found[name] = float(apart.max(initial=0.0))
    return dict(sorted(found.items()))
