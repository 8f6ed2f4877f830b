"""The keys with which an issuer signs its tokens: from a PEM file, a shared secret, or a JWKS file or address.

An address is asked on a thread, never on the event loop, and never often; what was fetched last stays in use until
there is something newer that can be read.
"""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tidemill.errors import ConfigError
from tidemill.realtime.security.files import Watched, check_private
from tidemill.realtime.security.options import JwtOptions

__all__ = ["SigningKeySource", "SigningKeys", "key_source", "parse_jwks"]

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
MOST_KEYS = 256
TIMEOUT = 5.0  # seconds of silence
DEADLINE = 15.0  # seconds of one fetch, whatever comes; one that is over it is left to itself
LEFT_BEHIND = 4
PAUSE = 10.0  # seconds from one fetch to the next
SECRET_BYTES = 32
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class SigningKeys:
    """Keys by their ID and the one algorithm each is used with; a key without an ID has an empty one."""

    def __init__(self, keys: Mapping[tuple[str, str], Any]) -> None:
        self._keys = dict(keys)
        self._sole: dict[str, Any] = {}
        for algorithm in {name for _, name in self._keys}:
            every = [key for (_, name), key in self._keys.items() if name == algorithm]
            if len(every) == 1:
                self._sole[algorithm] = every[0]

    def find(self, kid: str | None, algorithm: str) -> Any:
        """The key that a token names, or if it names none, the only one of its algorithm; None if there is none."""
        if kid is None:
            return self._sole.get(algorithm)
        found = self._keys.get((kid, algorithm))
        return found if found is not None else self._keys.get(("", algorithm))


class SigningKeySource:
    """Keys that a file holds."""

    def __init__(self, path: str, read: Callable[[bytes], SigningKeys]) -> None:
        """Raises ConfigError for a file that cannot be read."""
        self._path = path
        self._read = read
        self._watched = Watched((path,))
        self.keys = self._load()

    def tick(self, now: float) -> bool:
        """Once a second: look whether there are other keys. True if there are. Raises ConfigError, keeping the old."""
        if not self._watched.changed():
            return False
        self.keys = self._load()
        return True

    def missing(self, now: float) -> bool:
        """A token names a key that is not here. True if keys are being fetched, so that it is worth to come back."""
        return False

    def _load(self) -> SigningKeys:
        try:
            return self._read(Path(self._path).read_bytes())
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"auth.jwt: {self._path}: {getattr(error, 'strerror', None) or error}") from None


class _Fetched(SigningKeySource):
    """Keys of an address; none until the first fetch is done."""

    def __init__(self, url: str, allowed: Sequence[str], refresh: float) -> None:
        self._url = url
        self._allowed = allowed
        self._refresh = refresh
        self._begun = -PAUSE
        self._due = 0.0
        self._under_way: object | None = None
        self._arrived: SigningKeys | None = None
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.keys = SigningKeys({})

    def tick(self, now: float) -> bool:
        with self._lock:
            if self._under_way is not None and now - self._begun > DEADLINE:
                log.warning("the keys of %s did not come within %g s", self._url, DEADLINE)
                self._under_way = None
            arrived, self._arrived = self._arrived, None
            if arrived is not None:
                self.keys = arrived
        if now >= self._due:
            self._fetch(now)
        return arrived is not None

    def missing(self, now: float) -> bool:
        self._fetch(now)
        return self._under_way is not None or self._arrived is not None

    def _fetch(self, now: float) -> None:
        """Begin one, unless one is under way or was just before."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if self._under_way is not None or now - self._begun < PAUSE or len(self._threads) >= LEFT_BEHIND:
                return
            self._begun = now
            self._due = now + PAUSE
            self._under_way = mark = object()
            thread = threading.Thread(target=self._run, args=(mark,), name="jwks", daemon=True)
            self._threads.append(thread)
        thread.start()

    def _run(self, mark: object) -> None:
        try:
            found = parse_jwks(_get(self._url), self._allowed)
        except (OSError, ValueError, HTTPException) as error:
            log.warning("no keys from %s: %s", self._url, error)
            found = None
        with self._lock:
            if self._under_way is mark:
                self._under_way = None
                if found is not None:
                    self._arrived = found
                    self._due = self._begun + self._refresh


def key_source(options: JwtOptions) -> SigningKeySource:
    """Where the keys of these options come from. Raises ConfigError."""
    allowed = options.allowed
    if options.secret_file is not None:
        check_private(options.secret_file, "auth.jwt.secret_file")
        return SigningKeySource(options.secret_file, lambda data: _secret(data, allowed))
    if options.public_key is not None:
        return SigningKeySource(options.public_key, lambda data: _public(data, allowed))
    where = options.jwks or ""
    if "://" not in where:
        return SigningKeySource(where, lambda data: parse_jwks(data, allowed))
    address = urlsplit(where)
    if address.scheme != "https" and not (address.scheme == "http" and _is_loopback(address.hostname)):
        raise ConfigError(f"auth.jwt.jwks: got {where!r}, expected a file, or an https address (http only of loopback)")
    return _Fetched(where, allowed, options.refresh)


def parse_jwks(data: bytes, allowed: Sequence[str]) -> SigningKeys:
    """The public keys of a JSON web key set that may sign with an allowed algorithm. Raises ValueError if none may."""
    document = orjson.loads(data)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f'expected a JSON object with a list "keys" of at most {MOST_KEYS}')
    found: dict[tuple[str, str], Any] = {}
    for one in listed:
        # A shared secret has no place in a public document, and keys for encryption sign nothing.
        if not isinstance(one, dict) or one.get("kty") == "oct" or one.get("use", "sig") != "sig":
            continue
        kid = one.get("kid", "")
        try:
            key: Any = jwt.PyJWK(one).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        for algorithm in _fitting(key, allowed):
            if isinstance(kid, str) and one.get("alg", algorithm) == algorithm:
                found[kid, algorithm] = key
    if not found:
        raise ValueError(f"holds no public key for {', '.join(allowed)}")
    return SigningKeys(found)


def _public(data: bytes, allowed: Sequence[str]) -> SigningKeys:
    key = load_pem_public_key(data)
    keys = {("", algorithm): key for algorithm in _fitting(key, allowed)}
    if not keys:
        raise ValueError(f"is no key for {', '.join(allowed)}")
    return SigningKeys(keys)


def _secret(data: bytes, allowed: Sequence[str]) -> SigningKeys:
    secret = data.strip()
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes can be guessed; expected {SECRET_BYTES} or more")
    return SigningKeys({("", algorithm): secret for algorithm in allowed})


def _fitting(key: object, allowed: Sequence[str]) -> list[str]:
    """The allowed algorithms that a public key of this kind is for; none for a private key or a short one."""
    able: tuple[str, ...] = ()
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        able = RSA
    elif isinstance(key, EllipticCurvePublicKey):
        able = (CURVES.get(key.curve.name, ""),)
    elif isinstance(key, Ed25519PublicKey):
        able = ("EdDSA",)
    return [algorithm for algorithm in allowed if algorithm in able]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What an https address answers must not send us to another one."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> bytes:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if urlsplit(url).scheme == "http":
        handlers.append(urllib.request.ProxyHandler({}))  # loopback is not reached through a proxy
    until = monotonic() + DEADLINE
    with urllib.request.build_opener(*handlers).open(url, timeout=TIMEOUT) as answer:
        data = b""
        while part := answer.read1(65536):
            data += part
            if len(data) > MOST_BYTES:
                raise ValueError(f"over {MOST_BYTES} bytes")
            if monotonic() > until:
                raise ValueError(f"not complete after {DEADLINE:g} s")
    return data


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False
