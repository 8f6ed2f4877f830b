"""The local engine: threads read and write shards; others, or processes that can be killed, answer their chunks.

ONNX Runtime, PyArrow and NumPy release the interpreter's lock, so threads use every core; a model in Python does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from tidemill.batch.attempts import Attempts, Timed
from tidemill.batch.engines.base import Work
from tidemill.batch.ledger import Sealed
from tidemill.batch.options import ScoreOptions
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.scoring import Scorer, Threads
from tidemill.batch.watch import GivenUp, Stopped
from tidemill.batch.workers.answers import Processes, wants_processes
from tidemill.batch.workers.transient import again
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["answering", "run"]


def run(work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
    """Score the shards, in order of their beginning, `workers` at a time; `sealed` hears of each as it is sealed.

    The first error stops the others at their next chunk and is raised once they have stopped; so is an interrupt.
    """
    if not shards:
        return
    watch = work.watch
    workers = work.options.workers or cpu_budget()

    def one(shard: Shard) -> None:
        try:
            marker = attempts.seal(shard)
        except GivenUp:
            return
        watch.sealed()
        sealed(marker)

    answered = answering(work.live, work.plan, work.package, work.options, workers, watch.stopping, beside=work.beside)
    with answered as answers, ThreadPoolExecutor(workers, "tidemill-shard") as lanes:
        attempts = Attempts(work, answers, work.plan.output_schema(work.live))
        futures = [lanes.submit(one, s) for s in shards]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # A shard whose chunks are still wanted goes on to its next note, and ends there.
            watch.stop()
            for future in futures:
                future.cancel()
            lanes.shutdown()
            watch.deaths = answers.deaths
    errors = [f.exception() for f in futures if not f.cancelled()]
    first = next((e for e in errors if e is not None and not isinstance(e, Stopped)), None)
    if first is not None:
        raise first


@contextmanager
def answering(
    live: Live,
    plan: Plan,
    package: Path,
    options: ScoreOptions,
    workers: int,
    stopping: threading.Event,
    *,
    beside: int = 1,
) -> Iterator[Timed]:
    """Threads or processes of this machine that answer chunks, until `stopping` is set. Raises RunError."""
    if wants_processes(live, options):
        with Processes(live, plan, package, options, workers, stopping, beside=beside) as processes:
            yield processes
    else:
        live.again = again(options.transient_tries, stopping.wait)
        with ThreadPoolExecutor(workers, "tidemill-chunk") as pool:
            yield Threads(Scorer(live, plan), pool)
