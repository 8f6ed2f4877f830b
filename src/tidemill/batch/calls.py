"""How many rows one model call of a run takes: what the user says, or what is measured to be quickest."""

from __future__ import annotations

from tidemill.batch.plan import Plan
from tidemill.prediction.live import Live
from tidemill.prediction.profile import measure

__all__ = ["call_rows"]

# Small calls stay in the cache: for most models about a thousand rows beat sixteen thousand.
_USUAL_ROWS = 1024
_CALL_BYTES = 8 << 20
# Measuring costs a fraction of a second, which a small input never earns back.
_WORTH_MEASURING = 256 << 20
_SECONDS = 0.3


def call_rows(live: Live, plan: Plan) -> int:
    """The rows of one call, for all of a run and its resumes: with another size a model whose rows are not quite
    independent of each other would answer otherwise. Bounded by bytes too, so that calls of wide rows stay small.
    """
    rows = plan.job.call_rows
    if rows is None:
        large = sum(f.snapshot.size for f in plan.files) >= _WORTH_MEASURING
        rows = measure(live, budget=_SECONDS).best_rows if large and live.divisible else _USUAL_ROWS
    return max(1, min(rows, _CALL_BYTES // sum(i.row_bytes for i in live.package.manifest.inputs)))
