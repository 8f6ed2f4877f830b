"""How often a caller may ask: token buckets, kept as the moment at which each would be full again.

A bucket that is full says no more than one that was never kept, so what is forgotten is forgotten in the caller's
favour.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import TypeVar

from tidemill.errors import Overloaded
from tidemill.realtime.security.options import Rate, RateLimits

__all__ = ["Rates"]

# Seconds; a burst of many adds up to as much in error.
ROUNDING = 1e-6
NONE = Rate()
K = TypeVar("K")


class Bucket:
    """What one caller has left, of requests and of rows. Moments are of `time.monotonic()`."""

    __slots__ = ("_of", "_rate", "each", "full", "patience", "row_each", "row_full", "row_patience")

    def __init__(self, rate: Rate, share: float, of: str) -> None:
        """`of` tells, in a refusal, whose bucket of what it is."""
        self._of = of
        self._rate = rate
        self.full = self.row_full = 0.0
        self.share(share)

    def share(self, share: float) -> None:
        """So much of the rate may this process give away."""
        rate = self._rate
        # Seconds that one costs, and how far ahead of now the moment of being full may be when one is asked for.
        self.each, self.patience = _pace(rate.requests, rate.burst, share)
        self.row_each, self.row_patience = _pace(rate.rows, rate.burst, share)

    def refusal(self, now: float) -> Overloaded:
        """Why nothing is left."""
        wait, row_wait = self.full - now - self.patience, self.row_full - now - self.row_patience
        rate, what = (self._rate.requests, "requests") if wait >= row_wait else (self._rate.rows, "rows")
        who, _, model = self._of.partition("\n")
        text = f"rate limit: {who} may ask for {rate:g} {what} a second" + (f" of {model}" if model else "")
        return Overloaded(text, retry_after=max(wait, row_wait) + ROUNDING, reason="rate_limit")


def _pace(rate: float | None, burst: float, share: float) -> tuple[float, float]:
    if rate is None:
        return 0.0, math.inf
    each = 1.0 / (rate * share)
    return each, max(burst - each, 0.0) + ROUNDING


class Rates:
    """Counts what every caller asks for. Of the event loop's thread."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._default = limits.default or NONE
        self._share = 1.0
        self._callers: OrderedDict[str, Bucket] = OrderedDict()
        self._models: OrderedDict[tuple[str, str], Bucket] = OrderedDict()
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()

    def share(self, replicas: int) -> None:
        """So many processes serve: each gives away its part."""
        self._share = 1.0 / max(1, replicas)
        for bucket in (*self._callers.values(), *self._models.values(), *self._addresses.values()):
            bucket.share(self._share)

    def admit(self, caller: str, model: str) -> None:
        """Count a request of a known caller. Raises Overloaded, naming the limit, and then counts nothing."""
        now = monotonic()
        buckets = self._callers
        own = buckets.get(caller)
        if own is None:
            own = self._new(buckets, caller, self._limits.callers.get(caller, self._default), f"caller {caller}")
        else:
            buckets.move_to_end(caller)
        if own.full - now > own.patience or own.row_full - now > own.row_patience:
            raise own.refusal(now)
        if model in self._limits.endpoints:
            self._take(self._of_model(caller, model), now)
        own.full = max(now, own.full) + own.each

    def admit_address(self, address: str) -> None:
        """Count a request of whoever is not known. Raises Overloaded."""
        bucket = self._of_address(address)
        if bucket is not None:
            self._take(bucket, monotonic())

    def check_address(self, address: str) -> None:
        """Whether one more of whoever is not known would be taken, without counting it. Raises Overloaded."""
        bucket = self._of_address(address)
        now = monotonic()
        if bucket is not None and (bucket.full - now > bucket.patience or bucket.row_full - now > bucket.row_patience):
            raise bucket.refusal(now)

    def charge(self, caller: str, address: str, model: str, rows: int) -> None:
        """Count the rows of a request that was admitted: more than there are left are owed, and delay the next one."""
        now = monotonic()
        charged = [self._callers.get(caller) if caller else self._of_address(address)]
        if caller and model in self._limits.endpoints:
            charged.append(self._of_model(caller, model))
        for bucket in charged:
            if bucket is not None:
                bucket.row_full = max(bucket.row_full, now) + rows * bucket.row_each

    @staticmethod
    def _take(bucket: Bucket, now: float) -> None:
        if bucket.full - now > bucket.patience or bucket.row_full - now > bucket.row_patience:
            raise bucket.refusal(now)
        bucket.full = max(bucket.full, now) + bucket.each

    def _of_model(self, caller: str, model: str) -> Bucket:
        key = (caller, model)
        found = self._models.get(key)
        if found is None:
            return self._new(self._models, key, self._limits.endpoints[model], f"caller {caller}\n{model}")
        self._models.move_to_end(key)
        return found

    def _of_address(self, address: str) -> Bucket | None:
        rate = self._limits.address
        if rate is None or not address:
            return None
        network = _network(address)
        found = self._addresses.get(network)
        if found is None:
            return self._new(self._addresses, network, rate, f"address {network}")
        self._addresses.move_to_end(network)
        return found

    def _new(self, buckets: OrderedDict[K, Bucket], key: K, rate: Rate, of: str) -> Bucket:
        if len(buckets) >= self._limits.max_callers:
            buckets.popitem(last=False)
        made = buckets[key] = Bucket(rate, self._share, of)
        return made


def _network(address: str) -> str:
    """An address, or the /64 it is in: one subscriber of IPv6 has them all."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped) if found.ipv4_mapped else f"{IPv6Address(int(found) >> 64 << 64)}/64"
