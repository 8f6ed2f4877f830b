"""Batch: bounded tables scored as a whole or not at all. Source → shards → chunks → the path → sink, with a ledger."""

from __future__ import annotations

from tidemill.batch.options import Progress, RunReport, ScoreOptions
from tidemill.batch.score import score

__all__ = ["Progress", "RunReport", "ScoreOptions", "score"]
