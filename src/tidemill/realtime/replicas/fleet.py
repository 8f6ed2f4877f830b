"""The replicas of one supervisor: as many as wanted, all serving the same, each replaced when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from tidemill.errors import TidemillError
from tidemill.realtime.accepting import Seats
from tidemill.realtime.models.control import State
from tidemill.realtime.models.desired import Desired
from tidemill.realtime.models.model import Failures
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.backoff import Backoff
from tidemill.realtime.replicas.child import Child, Phase, options_of_one, told_end
from tidemill.realtime.replicas.messages import (
    Any,
    Applied,
    Apply,
    Ask,
    Drain,
    Failed,
    Known,
    Peers,
    Ready,
    Report,
    Start,
    Stopped,
    Unready,
    failures_of,
    raised,
)
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.replicas.plan import View, plan
from tidemill.realtime.replicas.watch import watch
from tidemill.runtimes.memory import free_memory, own_memory

__all__ = ["PLACES", "Fleet"]

log = logging.getLogger(__name__)

# Seconds between two looks at what there is to do.
LOOK = 1.0
# Places in the memory of one socket.
PLACES = 256
# Starts that fail in a row, with nothing ready, after which there is no point in going on.
GIVE_UP = 5
# Seconds within which a balancer has read what was written for it.
NOTICED = 0.5
# Seconds beyond lame duck and grace after which a replica that was told to end is killed.
OVERTIME = 10.0


@dataclass(frozen=True, slots=True)
class Version:
    """What is served, and how. Replicas of an older generation are replaced; `desired` they are told as they run."""

    generation: int
    desired: Desired
    options: ServeOptions


class Fleet:
    """Keeps replicas. Belongs to the event loop's thread; `keep` must run."""

    def __init__(self, directory: Path, counters: str, seats: int) -> None:
        """`directory` is private, for their own sockets; in `counters` they count; `seats` are those of `listener`."""
        self.policy = ReplicaOptions()
        self.wanted = 1
        self.children: dict[int, Child] = {}
        self.stopping = False
        self.failures = 0
        """Replicas that ended, hung or did not start, unasked."""
        self.start_seconds: float | None = None
        """What the last one took from its start until it was ready."""
        self.on_ask: Callable[[Child, Ask], None] | None = None
        self.on_desired: Callable[[Desired], None] | None = None
        """Called before anything else is served."""
        self.on_change: Callable[[], None] | None = None
        """Called when a replica has become ready, has been told to leave or is gone."""
        self._directory = directory
        self._counters = counters
        self.listener: socket.socket | None = None
        """The socket that they share, if they do."""
        self._seats = seats
        self._version: Version | None = None
        self._previous: Version | None = None
        self._options: ServeOptions | None = None
        self._first: asyncio.Future[Failures] | None = None
        self._failing: set[tuple[str, str]] = set()
        self._known: tuple[State, ...] = ()
        self._peers = 0
        self._turn = 0
        self._numbers = 0
        self._backoff = Backoff()
        self._failed_starts = 0
        self._changed = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what is served ------------------------------------------------------------------------------------

    def roll(self, options: ServeOptions) -> None:
        """What is applied next is served in this way: by new replicas, which replace those there are one by one."""
        self._options = options
        self.policy = options.replicas or ReplicaOptions()
        self.wanted = min(max(self.wanted, self.policy.minimum), self.policy.most)

    async def again(self) -> None:
        """Replace every replica by one that serves the same."""
        if self._version is not None:
            self.roll(self._version.options)
            await self.apply(self._version.desired)

    def rolled(self) -> None:
        """What was rolled out last serves: there is no way back."""
        self._previous = None

    def back(self) -> None:
        """What was to be rolled out, or was last, does not serve: go on with what was before."""
        if self._previous is not None:
            self._version, self._previous = self._previous, None
            self._first = None
        if self._version is not None:
            self.roll(self._version.options)
        self._options = None
        self._wake()

    async def apply(self, desired: Desired) -> Failures:
        """Serve this set everywhere. Returns, after all replicas do, what is not served as desired.

        Of what is rolled out, the first replica that is ready tells it. Raises what keeps it from becoming ready.
        """
        if self.on_desired is not None:
            self.on_desired(desired)
        if self._options is not None:
            self._previous = self._version
            generation = 1 if self._version is None else self._version.generation + 1
            self._version = Version(generation, desired, self._options)
            self._options = None
            self._failed_starts = 0
            self._failing = set()
            self._first = asyncio.get_running_loop().create_future()
            log.info("rolling out", extra={"generation": generation, "models": _named(desired)})
            self._wake()
            failures = await self._first
            self._failing = set(failures)
            return failures
        assert self._version is not None  # noqa: S101 - whoever applies has begun by rolling out
        self._version = replace(self._version, desired=desired)
        found: Failures = {}
        # One after the other: memory holds the old and the new models of one replica at a time.
        for child in list(self.children.values()):
            if child.phase is Phase.READY and child.generation == self._version.generation:
                found.update(await self._apply_to(child, desired))
        self._failing = set(found)
        return found

    async def _apply_to(self, child: Child, desired: Desired) -> Failures:
        self._turn += 1
        child.desired = desired
        child.applied = asyncio.get_running_loop().create_future()
        child.send(Apply(turn=self._turn, desired=desired))
        # Lost with its replica: the next one starts with what is desired now.
        message = await child.applied
        return {} if message is None else failures_of(message.not_served)

    def states(self) -> list[State]:
        """Every version that is served."""
        wanted = () if self._version is None else self._version.desired.models
        return [
            State(name=one.name, version=one.version, state="READY")
            for one in wanted
            if (one.name, one.version) not in self._failing
        ]

    def tell(self, states: list[State]) -> None:
        """Let every replica know what is not served, and why."""
        self._known = tuple(states)
        for child in self.children.values():
            child.send(Known(states=self._known))

    # -- keeping -------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Keep the replicas until they have drained or are ended. Raises the error that keeps any from starting."""
        watching = asyncio.create_task(watch(self))
        try:
            while not self._over.done():
                self._changed.clear()
                if not self.stopping and self._version is not None:
                    await self._step(self._version)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._changed.wait()
                self._kill_overdue()
            self._over.result()
        finally:
            watching.cancel()
            self.stopping = True
            for child in self.children.values():
                child.kill()
            await asyncio.gather(*(child.gone() for child in list(self.children.values())))

    def unready(self) -> None:
        """Every replica says that it is not ready and goes on serving; none is started any more."""
        self.stopping = True
        for child in self.children.values():
            child.send(Unready())

    def drain(self, lame_duck: float) -> None:
        """Every replica is not ready, serves for `lame_duck` more seconds, finishes and ends; `keep` returns then."""
        self.stopping = True
        for child in self.children.values():
            self._let_go(child, lame_duck, last=True)
        self._wake()
        self._look_for_end()

    def end(self, error: TidemillError | OSError | None = None) -> None:
        """Let `keep` return, or raise, now."""
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)
        self.stopping = True
        self._wake()

    def want(self, replicas: int) -> None:
        """Have so many."""
        self.wanted = replicas
        self._change()

    @property
    def outdated(self) -> bool:
        """Whether there are replicas of an earlier generation, on their way out or not."""
        version = self._version
        return version is not None and any(c.generation != version.generation for c in self.children.values())

    def of(self, phase: Phase) -> list[Child]:
        """The replicas in that phase of their lives."""
        return [child for child in tuple(self.children.values()) if child.phase is phase]

    def told(self) -> list[dict[str, object]]:
        """What operators are told of each replica. May be called from any thread."""
        return [child.told() for child in tuple(self.children.values())]

    def room(self) -> tuple[int | None, int | None]:
        """Bytes of the largest replica, and free ones."""
        taken = [size for child in self.of(Phase.READY) if (size := own_memory(child.pid))]
        return max(taken, default=None), free_memory()

    def _wake(self) -> None:
        self._changed.set()

    def _change(self) -> None:
        self._wake()
        ready = self.of(Phase.READY)
        if len(ready) != self._peers:
            self._peers = len(ready)
            for child in ready:
                child.send(Peers(ready=self._peers))
        if self.on_change is not None:
            self.on_change()

    def _look_for_end(self) -> None:
        if self.stopping and not self.children:
            self.end()

    async def _step(self, version: Version) -> None:
        """Start and let go what is due."""
        views = [
            View(
                id=child.number,
                ready=child.phase is Phase.READY,
                current=child.generation == version.generation and not child.condemned,
                in_flight=child.report.in_flight,
            )
            for child in (*self.of(Phase.STARTING), *self.of(Phase.READY))
        ]
        held = monotonic() < self._backoff.until
        size, free = self.room()
        room = PLACES
        if not held and size is not None and free is not None:
            room = max(0, (free - self.policy.autoscaling.memory_reserve) // size)
        todo = plan(views, self.wanted, room)
        for number in todo.retire:
            self._let_go(self.children[number], version.options.lame_duck, last=False)
        if not held:
            for _ in range(todo.start):
                await self._start(version)

    async def _start(self, version: Version) -> None:
        self._numbers += 1
        taken = {child.place for child in self.children.values()}
        place = next(p for p in range(PLACES) if p not in taken)
        child = Child(self._numbers, place, version.generation, version.desired, self._directory)
        self.children[child.number] = child
        log.info("starting", extra={"replica": child.number, "generation": child.generation})
        options = options_of_one(version.options, self.policy.most, self._counters, shares=self.listener is not None)
        start = Start(desired=version.desired, options=options)
        try:
            await child.start(start, self.listener, self._seats, self._told, self._ended)
        except OSError as error:
            child.failure = Failed(code="OSError", text=f"a replica cannot be started: {error}", exit_code=1)
            self._ended(child, 1)
        else:
            child.send(Known(states=self._known))

    def _let_go(self, child: Child, lame_duck: float, last: bool) -> None:
        if child.phase is Phase.LEAVING:
            return
        child.phase = Phase.LEAVING
        grace = self._version.options.grace if self._version is not None else 0.0
        if self.listener is None and not last:
            # A balancer reads that it is leaving from a file, at its next look.
            lame_duck = max(lame_duck, NOTICED)
        child.kill_at = monotonic() + lame_duck + grace + OVERTIME
        child.send(Drain(last=last, lame_duck=lame_duck))
        reason = child.condemned or ("the server stops" if last else "not wanted any longer")
        log.info("leaving", extra={"replica": child.number, "reason": reason})
        self._change()

    def _kill_overdue(self) -> None:
        now = monotonic()
        for child in self.children.values():
            if child.phase is Phase.STARTING and now - child.started_at > self.policy.start_timeout:
                text = f"not ready within {self.policy.start_timeout:g} s"
                child.failure = Failed(code="internal", text=text, exit_code=1)
                child.kill()
            elif now > child.kill_at:
                child.kill()

    # -- what replicas say ---------------------------------------------------------------------------------

    def _told(self, child: Child, message: Any) -> None:
        if isinstance(message, Report):
            child.report = message
            if child.phase is Phase.READY and not message.failing:
                child.sound_at = monotonic()
            if message.stuck and child.phase is Phase.READY and not child.condemned:
                self.condemn(child, message.stuck)
            elif child.phase is Phase.READY and not child.condemned:
                self._look_at_failing(child, message.failing)
        elif isinstance(message, Ready):
            self._became_ready(child, message)
        elif isinstance(message, Applied):
            if child.applied is not None and not child.applied.done():
                child.applied.set_result(message)
        elif isinstance(message, Failed):
            child.failure = message
        elif isinstance(message, Ask):
            if self.on_ask is not None:
                self.on_ask(child, message)
        elif isinstance(message, Stopped):
            child.stopped = True
            self._change()

    def _became_ready(self, child: Child, message: Ready) -> None:
        version = self._version
        if child.phase is not Phase.STARTING or version is None:
            return
        failures = failures_of(message.not_served)
        if child.generation == version.generation:
            if self._first is not None and not self._first.done():
                self._first.set_result(failures)
            elif not set(failures) <= self._failing:
                # Others serve what this one cannot: it would answer their callers with errors.
                child.failure = message.not_served[0].error
                child.kill()
                return
        child.ready = message
        child.phase = Phase.READY
        if not message.failing:
            child.sound_at = monotonic()
        self._failed_starts = 0
        self.start_seconds = monotonic() - child.started_at
        log.info("replica ready", extra={"replica": child.number, "seconds": round(self.start_seconds, 3)})
        if child.desired is not version.desired and child.generation == version.generation:
            task = asyncio.create_task(self._catch_up(child))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._change()

    async def _catch_up(self, child: Child) -> None:
        """What is served has changed while it started."""
        while self._version is not None and child.desired is not self._version.desired:
            failures = await self._apply_to(child, self._version.desired)
            if not set(failures) <= self._failing:
                self.condemn(child, str(next(iter(failures.values()))))

    def _ended(self, child: Child, code: int) -> None:
        phase = child.phase
        child.forget()
        del self.children[child.number]
        if self._seats >= 0:
            Seats.clear(self._seats, child.place)
        self._change()
        if self.stopping or phase is Phase.LEAVING:
            log.info("replica ended", extra={"replica": child.number, "how": told_end(code)})
            self._look_for_end()
            return
        self.failures += 1
        wait = self._backoff.failed(monotonic())
        how = child.condemned or (child.failure.text if child.failure is not None else told_end(code))
        log.error(
            "replica failed" if phase is Phase.READY else "replica did not start",
            extra={"replica": child.number, "how": how, "next_try_seconds": round(wait, 3)},
        )
        if phase is Phase.STARTING:
            self._not_started(child, how)

    def _not_started(self, child: Child, how: str) -> None:
        if self._version is None or child.generation != self._version.generation:
            return
        self._failed_starts += 1
        hopeless = TidemillError(f"no replica starts: {self._failed_starts} tries failed, the last one: {how}")
        if self._first is not None and not self._first.done():
            # What a first replica says of its models holds for all others.
            if child.failure is not None:
                self._first.set_exception(raised(child.failure))
            elif self._failed_starts >= GIVE_UP:
                self._first.set_exception(hopeless)
        elif self._failed_starts >= GIVE_UP and not self.of(Phase.READY):
            self.end(hopeless)

    def _look_at_failing(self, child: Child, model: str) -> None:
        """A model that answered its own samples and does so no longer may have used up something of its process."""
        if monotonic() - child.sound_at > self.policy.liveness_timeout:
            # Where a new process does not help either, the next one comes later.
            self._backoff.failed(monotonic())
            self.condemn(child, f"model {model} does not answer its own samples any more")

    def condemn(self, child: Child, reason: str) -> None:
        """Have it replaced: another is started first, if there is room for it."""
        child.condemned = reason
        log.error("replica to be replaced", extra={"replica": child.number, "reason": reason})
        self._wake()


def _named(desired: Desired) -> list[str]:
    return [f"{one.name} {one.version}" for one in desired.models]
