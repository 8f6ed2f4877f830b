"""JSON web tokens: who the caller is, what it may do, and until when. Needs the extra `auth`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from time import monotonic
from typing import Any, NamedTuple

import jwt

from tidemill.errors import Unauthenticated, Unavailable
from tidemill.realtime.security.jwks import key_source
from tidemill.realtime.security.options import JwtOptions

__all__ = ["Claims", "Tokens"]

MOST_BYTES = 16 << 10
MOST_SCOPES = 256
NAME_SIZE = 256
CHALLENGE = 'Bearer error="invalid_token"'


class Claims(NamedTuple):
    """What a token says of its bearer; `until` is a moment of `time.monotonic()`, its leeway included."""

    name: str
    scopes: tuple[str, ...]
    until: float


class Tokens:
    """Reads tokens by these options."""

    def __init__(self, options: JwtOptions) -> None:
        """Raises ConfigError for a file of keys that cannot be read."""
        self._options = options
        self._allowed = frozenset(options.allowed)
        self.source = key_source(options)

    def read(self, token: bytes) -> Claims:
        """Verify a token. Raises Unauthenticated, or Unavailable while the key it names is being fetched."""
        if len(token) > MOST_BYTES:
            raise _refusal(f"it has {len(token)} bytes; at most {MOST_BYTES} are taken")
        options = self._options
        try:
            text = token.decode("ascii")
            header = jwt.get_unverified_header(text)
            algorithm, kid = header.get("alg"), header.get("kid")
            # Before a key is looked for: whoever forges a token chooses its algorithm.
            if algorithm not in self._allowed:
                raise _refusal("its algorithm is not taken here")
            key = self.source.keys.find(kid, algorithm)
            if key is None:
                if self.source.missing(monotonic()):
                    raise Unavailable("the keys of the tokens' issuer are being fetched", retry_after=1.0)
                raise _refusal("it is signed with a key that is not known")
            claims: Mapping[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                issuer=options.issuer,
                audience=options.audience,
                leeway=options.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise _refusal("it has expired") from None
        except jwt.ImmatureSignatureError:
            raise _refusal("it is not valid yet") from None
        except jwt.InvalidAudienceError:
            raise _refusal("it is for another audience") from None
        except jwt.InvalidIssuerError:
            raise _refusal("it comes from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise _refusal(f"its claim {error.claim} is missing") from None
        except jwt.InvalidSignatureError:
            raise _refusal("its signature is wrong") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise _refusal("it is no JSON web token") from None
        left = float(claims["exp"]) + options.leeway - time.time()
        return Claims(_name(claims), _scopes(claims), monotonic() + left)


def _name(claims: Mapping[str, Any]) -> str:
    for claim in ("sub", "client_id", "azp"):
        name = claims.get(claim)
        if isinstance(name, str) and 0 < len(name) <= NAME_SIZE and name.isprintable():
            return name
    raise _refusal(f"it names nobody: expected the claim sub, printable, of at most {NAME_SIZE} characters")


def _scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for claim in ("scope", "scp"):
        value = claims.get(claim, ())
        listed = value.split() if isinstance(value, str) else value
        if isinstance(listed, list | tuple):
            found += [one for one in listed if isinstance(one, str)]
    return tuple(found[:MOST_SCOPES])


def _refusal(why: str) -> Unauthenticated:
    return Unauthenticated(f"the token is not accepted: {why}", CHALLENGE)
