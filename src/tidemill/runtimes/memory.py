"""What the machine has left, and what a process takes of it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["free_memory", "own_memory", "private_memory"]

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def free_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes that may still be taken, of the machine and of the strictest of this process's cgroups (v2); None where
    nothing is known.
    """
    found = []
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        own = (proc / "self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        own = []
    place = cgroup
    parts = next((Path(line[3:]).parts[1:] for line in own if line.startswith("0::")), ())
    for part in ("", *parts):
        place /= part
        try:
            limit = int((place / "memory.max").read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            # Pages of files that nobody uses are given back when they are wanted.
            used = int((place / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            found.append(max(0, limit - used))
        except (OSError, ValueError):
            continue
    return min(found, default=None)


def own_memory(pid: int, proc: Path = PROC) -> int | None:
    """Bytes that a process has for itself, and its share of what it has with others; None if it cannot be known."""
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), None)
    except (OSError, ValueError):
        return None


def private_memory(pid: int, proc: Path = PROC) -> int | None:
    """Bytes of memory that a process has for itself, in RAM or swapped out; None where that cannot be known.

    Files and memory that it shares with others are not its own: they are bounded by who made them.
    """
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "VmSwap:")))
    except (OSError, ValueError, IndexError):
        return None
