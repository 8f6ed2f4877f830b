"""Loading one package beside what runs: verified, loaded, measured and warmed up on a thread of its own."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from time import monotonic, process_time
from typing import TypeVar

from tidemill.errors import IntegrityError, OutOfMemory, PackageError
from tidemill.model.manifest import MANIFEST
from tidemill.model.package import Package, digest_file, open_package
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile, measure
from tidemill.realtime.models.desired import Wanted
from tidemill.realtime.probe import tried
from tidemill.rows import Rows

__all__ = ["Loaded", "Stalls", "load", "on_thread", "release_memory"]

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK = 0.005
# Seconds after which a model that is being loaded is given up: others wait for their turn.
PATIENCE = 1800.0
# The nice value of threads that yield. Not more: they hold the interpreter's lock now and then, and those who wait for
# it wait all the longer the less they run.
YIELDING = 5
# Seconds that are spent on measuring what calls cost, and of one such call: who shares its core waits that long.
MEASURING = 0.3
LONGEST = 0.002


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `example` is a row it answers, `failure` why it did not; `memory` is bytes, and `seconds`
    how long it took.
    """

    live: Live
    profile: Profile
    example: Rows | None
    failure: str | None
    memory: int
    seconds: float


async def load(wanted: Wanted, spare: int | None) -> Loaded:
    """Open a package whose every digest is right, and warm it up with its samples, on threads.

    `spare` bytes of memory are left for it, if there is a bound. Its need is estimated from its files before it is
    loaded, and measured after. Raises PackageError, ConfigError, MissingExtra, and OutOfMemory if it does not fit.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await _load(wanted, spare)
    except TimeoutError:
        raise PackageError(
            f"{wanted.name} version {wanted.version}: it was not loaded and warmed up within {PATIENCE:g} s"
        ) from None


async def _load(wanted: Wanted, spare: int | None) -> Loaded:
    began = monotonic()
    package = await on_thread(partial(_verified, wanted, spare), yielding=True)
    before = _resident()
    # Threads that a runtime makes here would yield for as long as the model lives; an ONNX session of one makes none.
    runtime = package.manifest.runtime
    alone = runtime.name == "onnx" and runtime.threads == 1 and package.manifest.transform is None
    live = await on_thread(partial(Live.open, package), yielding=alone)
    profile, example, failure = await on_thread(
        lambda: (measure(live, budget=MEASURING, longest=LONGEST), *tried(live)), yielding=True
    )
    memory = max(_estimate(package), _resident() - before)
    _check(wanted, memory, spare, "loaded it takes")
    return Loaded(live, profile, example, failure, memory, monotonic() - began)


def _verified(wanted: Wanted, spare: int | None) -> Package:
    package = open_package(wanted.directory)
    if digest_file(package.path(MANIFEST)) != wanted.digest:
        raise IntegrityError(f"{package.directory.name}/{MANIFEST}: changed while the model was being loaded")
    _check(wanted, _estimate(package), spare, "its files have")
    return package


def _estimate(package: Package) -> int:
    """Bytes of what is loaded: artefacts, and what belongs to them."""
    kept = package.manifest.files.keys() - {package.manifest.samples, package.manifest.profile}
    return sum(package.path(name).stat().st_size for name in kept)


def _check(wanted: Wanted, need: int, spare: int | None, said: str) -> None:
    if spare is not None and need > spare:
        raise OutOfMemory(
            f"{wanted.name} version {wanted.version} does not fit: {said} {need:,} bytes, and of max_model_memory "
            f"{max(0, spare):,} are left; unload another model or raise the limit"
        )


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def release_memory() -> None:
    """Give back to the system what models that are gone have left. Blocks, but does not hold the interpreter's lock."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


async def on_thread(function: Callable[[], T], *, yielding: bool = False) -> T:
    """Call on a thread of its own that may be left behind: a model that never loads must not keep the process.

    A `yielding` one lets those that answer calls go first on a busy core.
    """
    future: Future[T] = Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            if yielding:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), YIELDING)
            found = function()
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            future.set_exception(error)
        else:
            future.set_result(found)

    threading.Thread(target=work, name="load", daemon=True).start()
    return await asyncio.wrap_future(future)


class Stalls:
    """The longest that the event loop was held up by this process itself while this was open, in seconds: `longest`."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._due = 0.0
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Stalls:
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now, used = monotonic(), process_time()
        # Where the process had no core either, it is the machine that is short of them.
        if self._timer is not None and used - self._used > (now - self._due) / 2:
            self.longest = max(self.longest, now - self._due)
        self._due, self._used = now + TICK, used
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
