"""The gate in front of the routes: who asks, whether that one may, and how often.

A caller that was let in before costs the look-up of its header's bytes. What is found there was verified in full once,
and is forgotten when keys change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tidemill.errors import ConfigError, Forbidden, MissingExtra, TidemillError, Unauthenticated
from tidemill.realtime.answers import reply_error
from tidemill.realtime.request import Handler, Request
from tidemill.realtime.security.files import Watched
from tidemill.realtime.security.keys import read_keys
from tidemill.realtime.security.options import AuthOptions, JwtOptions, RateLimits
from tidemill.realtime.security.rates import Rates
from tidemill.realtime.security.scopes import Need, covers, is_scope, need_of

if TYPE_CHECKING:
    from tidemill.realtime.security.tokens import Tokens

__all__ = ["Guard"]

log = logging.getLogger(__name__)

# Callers remembered with what they sent; all are forgotten when there would be more.
KNOWN = 4096
COVERED = 1024
K = TypeVar("K")
INVALID = 'Bearer error="invalid_token"'


class Known:
    """A caller that was verified: its name, what it may do, and until when (`time.monotonic()`)."""

    __slots__ = ("covered", "name", "scopes", "until")

    def __init__(self, name: str, scopes: Iterable[str], until: float = math.inf) -> None:
        self.name = name
        self.scopes = tuple(scopes)
        self.until = until
        # What was asked for and granted before.
        self.covered: set[str] = set()

    def may(self, need: Need) -> None:
        """Raise Forbidden, naming the scope that is missing."""
        if need.scope in self.covered:
            return
        if not covers(self.scopes, need):
            raise Forbidden(f"{self.name} lacks the scope {need.scope}")
        if len(self.covered) < COVERED:
            self.covered.add(need.scope)


class Guard:
    """Lets requests through to their handlers, or answers them. Belongs to the thread of one event loop."""

    def __init__(
        self, auth: AuthOptions | None, limits: RateLimits | None, count: Callable[[int], None] | None = None
    ) -> None:
        """`count` is told the status of each request that a route is not asked for.

        Raises ConfigError for a file of keys that is not right, MissingExtra.
        """
        self._auth = auth
        self._keys_file = None if auth is None else auth.keys
        self._keys = None if self._keys_file is None else read_keys(self._keys_file)
        self._watched = Watched(() if self._keys_file is None else (self._keys_file,))
        self._tokens = None if auth is None or auth.jwt is None else _tokens(auth.jwt)
        self._by_authorization: dict[bytes, Known] = {}
        self._by_api_key: dict[bytes, Known] = {}
        self._by_certificate: dict[str, Known] = {}
        self.rates = None if limits is None else Rates(limits)
        self._refused = count

    def route(self, method: str, path: str, handler: Handler) -> Handler:
        """The handler of a route, behind the gate. What is open stays as it is."""
        need = need_of(method, path)
        rates = self.rates
        if need.open_as == "health" and self._is_open(need):
            return handler
        if self._auth is None or self._is_open(need):
            return handler if rates is None else self._limited(need, handler)
        known_by = self._by_authorization
        scope, model = need.scope, need.model

        def guarded(request: Request) -> None:
            known = known_by.get(request.header(b"authorization") or b"")
            try:
                if known is None or scope not in known.covered or request.received_at >= known.until:
                    known = self._admit(request, need)
                if rates is not None:
                    rates.admit(known.name, model)
            except TidemillError as error:
                self._refuse(request, error)
                return
            request.caller = known.name
            handler(request)

        return guarded

    def require(self, request: Request) -> None:
        """Ask for what a path that has no handler would want: who may not ask is not told what there is.

        Raises Unauthenticated, Forbidden, Overloaded or Unavailable.
        """
        need = need_of(request.method, request.path)
        if self._auth is not None and not self._is_open(need):
            request.caller = self._admit(request, need).name
        if self.rates is not None:
            self._count(self.rates, request.caller, request.peer, need.model)

    def enter(self, need: Need, authorization: bytes | None, api_key: bytes | None, caller: str, peer: str) -> str:
        """The gate of what is no HTTP request: a call with these values of the metadata `authorization` and
        `x-api-key`, of the client certificate's identity and the network address (empty if there is none).

        Returns the caller's name. Raises Unauthenticated, Forbidden, Overloaded or Unavailable.
        """
        if self._auth is not None and not self._is_open(need):
            known = self._identify(authorization, api_key, caller, peer)
            known.may(need)
            caller = known.name
        if self.rates is not None and need.open_as != "health":
            self._count(self.rates, caller, peer, need.model)
        return caller

    def tick(self) -> None:
        """Once a second: see whether keys have changed, and log what is wrong with the new ones; the old stay then."""
        try:
            changed = self._watched.changed()
            if changed and self._keys_file is not None:
                self._keys = read_keys(self._keys_file)
                log.info("the keys have changed", extra={"file": self._keys_file})
            if self._tokens is not None and self._tokens.source.tick(monotonic()):
                changed = True
                log.info("the signing keys have changed")
            if changed:
                self._forget()
        except ConfigError as error:
            log.error("new keys are not taken: %s", error)

    def _limited(self, need: Need, handler: Handler) -> Handler:
        """A route that needs nobody in particular, but is not asked as often as anyone likes."""

        def limited(request: Request) -> None:
            try:
                if self.rates is not None:
                    self._count(self.rates, request.caller, request.peer, need.model)
            except TidemillError as error:
                self._refuse(request, error)
                return
            handler(request)

        return limited

    def _is_open(self, need: Need) -> bool:
        opened = ("health",) if self._auth is None else self._auth.open
        return need.open_as in opened

    def _admit(self, request: Request, need: Need) -> Known:
        header = request.header
        known = self._identify(header(b"authorization"), header(b"x-api-key"), request.caller, request.peer)
        known.may(need)
        return known

    def _refuse(self, request: Request, error: TidemillError) -> None:
        if self._refused is not None:
            self._refused(error.status)
        reply_error(request, error)

    @staticmethod
    def _count(rates: Rates, caller: str, peer: str, model: str) -> None:
        if caller:
            rates.admit(caller, model)
        else:
            rates.admit_address(peer)

    def _identify(self, authorization: bytes | None, api_key: bytes | None, certificate: str, peer: str) -> Known:
        """Who this is: by a bearer token, else by an API key, else by certificate. Raises Unauthenticated.

        What was sent and is wrong is not made good by what comes after it.
        """
        if authorization is not None:
            known = self._by_authorization.get(authorization)
            if known is not None and monotonic() < known.until:
                return known
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() == b"bearer":
                return self._keep(self._by_authorization, authorization, self._verify(token.strip(), peer, tokens=True))
        if api_key is not None:
            known = self._by_api_key.get(api_key)
            return known or self._keep(self._by_api_key, api_key, self._verify(api_key, peer, tokens=False))
        if certificate and self._auth is not None:
            known = self._by_certificate.get(certificate)
            scopes = self._auth.certificates
            if known is None and (granted := [v for name, v in scopes.items() if _names(name, certificate)]):
                known = self._keep(
                    self._by_certificate, certificate, Known(certificate, (s for v in granted for s in v))
                )
            if known is not None:
                return known
        return self._fail(
            "nobody is known by this request: send an API key or a token as 'Authorization: Bearer …'", peer
        )

    def _verify(self, token: bytes, peer: str, tokens: bool) -> Known:
        if self.rates is not None:
            self.rates.check_address(peer)
        if self._keys is not None and (key := self._keys.holder(token)) is not None:
            return Known(key.name, key.scopes)
        if not tokens or self._tokens is None or token.startswith(b"tm_"):
            self._fail("the API key is not known, or was revoked", peer, INVALID)
        try:
            claims = self._tokens.read(token)
        except Unauthenticated as error:
            self._fail(str(error), peer, error.challenge)
        return Known(claims.name, self._granted(claims.scopes), claims.until)

    def _granted(self, scopes: Iterable[str]) -> list[str]:
        roles = {} if self._auth is None else self._auth.roles
        return [one for scope in scopes for one in roles.get(scope, (scope,)) if is_scope(one)]

    def _fail(self, why: str, peer: str, challenge: str = "Bearer") -> NoReturn:
        if self.rates is not None:
            self.rates.admit_address(peer)
        raise Unauthenticated(why, challenge)

    @staticmethod
    def _keep(known_by: dict[K, Known], key: K, known: Known) -> Known:
        if len(known_by) >= KNOWN:
            known_by.clear()
        known_by[key] = known
        return known

    def _forget(self) -> None:
        self._by_authorization.clear()
        self._by_api_key.clear()


def _tokens(options: JwtOptions) -> Tokens:
    try:
        from tidemill.realtime.security.tokens import Tokens
    except ImportError:
        raise MissingExtra("auth.jwt", "auth") from None
    return Tokens(options)


def _names(pattern: str, identity: str) -> bool:
    return identity.startswith(pattern[:-1]) if pattern.endswith("*") else identity == pattern
