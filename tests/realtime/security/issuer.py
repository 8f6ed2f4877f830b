"""An issuer of tokens for tests: keys of every kind, tokens right and wrong, and a key server that may misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

ISSUER = "https://issuer.test"
AUDIENCE = "tidemill"


class Signer:
    """A private key, and the tokens and public documents that go with it."""

    def __init__(self, algorithm: str = "RS256", kid: str | None = "k1") -> None:
        self.algorithm = algorithm
        self.kid = kid
        if algorithm.startswith(("RS", "PS")):
            self.private: Any = rsa.generate_private_key(65537, 2048)
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}
            self.private = ec.generate_private_key(curves[algorithm])

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def private_pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def jwk(self) -> dict[str, Any]:
        found = json.loads(jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key()))
        return found if self.kid is None else {**found, "kid": self.kid}

    def token(self, header: dict[str, Any] | None = None, algorithm: str | None = None, **claims: Any) -> str:
        """A token, valid unless the claims given say otherwise; a claim of None is left out."""
        return sign(self.private, algorithm or self.algorithm, {"kid": self.kid, **(header or {})}, **claims)


def sign(key: Any, algorithm: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "shop",
        "scope": "infer",
        "exp": time.time() + 600,
        **claims,
    }
    whole = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(whole, key, algorithm, {k: v for k, v in (header or {}).items() if v is not None})


def jwks(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.jwk for signer in signers]}).encode()


class KeyServer:
    """What it answers next may be changed at any time. `hang` holds answers up until it is cleared."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.headers: dict[str, str] = {}
        self.asked = 0
        self.go = threading.Event()
        self.go.set()
        self.url = ""


@contextmanager
def key_server() -> Iterator[KeyServer]:
    state = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            state.go.wait(30)
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.go.set()
        server.shutdown()
        thread.join()
        server.server_close()
