"""Runs one command and writes what it took as JSON. `python measured.py RESULT COMMAND…`; standard library only.

A program of its own because a child begins with its parent's peak of memory: this parent is small.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL_S = 0.05


class Peak(threading.Thread):
    """The highest resident memory of a process and its descendants together, bytes, sampled 20 times a second.

    Pages that they share are counted for each of them.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self.processes = 0
        self.ended = threading.Event()
        self._pid = pid

    def run(self) -> None:
        while not self.ended.wait(INTERVAL_S):
            family = _family(self._pid)
            self.processes = max(self.processes, len(family))
            self.bytes = max(self.bytes, sum(map(_resident, family)))


def _family(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            for tasks in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (tasks / "children").read_text().split())
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def main(result: str, *command: str) -> int:
    """Run, measure, write; the exit code is the command's."""
    began = time.perf_counter()
    with subprocess.Popen(command) as process:
        peak = Peak(process.pid)
        peak.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        peak.ended.set()
        process.returncode = os.waitstatus_to_exitcode(status)
    # The kernel's figure is exact, but that of one process; the sampled one counts all of them.
    found = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": max(usage.ru_maxrss * 1024, peak.bytes) / 1e6,
        "processes": peak.processes,
    }
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
