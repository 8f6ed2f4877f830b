"""The local engine: threads of this process. Some read and write shards, a shared pool answers their chunks.

ONNX Runtime, PyArrow and NumPy release the interpreter's lock, so threads use every core; a model in Python does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from tidemill.batch.engines.base import Work
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Shard
from tidemill.batch.scoring import Scorer, Threads
from tidemill.batch.shard import score_shard
from tidemill.batch.watch import Stopped
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["run"]


def run(work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
    """Score the shards, in order of their beginning, `workers` at a time; `sealed` hears of each as it is sealed.

    The first error stops the others at their next chunk and is raised once they have stopped; so is an interrupt.
    """
    watch = work.watch
    workers = work.options.workers or cpu_budget()
    scorer = Scorer(work.live, work.plan)

    def one(shard: Shard) -> None:
        marker = score_shard(work.plan, shard, work.stage, answers, scorer.schema, note=watch.note)
        watch.sealed()
        sealed(marker)

    with ThreadPoolExecutor(workers, "tidemill-chunk") as pool, ThreadPoolExecutor(workers, "tidemill-shard") as lanes:
        answers = Threads(scorer, pool)
        futures = [lanes.submit(one, s) for s in shards]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            watch.stop()
            for future in futures:
                future.cancel()
            # A shard whose chunks are still wanted goes on to its next note, and ends there.
            lanes.shutdown(wait=True)
    errors = [f.exception() for f in futures if f.done() and not f.cancelled()]
    first = next((e for e in errors if e is not None and not isinstance(e, Stopped)), None)
    if first is not None:
        raise first
