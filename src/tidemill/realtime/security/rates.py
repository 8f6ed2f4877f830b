"""How often a caller may ask: token buckets, kept as the moment at which each would be full again.

A bucket that is full says no more than one that was never kept, so what is forgotten is forgotten in the caller's
favour.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from time import monotonic

from tidemill.errors import Overloaded
from tidemill.realtime.security.options import Rate, RateLimits

__all__ = ["Rates"]

# Seconds; a burst of many adds up to as much in error.
ROUNDING = 1e-6
# (model or empty, caller, whether the caller is only an address)
Bucket = tuple[str, str, bool]


class Rates:
    """Counts what every caller asks for. Of the event loop's thread."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._most = 2 * limits.max_callers
        # When each bucket is full again, if nothing more is asked: of requests, and of rows.
        self._full: OrderedDict[Bucket, list[float]] = OrderedDict()
        self._by_caller = limits.callers
        self._by_model = limits.endpoints
        self._default = limits.default
        self.share = 1.0
        """The part of each limit that this process may give away: one over the number of replicas."""
        self.refused = 0

    def admit(self, caller: str, model: str) -> None:
        """Count a request of a known caller. Raises Overloaded, naming the limit, and then counts nothing."""
        now = monotonic()
        rate = self._by_caller.get(caller, self._default)
        own = None if rate is None else self._bucket(("", caller, False), rate, caller, now)
        limit = self._by_model.get(model) if model else None
        if limit is not None:
            self._take(self._bucket((model, caller, False), limit, caller, now), limit, now)
        if own is not None and rate is not None:
            self._take(own, rate, now)

    def admit_address(self, address: str) -> None:
        """Count a request of whoever is not known. Raises Overloaded."""
        rate = self._limits.address
        if rate is not None and address:
            now = monotonic()
            network = _network(address)
            self._take(self._bucket(("", network, True), rate, network, now), rate, now)

    def check_address(self, address: str) -> None:
        """Whether one more of whoever is not known would be taken, without counting it. Raises Overloaded."""
        rate = self._limits.address
        if rate is not None and address:
            network = _network(address)
            self._bucket(("", network, True), rate, network, monotonic())

    def charge(self, caller: str, address: str, model: str, rows: int) -> None:
        """Count the rows of a request that was admitted: more than there are left are owed, and delay the next one."""
        now = monotonic()
        if not caller:
            self._owe(("", _network(address), True), self._limits.address, rows, now)
            return
        self._owe(("", caller, False), self._by_caller.get(caller, self._default), rows, now)
        if model in self._by_model:
            self._owe((model, caller, False), self._by_model[model], rows, now)

    def _bucket(self, key: Bucket, rate: Rate, who: str, now: float) -> list[float]:
        """The bucket, if it has something left. Raises Overloaded."""
        full = self._full.get(key)
        if full is None:
            if len(self._full) >= self._most:
                self._full.popitem(last=False)
            full = self._full[key] = [0.0, 0.0]
        else:
            self._full.move_to_end(key)
        if rate.requests is not None and (wait := self._wait(full[0], rate.requests, rate.burst, now)) > ROUNDING:
            raise self._refusal(key, who, f"{rate.requests:g} requests", wait)
        if rate.rows is not None and (wait := self._wait(full[1], rate.rows, rate.burst, now)) > ROUNDING:
            raise self._refusal(key, who, f"{rate.rows:g} rows", wait)
        return full

    def _wait(self, full: float, rate: float, burst: float, now: float) -> float:
        """Seconds until there is one to give away."""
        return full - now - max(burst - 1.0 / (rate * self.share), 0.0)

    def _take(self, full: list[float], rate: Rate, now: float) -> None:
        if rate.requests is not None:
            full[0] = max(full[0], now) + 1.0 / (rate.requests * self.share)

    def _owe(self, key: Bucket, rate: Rate | None, rows: int, now: float) -> None:
        if rate is not None and rate.rows is not None:
            full = self._full.get(key)
            if full is not None:
                full[1] = max(full[1], now) + rows / (rate.rows * self.share)

    def _refusal(self, key: Bucket, who: str, what: str, wait: float) -> Overloaded:
        self.refused += 1
        model, _, address = key
        of = f" of {model}" if model else ""
        kind = "address" if address else "caller"
        text = f"rate limit: {kind} {who} may ask for {what} a second{of}"
        return Overloaded(text, retry_after=wait, reason="rate_limit")


def _network(address: str) -> str:
    """An address, or the /64 it is in: one subscriber of IPv6 has them all."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped) if found.ipv4_mapped else f"{IPv6Address(int(found) >> 64 << 64)}/64"
