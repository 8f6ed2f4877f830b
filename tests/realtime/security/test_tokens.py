"""JSON web tokens: what is taken, and every way in which one can be wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import jwt
import pytest

from tests.realtime.security.issuer import AUDIENCE, ISSUER, KeyServer, Signer, jwks, key_server, sign
from tidemill.errors import ConfigError, Unauthenticated, Unavailable
from tidemill.realtime.security import jwks as jwks_module
from tidemill.realtime.security.options import AuthOptions, JwtOptions
from tidemill.realtime.security.tokens import Tokens

RSA = Signer("RS256")
SECRET = "0123456789abcdef0123456789abcdef"  # not one that anybody uses


def options(**given: Any) -> JwtOptions:
    return JwtOptions(issuer=ISSUER, audience=AUDIENCE, **given)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    """Takes what RSA signs."""
    (tmp_path / "key.pem").write_bytes(RSA.pem)
    return Tokens(options(public_key=str(tmp_path / "key.pem")))


def encoded(part: Any) -> bytes:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def by_hand(header: Any, claims: Any, key: bytes | None) -> str:
    """A token that no library would make: signed with HMAC, or not at all."""
    signed = encoded(header) + b"." + encoded(claims)
    signature = b"" if key is None else encoded(hmac.digest(key, signed, hashlib.sha256))
    return (signed + b"." + signature).decode()


def good() -> dict[str, Any]:
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "scope": "infer admin", "exp": time.time() + 600}


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_every_kind_of_key_by_file_and_by_key_set(algorithm: str, tmp_path: Path) -> None:
    signer = Signer(algorithm)
    (tmp_path / "key.pem").write_bytes(signer.pem)
    (tmp_path / "jwks.json").write_bytes(jwks(Signer("ES256", "another"), signer))
    for given in ({"public_key": "key.pem"}, {"jwks": "jwks.json"}):
        found = Tokens(options(**{k: str(tmp_path / v) for k, v in given.items()})).read(signer.token().encode())
        assert (found.name, found.scopes) == ("shop", ("infer",))
        assert 600 < found.until - monotonic() <= 631


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "infer read:x"}, ("infer", "read:x")),
        ({"scope": None, "scp": ["infer", "admin"]}, ("infer", "admin")),
        ({"scope": "infer", "scp": "read"}, ("infer", "read")),
        ({"scope": None}, ()),
        ({"scope": 7, "scp": {"infer": True}}, ()),
        ({"scope": ["infer", 7, None]}, ("infer",)),
    ],
)
def test_scopes_as_issuers_write_them(claims: dict[str, Any], scopes: tuple[str, ...], tokens: Tokens) -> None:
    assert tokens.read(RSA.token(**claims).encode()).scopes == scopes


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": time.time() - 60}, "has expired"),
        ({"exp": None}, "claim exp is missing"),
        ({"exp": "soon"}, "no JSON web token"),
        ({"exp": 1e400}, "no JSON web token"),
        ({"nbf": time.time() + 3600}, "not valid yet"),
        ({"iat": time.time() + 3600}, "not valid yet"),
        ({"aud": "another"}, "for another audience"),
        ({"aud": ["another", "yet another"]}, "for another audience"),
        ({"aud": None}, "claim aud is missing"),
        ({"aud": AUDIENCE + "x"}, "for another audience"),
        ({"iss": "https://issuer.test.evil"}, "from another issuer"),
        ({"iss": None}, "claim iss is missing"),
        ({"sub": None}, "names nobody"),
        ({"sub": "a\r\nset-cookie: x"}, "names nobody"),
        ({"sub": "x" * 300}, "names nobody"),
    ],
)
def test_claims_that_are_not_right(claims: dict[str, Any], why: str, tokens: Tokens) -> None:
    with pytest.raises(Unauthenticated, match=why) as refused:
        tokens.read(RSA.token(**claims).encode())
    assert refused.value.challenge == 'Bearer error="invalid_token"'


def test_leeway_forgives_clocks_that_differ(tokens: Tokens) -> None:
    found = tokens.read(RSA.token(exp=time.time() - 10, nbf=time.time() + 10).encode())
    assert 15 < found.until - monotonic() < 25


def forged(name: str) -> str:
    """A token that nobody who holds the private key made."""
    payload = good()
    other = Signer("RS256")
    cases: dict[str, Callable[[], str]] = {
        # The public key, which everybody has, taken for the secret of an HMAC.
        "confusion": lambda: by_hand({"alg": "HS256", "typ": "JWT"}, payload, RSA.pem),
        "confusion, stripped": lambda: by_hand({"alg": "HS256", "typ": "JWT"}, payload, RSA.pem.strip()),
        "none": lambda: by_hand({"alg": "none"}, payload, None),
        "None": lambda: by_hand({"alg": "None"}, payload, None),
        "no algorithm": lambda: by_hand({"typ": "JWT"}, payload, None),
        "empty algorithm": lambda: by_hand({"alg": ""}, payload, None),
        "list of algorithms": lambda: by_hand({"alg": ["RS256"]}, payload, None),
        "signature left out": lambda: by_hand({"alg": "RS256"}, payload, None),
        "another's key": other.token,
        "another's key in the header": lambda: other.token({"jwk": other.jwk}),
        "key address in the header": lambda: other.token({"jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}),
        "kid that is a path": lambda: other.token({"kid": "../../../../dev/null"}),
        "kid that is a query": lambda: other.token({"kid": "' or 1=1 --"}),
        "secret of nothing": lambda: by_hand({"alg": "HS256", "kid": "/dev/null"}, payload, b""),
        "other claims under the same signature": _swapped,
        "critical": lambda: sign(RSA.private, "RS256", {"crit": ["exp2"], "exp2": 1}),
        "unencoded": lambda: by_hand({"alg": "RS256", "b64": False, "crit": ["b64"]}, payload, None),
    }
    return cases[name]()


def _swapped() -> str:
    head, _, signature = RSA.token().split(".")
    return f"{head}.{encoded(good()).decode()}.{signature}"


@pytest.mark.parametrize(
    "name",
    [
        "confusion", "confusion, stripped", "none", "None", "no algorithm", "empty algorithm", "list of algorithms",
        "signature left out", "another's key", "another's key in the header", "key address in the header",
        "kid that is a path", "kid that is a query", "secret of nothing", "other claims under the same signature",
        "critical", "unencoded",
    ],
)  # fmt: skip
def test_forgeries(name: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(RSA.pem)
    (tmp_path / "jwks.json").write_bytes(jwks(RSA))
    token = forged(name).encode()
    for given in ({"public_key": "key.pem"}, {"jwks": "jwks.json"}):
        with pytest.raises(Unauthenticated):
            Tokens(options(**{k: str(tmp_path / v) for k, v in given.items()})).read(token)


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b".", b"..", b"a.b.c", b"e30.e30.", b"\xff\xfe", b"x" * 20_000, RSA.token().encode()[:-1],
        RSA.token().encode()[1:], RSA.token().encode() + b"A", RSA.token().encode() + b".", b"tm_" + b"0" * 60,
        encoded(b"[" * 100_000)[:16_000], encoded(b'{"alg":' + b"[" * 11_000) + b".e30.e30",
        encoded({"alg": "RS256"}) + b".!!!.", b"null.null.null", encoded(b'{"alg":"RS256","kid":{}}') + b".e30.e30",
    ],
    ids=map(str, count()),  # what is made of keys differs from process to process
)  # fmt: skip
def test_garbage(garbage: bytes, tokens: Tokens) -> None:
    with pytest.raises(Unauthenticated):
        tokens.read(garbage)


def test_a_shared_secret_only_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_text(SECRET + "\n")
    tokens = Tokens(options(secret_file=str(file)))
    assert tokens.read(sign(SECRET, "HS256").encode()).name == "shop"
    for wrong in (
        sign(SECRET[:-1] + "g", "HS256"),
        sign(SECRET * 2, "HS512"),
        RSA.token(),
        by_hand({"alg": "none"}, good(), None),
    ):
        with pytest.raises(Unauthenticated):
            tokens.read(wrong.encode())
    file.write_text("short")
    with pytest.raises(ConfigError, match="can be guessed"):
        Tokens(options(secret_file=str(file)))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Tokens(options(secret_file=str(file)))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "got no key"),
        ({"public_key": "a", "jwks": "b"}, "got public_key and jwks"),
        ({"public_key": "a", "secret_file": "b"}, "got public_key and secret_file"),
        ({"public_key": "a", "algorithms": ("RS256", "HS256")}, "HS256, but public_key is for"),
        ({"secret_file": "a", "algorithms": ("RS256",)}, "RS256, but secret_file is for"),
        ({"public_key": "a", "algorithms": ()}, "got none"),
    ],
)
def test_options_that_contradict(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        AuthOptions(jwt=options(**given)).check(verifies_clients=False)


@pytest.mark.parametrize(
    "where", ["http://issuer.test/keys", "file:///etc/passwd", "ftp://127.0.0.1/", "http://127.0.0.1.evil/"]
)
def test_key_sets_come_from_a_file_or_a_safe_address(where: str) -> None:
    with pytest.raises(ConfigError, match="expected a file, or an https address"):
        Tokens(options(jwks=where))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"), (b"[]", "keys"), (b'{"keys": {}}', "keys"), (b'{"keys": []}', "no public key"),
        (b'{"keys": [7, null, {"kty": "RSA"}, {"kty": "what"}, {"kty": "RSA", "n": "!", "e": 7}]}', "no public key"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}]}', "no public key"),
        (json.dumps({"keys": [{**RSA.jwk, "use": "enc"}]}).encode(), "no public key"),
        (json.dumps({"keys": [{**RSA.jwk, "alg": "RS512"}]}).encode(), "no public key"),
        (json.dumps({"keys": [RSA.jwk] * 300}).encode(), "at most 256"),
    ],
    ids=map(str, count()),
)  # fmt: skip
def test_key_sets_without_a_key(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        Tokens(options(jwks=str(tmp_path / "jwks.json")))


@pytest.mark.parametrize("kind", ["private", "not PEM", "short", "another kind"])
def test_files_that_hold_no_public_key(kind: str, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    short = Signer()
    short.private = rsa.generate_private_key(65537, 1024)
    content = {"private": RSA.private_pem, "not PEM": b"hello", "short": short.pem, "another kind": Signer("ES384").pem}
    (tmp_path / "key.pem").write_bytes(content[kind])
    with pytest.raises(ConfigError, match=r"key\.pem"):
        Tokens(options(public_key=str(tmp_path / "key.pem")))


def test_a_token_without_key_id_only_where_it_is_clear(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(RSA, Signer("ES256", "e")))
    token = RSA.token({"kid": None}).encode()
    assert Tokens(options(jwks=str(file))).read(token).name == "shop"
    file.write_bytes(jwks(RSA, Signer("RS256", "r2")))
    with pytest.raises(Unauthenticated, match="key that is not known"):
        Tokens(options(jwks=str(file))).read(token)


def test_a_file_of_keys_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(RSA))
    tokens = Tokens(options(jwks=str(file)))
    new = Signer("RS256", "k2")
    with pytest.raises(Unauthenticated, match="not known"):
        tokens.read(new.token().encode())
    assert not tokens.source.tick(monotonic())
    file.write_bytes(jwks(RSA, new))
    assert tokens.source.tick(monotonic())
    assert tokens.read(new.token().encode()).name == "shop"
    file.write_bytes(b"garbage")
    with pytest.raises(ConfigError):
        tokens.source.tick(monotonic())
    assert tokens.read(new.token().encode()).name == "shop"


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as server:
        server.body = jwks(RSA)
        yield server


def until(tokens: Tokens, done: Callable[[], bool], now: float | None = None) -> None:
    """Let the seconds tick until so."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        tokens.source.tick(monotonic() if now is None else now)
        time.sleep(0.01)


