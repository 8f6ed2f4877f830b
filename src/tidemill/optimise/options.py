"""What a user may say about an optimisation, and what is told of it: plain data, ready for JSON."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.model.manifest import Figures

__all__ = ["Candidate", "MetricName", "OptimiseOptions", "Quantisation", "Report", "Spread", "Verdict"]

Quantisation = Literal["static", "fp16", "dynamic"]
MetricName = Literal["accuracy", "roc_auc", "log_loss", "rmse", "mae", "r2"]
Verdict = Literal["offered", "metric", "no gain"]


class OptimiseOptions(Config, frozen=True, kw_only=True):
    """What `optimise` is asked for.

    `evaluate` is a table of rows with the truth in the column `target`. `max_drop` is how much worse the metric may
    become, in its own units (for losses: how much it may rise). `quantise` empty and `prune` empty: every way there is
    but pruning, which needs its shares (of units, of trees) said. `output` names the output that the metric reads where
    it is not plain. `choose` is the candidate to write at `out` instead of the best one.
    """

    evaluate: str
    target: str
    metric: MetricName
    max_drop: Annotated[float, msgspec.Meta(ge=0)]
    quantise: tuple[Quantisation, ...] = ()
    prune: tuple[Annotated[float, msgspec.Meta(gt=0, lt=1)], ...] = ()
    output: str | None = None
    out: str | None = None
    choose: str | None = None
    version: str | None = None
    overwrite: bool = False


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio to the parent, measured in rounds: the middle one, and the quarters of the rounds below and above."""

    low: float
    middle: float
    high: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the model beside its parent.

    `drop` is how much worse the metric is (negative: better). `batch` is its rows/s and `single` its speed at one row
    (the parent's seconds over its own), both 1 for the parent; `size` its bytes over the parent's. `gains` and `losses`
    are what lies beyond the noise, in words, `slower` whether speed is among the losses; `differences` are those of
    `Optimised`.
    """

    name: str
    how: str
    verdict: Verdict
    figures: Figures
    drop: float
    batch: Spread
    single: Spread
    size: float
    rows_independent: bool
    differences: dict[str, float]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    slower: bool
    notes: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and what came of it.

    `parent` are the figures of the package as it is; `noise` is the share by which the parent differs from itself in
    the same rounds: less is no difference. `best` is the quickest of those offered, if it is no slower than
    the parent, and `unused` why a way did not come to a candidate. `written` is the directory of the new package.
    """

    package: str
    version: str
    fingerprint: str
    data: str
    rows: int
    calibration_rows: int
    metric: MetricName
    max_drop: float
    call_rows: int
    rounds: int
    machine: str
    noise: float
    parent: Figures
    candidates: tuple[Candidate, ...]
    unused: dict[str, str]
    notes: tuple[str, ...]
    best: str | None
    reason: str
    written: str | None = None
