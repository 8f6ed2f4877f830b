"""What processes really take of the machine's memory, followed over time, and how fast it grows."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from time import monotonic

import numpy as np
import psutil

__all__ = ["Memory", "Sample", "family", "growth", "pss"]

# Addresses, access, offset, device, inode, and the file or what else it is.
HEADER = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")
LIBRARY = re.compile(r"\.so(\.[0-9.]+)?( \(deleted\))?$")

Sample = tuple[float, float]
"""Seconds since the beginning, and megabytes."""


def pss(pid: int) -> float:
    """The proportional set size of a process in MB: its own pages, and its share of those that others map, too; without
    the interpreter and shared libraries. Of these the share moves with whatever else the machine runs: where tests in
    the same virtual environment ended, three processes seemed to grow by 24 MB in a minute.

    Raises FileNotFoundError or ProcessLookupError for one that is gone.
    """
    total, counts, found = 0, True, False
    program = os.path.realpath(f"/proc/{pid}/exe")
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("Pss:"):
                found = True
                total += int(line.split()[1]) if counts else 0
            elif (header := HEADER.match(line)) is not None:
                counts = header[1] != program and LIBRARY.search(header[1]) is None
    if not found:
        raise ProcessLookupError(f"process {pid} is ending")
    return total * 1024 / 1e6


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


class Memory(threading.Thread):
    """Samples the sum of PSS of a process and its descendants, once in `interval` seconds, until `stop`."""

    def __init__(self, pid: int, interval: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.began = monotonic()
        self._pid = pid
        self._interval = interval
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                total = sum(pss(pid) for pid in family(self._pid))
            except OSError:
                continue  # one of them ended meanwhile: the next sample has the others
            self.samples.append((self.now(), total))

    def now(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self.began

    def stop(self) -> None:
        """Take no more samples."""
        self._ended.set()
        self.join()


def growth(samples: Sequence[Sample]) -> float:
    """MB a minute: the median of the slopes between all pairs of samples (Theil and Sen), which peaks do not move.

    Raises ValueError for fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples have no slope")
    at, size = np.array(samples, np.float64).T
    first, second = np.triu_indices(len(samples), 1)
    return float(np.median((size[second] - size[first]) / (at[second] - at[first])) * 60)