def knows(tokens: Tokens, kid: str = "k1") -> Callable[[], bool]:
    return lambda: tokens.source.keys.find(kid, "RS256") is not None


def test_keys_are_fetched_in_the_background_and_asked_for_rarely(server: KeyServer) -> None:
    server.go.clear()
    tokens = Tokens(options(jwks=server.url))
    with pytest.raises(Unavailable, match="being fetched"):
        tokens.read(RSA.token().encode())
    server.go.set()
    until(tokens, knows(tokens))
    assert tokens.read(RSA.token().encode()).name == "shop"
    new = Signer("RS256", "k2")
    for _ in range(100):  # a flood of tokens with invented keys
        with pytest.raises(Unauthenticated, match="not known"):
            tokens.read(new.token().encode())
    assert server.asked == 1
    server.body = jwks(RSA, new)
    later = monotonic() + jwks_module.PAUSE
    tokens.source.missing(later)
    until(tokens, knows(tokens, "k2"), later)
    assert tokens.read(new.token().encode()).name == "shop"
    assert server.asked == 2


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"", {}),
        (200, b"<html>", {}),
        (200, b'{"keys": []}', {}),
        (200, b" " * (2 << 20), {}),
        (302, b"", {"location": "http://127.0.0.1:1/"}),
    ],
)
def test_an_address_that_answers_garbage_changes_nothing(
    status: int, body: bytes, headers: dict[str, str], server: KeyServer
) -> None:
    tokens = Tokens(options(jwks=server.url))
    until(tokens, knows(tokens))
    server.status, server.body, server.headers = status, body, headers
    later = monotonic() + 1000
    tokens.source.tick(later)
    source: Any = tokens.source
    until(tokens, lambda: source._under_way is None, later)
    assert server.asked == 2
    assert tokens.read(RSA.token().encode()).name == "shop"


def test_an_address_that_hangs_holds_nobody_up(server: KeyServer) -> None:
    tokens = Tokens(options(jwks=server.url))
    until(tokens, knows(tokens))
    server.go.clear()
    later = monotonic() + 1000
    tokens.source.tick(later)
    assert tokens.read(RSA.token().encode()).name == "shop"
    with pytest.raises(Unavailable):
        tokens.read(RSA.token({"kid": "k2"}).encode())
    tokens.source.tick(later + jwks_module.DEADLINE + 1)  # it is given up, and asked anew
    source: Any = tokens.source
    deadline = time.monotonic() + 20
    while server.asked < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for i in range(2, 10):  # those left behind are bounded
        tokens.source.tick(later + i * (jwks_module.DEADLINE + 1))
    assert len(source._threads) <= jwks_module.LEFT_BEHIND


def test_the_forgeries_are_what_they_claim() -> None:
    """Else their refusal would show nothing: by the algorithm that it names, the confused one is signed right."""
    key = jwt.get_algorithm_by_name("HS256")
    token = forged("confusion")
    head, _, signature = token.rpartition(".")
    padded = base64.urlsafe_b64decode(signature + "==")
    assert key.verify(head.encode(), RSA.pem, padded)
