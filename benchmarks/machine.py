"""The machine: which cores are used, what it is, and how busy others keep it while something is measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PACKAGES = ("tidemill", "uvloop", "httptools", "orjson", "granian", "onnxruntime", "pyarrow", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Cores:
    """The core of the server and that of the client; the same one where the machine has no second."""

    server: int
    client: int

    @property
    def both(self) -> str:
        """As `taskset -c` wants it."""
        return ",".join(map(str, sorted({self.server, self.client})))


def cores() -> Cores:
    """The first core we may use, and the next that is not its hyper-thread twin."""
    allowed = sorted(os.sched_getaffinity(0))
    twins = _twins(allowed[0])
    others = [c for c in allowed[1:] if c not in twins] or allowed[1:] or allowed
    return Cores(allowed[0], others[0])


def pinned(core: int | str, command: list[str | Path]) -> list[str]:
    """The command, kept on `core` (or a list of them)."""
    return ["taskset", "-c", str(core), *map(str, command)]


def describe() -> dict[str, Any]:
    """What a reader must know to judge the figures."""
    memory = psutil.virtual_memory().total / 1e9
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{memory:.0f} GB",
        "system": f"{_distribution()}, Linux {platform.release().split('-')[0]}, {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 2),
    }


class Bystanders:
    """How much of the machine's cores went to neither the server nor the client, as a share of all of them."""

    def __init__(self) -> None:
        self._busy, self._total = _ticks()
        self._ours = -_own_seconds()

    def ours(self, seconds: float) -> None:
        """Count CPU seconds of a measured process."""
        self._ours += seconds

    def share(self) -> float:
        """From the start until now: 0 on a quiet machine, 1 when others use every core (stolen time included)."""
        busy, total = _ticks()
        return max(0.0, (busy - self._busy - self._ours - _own_seconds()) / max(total - self._total, 1e-9))


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _ticks() -> tuple[float, float]:
    times = psutil.cpu_times()
    idle = times.idle + times.iowait
    # Guest time is part of user time already.
    total = times.user + times.nice + times.system + times.irq + times.softirq + times.steal + idle
    return total - idle, total


def _twins(core: int) -> set[int]:
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _cpu() -> str:
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    }
    name = fields.get("model name", platform.processor() or "unknown CPU")
    hypervisor = " (virtual machine)" if "hypervisor" in fields.get("flags", "") else ""
    return f"{name}, family {fields.get('cpu family', '?')} model {fields.get('model', '?')}{hypervisor}"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "src", "benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    others = [line for line in changed.splitlines() if "benchmarks/REPORT" not in line]
    return head + (" with uncommitted changes" if others else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
