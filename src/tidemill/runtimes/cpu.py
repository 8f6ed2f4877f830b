"""The CPU budget: how many cores this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_budget"]


def cpu_budget(cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Whole cores allowed by affinity and by the strictest quota of this process's cgroups (v2 `cpu.max`, v1
    `cpu.cfs_quota_us`); at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [q for place in _places(cgroup, own) if (q := _quota(place)) is not None]
    return max(1, min([cores, *(int(q) for q in quotas)]))


def _places(cgroup: Path, own: Path) -> Iterator[Path]:
    """The directories that may hold a limit: in a container the root's, under systemd the process's own and those
    above it.
    """
    yield cgroup
    yield cgroup / "cpu"
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = cgroup / "cpu" if controllers else cgroup
        for part in Path(path).parts[1:]:
            place /= part
            yield place


def _quota(place: Path) -> float | None:
    try:
        limit, period = (place / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((place / "cpu.cfs_quota_us").read_text())
        return None if limit_us <= 0 else limit_us / int((place / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
