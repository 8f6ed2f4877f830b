"""The program of one worker process: it loads the package, proves that it answers, and then answers what it is asked.

It ends when it is told no more, and, whatever it is doing, with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from tidemill.batch.workers.channel import Answered, Ask, Begin, Channel, Misread, Ready, Shared, Unable
from tidemill.batch.workers.heartbeat import Heartbeat
from tidemill.batch.workers.transient import backoff
from tidemill.errors import InputError, PackageError, Problem, TidemillError
from tidemill.model.package import open_package
from tidemill.model.samples import read_samples
from tidemill.prediction.columns import output_arrays, output_schema
from tidemill.prediction.live import Live

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`python -m tidemill.batch.workers.worker SOCKET HEARTBEAT`, two inherited file descriptors."""
    # Nobody's Ctrl-C: a KeyboardInterrupt is the model's own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    heartbeat = Heartbeat(Shared(int(sys.argv[2])))
    got = channel.receive()
    if got is None or not isinstance(got[0], Begin):
        return
    begin = got[0]
    _end_with(begin.parent)
    # Where memory runs out it is this process that is to go, and not the one that keeps the ledger.
    _give_way()
    try:
        worker = _Worker(begin, heartbeat)
    except TidemillError as error:
        channel.send(Unable(text=str(error)[:1000]))
        return
    channel.send(Ready())
    while (got := channel.receive()) is not None:
        message, (fd,) = got
        assert isinstance(message, Ask)  # noqa: S101 - nothing else is sent to a worker that is ready
        shared = Shared(fd)
        try:
            batch = shared.read().slice(message.start, message.stop - message.start)
        finally:
            shared.close()
        reply, answers = worker.answer(batch)
        del batch
        channel.send(reply, () if answers is None else (answers.fd,))
        if answers is not None:
            answers.close()


class _Worker:
    """A loaded package that answers tables."""

    def __init__(self, begin: Begin, heartbeat: Heartbeat) -> None:
        package = open_package(begin.package)
        self._live = live = Live.open(package, call_rows=begin.call_rows)
        self._heartbeat = heartbeat
        if live.fingerprint != begin.fingerprint:
            raise PackageError(
                f"{package.name}: loads as {live.fingerprint[:16]} here, and as {begin.fingerprint[:16]} where the run "
                "was planned; the package or its libraries were changed meanwhile"
            )
        self._outputs = [o for o in package.manifest.outputs if o.name in begin.outputs]
        self._schema = output_schema(self._outputs)
        self._prove()
        live.on_call = heartbeat.call
        live.again = self._again
        self._tries = begin.tries

    def _prove(self) -> None:
        """Of the package's samples one at least must be answered here. Raises PackageError."""
        samples = read_samples(self._live.package)
        if samples is None:
            return
        result = self._live.predict(self._live.intake.from_arrow(samples[0]))
        if result.n and not result.answered.any():
            why = result.problems[0].message
            raise PackageError(f"{self._live.package.name}: answers none of its own samples: {why}")

    def answer(self, batch: pa.RecordBatch) -> tuple[Answered | Misread, Shared | None]:
        """The answers of a table, in shared memory."""
        try:
            rows = self._live.intake.from_arrow(batch)
        except InputError as error:
            return Misread(text=str(error)[:1000], row=error.row), None
        except (ValueError, pa.ArrowException) as error:  # text that is not UTF-8, whatever the file says
            return Misread(text=f"cannot be understood: {error}"[:1000], row=None), None
        try:
            result = self._live.predict(rows)
        finally:
            self._heartbeat.rest()
        outputs = result.outputs.take(result.answered) if result.problems else result.outputs
        table = pa.RecordBatch.from_arrays(output_arrays(self._outputs, outputs), schema=self._schema)
        shared = Shared()
        sizes = shared.write(table, [_plain(p) for p in result.problems])
        return Answered(outputs=sizes[0], problems=sizes[1]), shared

    def _again(self, tries: int) -> bool:
        if tries >= self._tries:
            return False
        # What the model waits for here is no time of its call.
        self._heartbeat.rest()
        time.sleep(backoff(tries))
        return True


def _plain(problem: Problem) -> Problem:
    return Problem(int(problem.row), problem.code, problem.field, problem.message)


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent: one that is stuck in a call would never see it go."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _give_way() -> None:
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
