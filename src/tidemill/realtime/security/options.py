"""Who may ask for what, and how often, as configured: the sections `[auth]` and `[rate_limits]`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError
from tidemill.realtime.security.scopes import SCOPE

__all__ = ["Algorithm", "AuthOptions", "JwtOptions", "Open", "Rate", "RateLimits", "Scope"]

Text = Annotated[str, msgspec.Meta(min_length=1)]
Scope = Annotated[str, msgspec.Meta(pattern=SCOPE)]
Open = Literal["health", "metadata", "metrics"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512"
]
PerSecond = Annotated[float, msgspec.Meta(gt=0)]


class JwtOptions(Config, frozen=True, kw_only=True):
    """JSON web tokens that are taken: of this issuer, for this audience, not expired, signed with a known key.

    The keys come from one of `public_key` (a PEM file), `jwks` (a file, or an https or loopback http address) and
    `secret_file` (shared secret of 32 bytes or more, for HS256 and its like, which are refused otherwise). Scopes are
    taken from the claims `scope` or `scp`, the caller's name from `sub`. Times are seconds.
    """

    issuer: Text
    audience: Text
    public_key: Text | None = None
    jwks: Text | None = None
    secret_file: Text | None = None
    algorithms: tuple[Algorithm, ...] | None = None
    """Those of the kind of key if left out: RS256, PS256, ES256 and EdDSA, or HS256."""
    leeway: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    refresh: Annotated[float, msgspec.Meta(ge=10)] = 300.0
    """How often keys of an address are fetched; a token with a key that is not known yet asks for them earlier."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """The algorithms that are taken."""
        if self.algorithms is not None:
            return self.algorithms
        return ("HS256",) if self.secret_file is not None else ("RS256", "PS256", "ES256", "EdDSA")

    def check(self) -> None:
        """Raise ConfigError for fields that contradict each other."""
        given = [name for name in ("public_key", "jwks", "secret_file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"auth.jwt: got {' and '.join(given) or 'no key'}, expected one of public_key, jwks, secret_file"
            )
        wrong = [name for name in self.allowed if name.startswith("HS") != (given == ["secret_file"])]
        if wrong or not self.allowed:
            kind = "HS256, HS384, HS512" if given == ["secret_file"] else "algorithms of public keys, as RS256 or ES256"
            raise ConfigError(f"auth.jwt.algorithms: got {', '.join(wrong) or 'none'}, but {given[0]} is for {kind}")


class AuthOptions(Config, frozen=True, kw_only=True):
    """Every request needs a caller with the endpoint's scope, except what is `open`.

    Scopes are `infer`, `read` (metadata, statistics, documents) and `admin` (load and unload), each for all models or
    as `infer:NAME` or `infer:PREFIX*` for some. `infer` and `admin` include `read` of the same models.
    """

    keys: Text | None = None
    """The file that `tidemill keys` writes; read again when it changes."""
    jwt: JwtOptions | None = None
    certificates: dict[Text, tuple[Scope, ...]] = msgspec.field(default_factory=dict)
    """Scopes of a client certificate's identity (its URI, else its CN); a name that ends in * is a prefix."""
    roles: dict[Text, tuple[Scope, ...]] = msgspec.field(default_factory=dict)
    """What a scope that an issuer of tokens calls by its own name stands for here."""
    open: tuple[Open, ...] = ("health",)
    """What needs no caller: `health` (live and ready), `metadata` (`/` and `/v2`), `metrics`."""

    def check(self, verifies_clients: bool, watched: bool = False) -> None:
        """Raise ConfigError for fields that contradict each other.

        `verifies_clients`: TLS asks for certificates; `watched`: a supervisor or balancer asks for health.
        """
        if watched and "health" not in self.open:
            raise ConfigError("auth.open: must hold health where there are replicas, who are watched by it")
        if self.keys is None and self.jwt is None and not self.certificates:
            raise ConfigError("auth: nobody could ask; expected keys, jwt or certificates")
        if self.certificates and not verifies_clients:
            raise ConfigError("auth.certificates: clients show certificates only where tls.client_ca is given")
        if self.jwt is not None:
            self.jwt.check()


class Rate(Config, frozen=True, kw_only=True):
    """So many requests and rows a second; `burst` seconds' worth, or one request, may come at once."""

    requests: PerSecond | None = None
    rows: PerSecond | None = None
    burst: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class RateLimits(Config, frozen=True, kw_only=True):
    """How often each caller may ask: over all endpoints (`default`, or by name in `callers`), and of one endpoint.

    With replicas each holds its share. Who is not known as a caller is limited only by `address`: the client's, of
    IPv6 the first 64 bits.
    """

    default: Rate | None = None
    callers: dict[Text, Rate] = msgspec.field(default_factory=dict)
    endpoints: dict[Text, Rate] = msgspec.field(default_factory=dict)
    """By model name; holds for each caller of that model, beside the caller's own."""
    address: Rate | None = None
    max_callers: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Callers remembered; for one more the one that has been quiet longest is forgotten."""
