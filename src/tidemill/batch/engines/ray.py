"""The Ray engine: each shard is a task. Tasks read and write files themselves; no row goes through Ray."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from tidemill.batch.engines.base import Work
from tidemill.batch.engines.options import RayOptions
from tidemill.batch.engines.ray_parcel import RayParcel, ship
from tidemill.batch.engines.remote import Errand, Hearing, Outcome, score_there
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Shard
from tidemill.errors import MissingExtra, RunError, first_line

__all__ = ["run"]

_NOTICE = 0.1
_KNOCK_SECONDS = 10.0
# Tasks that wait in Ray for a core: enough to keep every core busy, and few to cancel.
_AHEAD = 2
# Nothing goes through the store but the package and the plan.
_STORE_BYTES = 256 << 20


def run(work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
    """Score the shards as Ray tasks of one core each; `sealed` hears of each as its task ends.

    A shard whose worker or machine is lost goes to another. The first error cancels the others and is raised; so is
    an interrupt. Raises RunError where Ray itself gives a shard up.
    """
    if not shards:
        return
    errand = Errand.of(work)
    hearing = Hearing(work, errand, shards, sealed)
    with _connected(work.options.engine.ray):
        import ray
        from ray.exceptions import RayError

        # Ray does not repeat what raises, only what dies.
        score = ray.remote(num_cpus=1, max_retries=work.options.engine.ray.max_retries)(_score)
        package = ship(work.live)
        plan = ray.put(msgspec.json.encode(work.plan))
        waiting = deque(shards)
        running: dict[ray.ObjectRef[Outcome], Shard] = {}
        try:
            while waiting or running:
                cores: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
                room = _AHEAD * max(1, int(cores.get("CPU", 1))) - len(running)
                for _ in range(min(room, len(waiting))):
                    shard = waiting.popleft()
                    running[score.remote(package, plan, errand, shard.index)] = shard
                done, _ = ray.wait(list(running), timeout=_NOTICE)
                for ref in done:
                    shard = running.pop(ref)
                    try:
                        hearing.hear([ray.get(ref)])
                    except RayError as error:
                        raise RunError(f"shard {shard.index}: Ray gave up: {_told(error)}") from error
                hearing.hear(())
        finally:
            for ref in running:
                ray.cancel(ref, force=True)
    hearing.finish()


def _score(package: RayParcel, plan: bytes, errand: Errand, index: int) -> Outcome:
    return score_there(package.arrived(), plan, errand, index)


@contextmanager
def _connected(options: RayOptions) -> Iterator[None]:
    """The Ray that this process is connected to, or a connection for as long as it is needed."""
    address = options.address or os.environ.get("RAY_ADDRESS")
    if not address:
        # This machine alone: nobody is told of its use, and no other is to reach it. Ray keeps to the loopback address
        # on Windows and macOS; what it reads when it is imported makes it do so here.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra(f"engine ray (module {error.name})", "ray") from None
    if ray.is_initialized():
        yield
        return
    if address:
        _knock(address)
    try:
        if address:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray at {address or 'this machine'} cannot be reached: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises RunError where nobody listens: Ray would go on asking there for a quarter of an hour."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto`, or what Ray has a word for
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise RunError(f"Ray at {address} cannot be reached: {first_line(error)}") from None


def _told(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {first_line(cause)}" if cause is not None else first_line(error)
