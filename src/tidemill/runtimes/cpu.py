"""The CPU budget: how many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_budget"]


def cpu_budget(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores allowed by affinity and by the cgroup's quota (v2 `cpu.max`, v1 `cpu.cfs_quota_us`); at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if limit_us <= 0 else limit_us / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
