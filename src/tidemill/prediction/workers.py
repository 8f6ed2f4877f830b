"""Threads for model calls. They are daemons: a model that never returns must not keep the process from ending."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["Workers"]

Task = Callable[[], None]


class Workers:
    """Up to `most` threads, started as they are first needed. A task must not raise."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0  # tasks given and not yet finished; only the submitting thread may read too high a number
        self._lock = threading.Lock()

    def submit(self, task: Task) -> None:
        """Run a task on a thread as soon as one is free."""
        with self._lock:
            self._open += 1
            more = self._open > len(self._threads) and len(self._threads) < self._most
        self._tasks.put(task)
        if more:
            thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Let each thread end once it is free; none is waited for."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        if sys.platform == "linux":
            # Where a model and the event loop want the same core, the loop goes first: who is refused must not wait.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 1)
        while (task := self._tasks.get()) is not None:
            task()
            with self._lock:
                self._open -= 1
