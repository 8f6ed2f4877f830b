"""One CPU budget for all endpoints of a process: calls that compute share the cores, fairly by the time they use."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Budget", "Held", "Share"]

# Seconds past its time after which a call's cores are lent to others: one model that hangs must not stop all.
LENT_AFTER = 0.5


class Share:
    """One endpoint's part in a budget: each of its calls takes `cores`. `wake` is called once there is room for one
    that was refused.
    """

    __slots__ = ("cores", "used", "waits", "wake")

    def __init__(self, cores: int, wake: Callable[[], None]) -> None:
        self.cores = cores
        self.wake = wake
        self.used = 0.0  # seconds
        self.waits = False


class Held:
    """Cores that one call holds. `until` is the moment at which it is expected to end, on the caller's clock."""

    __slots__ = ("share", "until")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.until = float("inf")


class Budget:
    """So many `cores` for calls that compute. Belongs to the event loop's thread.

    Whoever is refused waits; who has used least is next. What an endpoint did not use while it wanted nothing is not
    owed to it later.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._held: list[Held] = []
        self._waiting: list[Share] = []
        self._clock = 0.0  # `used` of whoever began last

    @property
    def free(self) -> int:
        """Cores that no call holds."""
        return self.cores - sum([min(h.share.cores, self.cores) for h in self._held])

    def take(self, share: Share) -> Held | None:
        """Cores for one call, or None: then `wake` follows."""
        if not share.waits and not any(h.share is share for h in self._held):
            share.used = max(share.used, self._clock)
        before = [s for s in self._waiting if s is not share and s.used < share.used]
        if not before and min(share.cores, self.cores) <= self.free:
            self.leave(share)
            self._clock = max(self._clock, share.used)
            self._held.append(held := Held(share))
            return held
        if not share.waits:
            share.waits = True
            self._waiting.append(share)
        return None

    def give(self, held: Held, seconds: float) -> None:
        """A call ended after so many seconds; its cores may have been lent already."""
        held.share.used += seconds * held.share.cores
        if held in self._held:
            self._held.remove(held)
            self._wake()

    def reap(self, now: float) -> None:
        """Lend the cores of calls that should have ended long ago."""
        self._held = [h for h in self._held if now <= h.until + LENT_AFTER]
        self._wake()

    def leave(self, share: Share) -> None:
        """This endpoint wants nothing any more."""
        if share.waits:
            share.waits = False
            self._waiting.remove(share)

    def slowdown(self, share: Share, workers: int) -> float:
        """How many times longer the queue of an endpoint with so many workers takes because others compute too."""
        if not self._waiting:
            return 1.0
        active = len({id(share), *(id(s) for s in self._waiting), *(id(h.share) for h in self._held)})
        return max(1.0, active * min(workers * share.cores, self.cores) / self.cores)

    def _wake(self) -> None:
        while self._waiting:
            first = min(self._waiting, key=_used)
            if min(first.cores, self.cores) > self.free:
                return
            self.leave(first)
            first.wake()


def _used(share: Share) -> float:
    return share.used
