"""The local engine: threads of this process. Some read and write shards, a shared pool answers their chunks.

ONNX Runtime, PyArrow and NumPy release the interpreter's lock, so threads use every core; a model in Python does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.shard import score_shard
from tidemill.batch.watch import Stopped, Watch
from tidemill.prediction.live import Live

__all__ = ["run_local"]


def run_local(
    live: Live,
    plan: Plan,
    shards: Sequence[Shard],
    stage: Path,
    workers: int,
    watch: Watch,
    sealed: Callable[[Sealed], None],
) -> None:
    """Score the shards, in order of their beginning, `workers` at a time; `sealed` hears of each as it is sealed.

    The first error stops the others at their next chunk and is raised once they have stopped; so is an interrupt.
    """

    def one(shard: Shard) -> None:
        marker = score_shard(live, plan, shard, stage, note=watch.note, pool=pool)
        watch.sealed()
        sealed(marker)

    with ThreadPoolExecutor(workers, "tidemill-chunk") as pool, ThreadPoolExecutor(workers, "tidemill-shard") as lanes:
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
