"""The security of one serving process: its TLS and its gate, and both kept as their files are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import ip_address

from tidemill.errors import ConfigError
from tidemill.realtime.security.files import Watched
from tidemill.realtime.security.guard import Guard
from tidemill.realtime.security.options import AuthOptions, RateLimits
from tidemill.realtime.security.rates import Rates
from tidemill.realtime.security.tls import Tls, TlsOptions

__all__ = ["Security", "readable_keys"]

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at the files


class Security:
    """What the options ask for; `tls` and `guard` are None where they ask for nothing."""

    def __init__(
        self,
        tls: TlsOptions | None,
        auth: AuthOptions | None,
        limits: RateLimits | None,
        count: Callable[[int], None] | None = None,
    ) -> None:
        """`count` is told the status of each refusal. Raises ConfigError for files that are not right, MissingExtra."""
        self.tls = None if tls is None else Tls(tls)
        self.guard = None if auth is None and limits is None else Guard(auth, limits, count)
        self._watched = Watched(() if tls is None else tls.files)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rates(self) -> Rates | None:
        """The rate limits, if there are any."""
        return None if self.guard is None else self.guard.rates

    def start(self) -> None:
        """Look after the files in the running event loop from now on."""
        if self.guard is not None:
            self.guard.tick()
        if self.tls is not None or self.guard is not None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def share(self, replicas: int) -> None:
        """So many processes serve: each gives away its part of the rate limits."""
        if self.rates is not None:
            self.rates.share(replicas)

    def reload(self) -> None:
        """Read the certificates again whether or not their files look changed; keys are looked at too."""
        if self.tls is not None:
            try:
                self.tls.reload()
            except ConfigError as error:
                log.error("the new certificate is not taken: %s", error)
            else:
                log.info("the certificate was read again")
        if self.guard is not None:
            self.guard.tick()

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)
        if self._watched.changed():
            self.reload()
        elif self.guard is not None:
            self.guard.tick()


def readable_keys(host: str, tls: TlsOptions | None, auth: AuthOptions | None) -> bool:
    """Whether keys would travel so that others on the network can read them."""
    if auth is None or tls is not None or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
