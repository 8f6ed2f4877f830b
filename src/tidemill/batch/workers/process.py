"""One worker process as its driver sees it: started, proved, asked, watched while it answers, and killed."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from tidemill.batch.scoring import OutOfTime
from tidemill.batch.watch import Stopped
from tidemill.batch.workers.channel import Answered, Ask, Begin, Channel, Message, Misread, Ready, Shared, Unable
from tidemill.batch.workers.heartbeat import BYTES, Heartbeat
from tidemill.batch.workers.limits import Death, Limits, ending
from tidemill.errors import Problem, RunError
from tidemill.runtimes.memory import free_memory, private_memory

__all__ = ["Answer", "Process", "Unread"]

PROGRAM = "tidemill.batch.workers.worker"
# Between two looks at clock and memory. A model takes up some ten megabytes in the meantime, and no more.
LOOK_MS = 20
START_SECONDS = 600.0
_STARTS = 3
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Unread(Exception):
    """Rows from `start` on cannot be understood; `row`, where it is known, counts from there, as in the text."""

    def __init__(self, text: str, row: int | None, start: int) -> None:
        self.row = row
        self.start = start
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows `start` to before `stop` of a chunk: a table of those that have an answer, and the problems of the others,
    whose rows count from `start`.
    """

    start: int
    stop: int
    table: pa.RecordBatch | None
    problems: list[Problem]


class _End(NamedTuple):
    """Why there is no reply: the code of a Death, and what became of the process, in words."""

    code: str
    told: str


class Process:
    """Starts anew by itself after each end. To be used by one thread, with which the process ends, too."""

    def __init__(self, begin: Begin, limits: Limits, threads: int, stopping: threading.Event) -> None:
        self._begin = begin
        self._limits = limits
        self._threads = threads
        self._stopping = stopping
        self._popen: subprocess.Popen[bytes] | None = None
        self._channel: Channel
        self._heartbeat: Heartbeat
        self._fresh = True
        self._memory = limits.memory

    def start(self) -> None:
        """A process that is ready to answer. Raises RunError for one that cannot, with its reason."""
        if self._popen is not None and self._popen.poll() is None:
            return
        for attempt in range(_STARTS):
            self._memory = self._limits.memory
            reason = self._launch()
            if reason is None:
                self._fresh = True
                return
            self.kill()
            if attempt + 1 < _STARTS and self._stopping.wait(0.2 * 2.0**attempt):
                raise Stopped
        raise RunError(f"a worker process cannot be started: {reason}")

    def ask(self, chunk: Shared, start: int, stop: int, *, alone: bool, until: float) -> Answer | Death:
        """Answer rows of a chunk, in a process that answered nothing before if they are to be `alone`.

        Raises Unread, OutOfTime after `until` (a time.monotonic() moment), Stopped, and RunError as `start` does.
        """
        if alone and not self._fresh:
            self.kill()
        self.start()
        try:
            self._channel.send(Ask(start=start, stop=stop), (chunk.fd,))
        except OSError:  # killed while it had nothing to do
            self.kill()
            self.start()
            self._channel.send(Ask(start=start, stop=stop), (chunk.fd,))
        got = self._wait(until)
        if isinstance(got, _End):
            at = self._heartbeat.at()
            first, last = (start + at.first, start + at.last) if at is not None else (start, stop)
            return Death(got.code, got.told, first, last, self._fresh)
        reply, fds = got
        self._fresh = False
        if isinstance(reply, Misread):
            raise Unread(reply.text, reply.row, start)
        assert isinstance(reply, Answered)  # noqa: S101 - the only other reply
        shared = Shared(fds[0])
        try:
            return Answer(start, stop, shared.read(), shared.read_problems(reply))
        finally:
            shared.close()

    def kill(self) -> None:
        """End the process, and what it started, whatever they do."""
        if self._popen is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._channel.close()
        self._popen = None

    def _launch(self) -> str | None:
        """Why there is no process that answers."""
        ours, theirs = socket.socketpair()
        page = Shared()
        os.ftruncate(page.fd, BYTES)
        self._heartbeat = Heartbeat(page)
        self._channel = Channel(ours)
        environment = dict.fromkeys(_THREADS, str(self._threads)) | os.environ
        with theirs:
            fds = (theirs.fileno(), page.fd)
            try:
                # Its own session: Ctrl-C is for the driver. What a model prints is not the driver's report, and is
                # told at once: a process that is killed has no time to.
                self._popen = subprocess.Popen(
                    [sys.executable, "-u", "-P", "-m", PROGRAM, *map(str, fds)],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=fds,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                return str(error.strerror)
            finally:
                page.close()
        try:
            self._channel.send(self._begin)
        except OSError:
            return f"it {ending(self._popen.wait())}"
        got = self._wait(time.monotonic() + START_SECONDS, starting=True)
        if isinstance(got, _End):
            return f"it {got.told}"
        message = got[0]
        if isinstance(message, Unable):
            raise RunError(f"a worker process cannot answer: {message.text}")
        assert isinstance(message, Ready)  # noqa: S101 - the only other reply
        self._memory = self._limits.memory or _fair_share(self._popen.pid, self._limits.share)
        return None

    def _wait(self, until: float, *, starting: bool = False) -> tuple[Message, list[int]] | _End:
        """The reply, or why there is none."""
        popen = self._popen
        assert popen is not None  # noqa: S101 - asked only while there is one
        poller = select.poll()
        poller.register(self._channel.socket, select.POLLIN)
        while True:
            if poller.poll(LOOK_MS):
                got = self._channel.receive()
                if got is not None:
                    return got
                # The end of the conversation comes a moment before that of the process.
                with suppress(subprocess.TimeoutExpired):
                    popen.wait(1.0)
            if popen.poll() is not None:
                code = popen.returncode
                self.kill()
                return _End("worker_died", ending(code))
            if self._stopping.is_set():
                self.kill()
                raise Stopped
            reason = self._over(popen.pid, starting)
            if reason is not None:
                self.kill()
                return reason
            if time.monotonic() > until:
                self.kill()
                if starting:
                    return _End("timeout", f"was not ready within {START_SECONDS:g} s")
                raise OutOfTime

    def _over(self, pid: int, starting: bool) -> _End | None:
        """What it does that it may not."""
        limits = self._limits
        if self._memory is not None:
            taken = private_memory(pid)
            if taken is not None and taken > self._memory:
                told = f"took {taken / 1e6:,.0f} MB of memory, may have {self._memory / 1e6:,.0f} MB"
                return _End("out_of_memory", told)
        if limits.call_timeout is not None and not starting:
            at = self._heartbeat.at()
            if at is not None and time.monotonic_ns() - at.since > limits.call_timeout * 1e9:
                return _End("timeout", f"did not answer within {limits.call_timeout:g} s")
        return None


def _fair_share(pid: int, share: float) -> int | None:
    """What a process that has just loaded its model has, and its part of what is free."""
    has, free = private_memory(pid), free_memory()
    return None if has is None or free is None else has + int(free * share)
