"""Callers at a running server: who is let in where, over HTTP/1.1 and gRPC, by key, token and role."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest

from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.security.issuer import AUDIENCE, ISSUER, Signer, jwks
from tests.realtime.serving import Served, process, served
from tidemill.errors import MissingExtra
from tidemill.realtime import ServeOptions
from tidemill.realtime.security.keys import create_key, revoke_keys
from tidemill.realtime.security.options import AuthOptions, JwtOptions, Rate, RateLimits

PATIENCE = 20.0
SIGNER = Signer("ES256")
ROWS = {"rows": [{"age": 3, "city": "Bern", "income": 2000}]}
MATRIX = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
TABULAR = "/v2/models/tabular/infer"


class Guarded(NamedTuple):
    served: Served
    file: Path
    all: str
    tabular: str
    reader: str
    admin: str


def options(file: Path, **auth: object) -> ServeOptions:
    return ServeOptions(port=0, lame_duck=0.0, grace=5.0, auth=AuthOptions(keys=str(file), **auth))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    file = directory / "keys.toml"
    keys = [create_key(file, n, s) for n, s in (
        ("all", ["infer"]), ("tabular", ["infer:tab*"]), ("reader", ["read"]), ("admin", ["admin"])
    )]  # fmt: skip
    (directory / "jwks.json").write_bytes(jwks(SIGNER))
    jwt = JwtOptions(issuer=ISSUER, audience=AUDIENCE, jwks=str(directory / "jwks.json"))
    roles = {"risk.score": ("infer:tabular",)}
    models = [packages.tabular(directory), packages.matrix(directory)]
    with served(models, options(file, jwt=jwt, roles=roles)) as server:
        yield Guarded(server, file, *keys)


def ask(guarded: Guarded, path: str = TABULAR, body: object = ROWS, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return guarded.served.post(path, body, headers=named)


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_a_known_key_is_let_in_however_it_is_sent(guarded: Guarded) -> None:
    for _ in range(3):
        for headers in (
            {"authorization": bearer(guarded.all)},
            {"authorization": f"bearer  {guarded.all}"},
            {"x_api_key": guarded.all},
            {"authorization": "Basic dXNlcjpwdw==", "x_api_key": guarded.all},
        ):
            answer = ask(guarded, **headers)
            assert answer.status_code == 200, (headers, answer.text)


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Bearer"},
        {"authorization": "{key}"}, {"authorization": "Basic {key}"}, {"authorization": "Token {key}"},
        {"authorization": "Bearer {key}x"}, {"authorization": "Bearer x{key}"}, {"authorization": "Bearer {cut}"},
        {"authorization": "Bearer {key}, Bearer {key}"}, {"authorization": "Bearer {key} {key}"},
        {"authorization": "Bearer " + "x" * 20_000}, {"x_api_key": "{key}x"}, {"x_api_key": "Bearer {key}"},
        {"x_api_key": ""}, {"authorization": "Bearer {key}x", "x_api_key": "{key}"},
        {"cookie": "authorization=Bearer {key}"}, {"proxy_authorization": "Bearer {key}"},
    ],
)  # fmt: skip
def test_everybody_else_is_not(headers: dict[str, str], guarded: Guarded) -> None:
    key = guarded.all
    given = {name: value.format(key=key, cut=key[:-1]) for name, value in headers.items()}
    answer = ask(guarded, **given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert key[:20] not in answer.text
    assert set(answer.json()) == {"error"}


def raw(guarded: Guarded, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", guarded.served.port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /v2/models/tabular HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + head + b"\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize("head", [b"authorization: Bearer %b\r\n" * 2, b"x-api-key: %b\r\n" * 2])
def test_a_header_sent_twice_is_not_taken(head: bytes, guarded: Guarded) -> None:
    key = guarded.all.encode()
    assert raw(guarded, head % (key, key)).startswith(b"HTTP/1.1 401")
    assert raw(guarded, (head[: len(head) // 2]) % key).startswith(b"HTTP/1.1 200")


def test_bytes_that_are_no_text_are_not_taken(guarded: Guarded) -> None:
    for value in (b"", b" ", b"\xff\xfe\xfd", b"tm_\xc3\xa9", b"e30.\xff.\xff"):
        assert raw(guarded, b"authorization: Bearer " + value + b"\r\n").startswith(b"HTTP/1.1 401")
        assert raw(guarded, b"x-api-key: " + value + b"\r\n").startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        ("tabular", TABULAR, 200),
        ("tabular", "/v2/models/matrix/infer", 403),
        ("tabular", "/v2/models/%6datrix/infer", 403),
        ("tabular", "/v2/models/matrix/versions/1/infer?x", 403),
        ("tabular", "/v1/models/matrix:predict", 403),
        ("tabular", "/v2/repository/models/tabular/load", 403),
        ("reader", TABULAR, 403),
        ("admin", TABULAR, 403),
        ("all", "/v2/repository/models/tabular/unload", 403),
        ("reader", "/v2/repository/index", 200),
    ],
)
def test_a_key_is_good_for_its_scopes_only(who: str, path: str, status: int, guarded: Guarded) -> None:
    answer = ask(guarded, path, x_api_key=getattr(guarded, who))
    assert answer.status_code == status, answer.text
    if status == 403:
        assert "lacks the scope" in answer.json()["error"]
        assert "matrix" not in answer.text or "infer:matrix" in answer.text


def test_reading(guarded: Guarded) -> None:
    get = guarded.served.client.get
    for who, path, status in (
        ("tabular", "/v2/models/tabular", 200),
        ("tabular", "/v2/models/tabular/stats", 200),
        ("tabular", "/v2/models/matrix", 403),
        ("tabular", "/v2/models/stats", 403),
        ("tabular", "/openapi.json", 403),
        ("reader", "/openapi.json", 200),
        ("reader", "/v2", 200),
        ("admin", "/", 200),
    ):
        assert get(path, headers={"x-api-key": getattr(guarded, who)}).status_code == status, (who, path)


def test_who_is_not_known_learns_nothing_but_health(guarded: Guarded) -> None:
    get = guarded.served.client.get
    assert get("/v2/health/live").status_code == 200
    assert get("/v2/health/ready").status_code == 200
    assert get("/v2/models/tabular/ready").status_code == 200
    told = {get(path).text for path in ("/v2/models/tabular", "/v2/models/none", "/nothing", "/v2", "/", TABULAR)}
    assert len(told) == 1
    assert "nobody is known" in told.pop()
    assert guarded.served.client.delete("/v2/models/tabular").status_code == 401
    # Known, but there is nothing.
    assert get("/v2/models/none", headers={"x-api-key": guarded.reader}).status_code == 404
    assert get("/v2/models/none", headers={"x-api-key": guarded.tabular}).status_code == 403


def test_tokens_and_roles(guarded: Guarded) -> None:
    good = SIGNER.token(scope="risk.score openid infer:bogus:x")
    for _ in range(2):
        assert ask(guarded, authorization=bearer(good)).status_code == 200
    assert ask(guarded, "/v2/models/matrix/infer", MATRIX, authorization=bearer(good)).status_code == 403
    assert ask(guarded, "/v2/models/matrix/infer", MATRIX, authorization=bearer(SIGNER.token())).status_code == 200
    answer = ask(guarded, authorization=bearer(SIGNER.token(exp=time.time() - 100)))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert "has expired" in answer.json()["error"]
    assert ask(guarded, x_api_key=good).status_code == 401  # a token is no API key


def test_a_token_that_was_let_in_expires_all_the_same(guarded: Guarded) -> None:
    token = bearer(SIGNER.token(exp=time.time() - 29))  # of which the leeway forgives 30
    assert ask(guarded, authorization=token).status_code == 200
    eventually(lambda: ask(guarded, authorization=token).status_code != 200)
    assert ask(guarded, authorization=token).status_code == 401


def test_a_key_that_is_revoked_is_refused_though_it_was_known(guarded: Guarded) -> None:
    key = create_key(guarded.file, "shortlived", ["infer"])
    guarded.served.in_loop(guarded.served.server.security.reload)  # as SIGHUP does
    assert ask(guarded, authorization=bearer(key)).status_code == 200
    assert ask(guarded, x_api_key=key).status_code == 200
    revoke_keys(guarded.file, "shortlived")
    eventually(lambda: ask(guarded, authorization=bearer(key)).status_code != 200)  # seen by itself
    assert ask(guarded, x_api_key=key).status_code == 401
    assert ask(guarded, x_api_key=guarded.all).status_code == 200


def test_a_keys_file_that_went_wrong_changes_nothing(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    good = guarded.file.read_bytes()
    reload = guarded.served.server.security.reload
    try:
        with caplog.at_level(logging.ERROR):
            for spoil in (lambda: guarded.file.write_text("garbage"), lambda: guarded.file.chmod(0o666)):
                spoil()
                guarded.served.in_loop(reload)
                assert ask(guarded, x_api_key=guarded.all).status_code == 200
    finally:
        guarded.file.chmod(0o600)
        guarded.file.write_bytes(good)
        guarded.served.in_loop(reload)
    assert "new keys are not taken" in caplog.text
    assert guarded.all not in caplog.text


def call(guarded: Guarded, method: str, message: bytes = b"", **metadata: str) -> grpc.StatusCode:
    with grpc.insecure_channel(guarded.served.address) as channel:
        stub = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            stub(message, metadata=[(n.replace("_", "-"), v) for n, v in metadata.items()], timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def model(name: bytes) -> bytes:
    """A message whose first field is this text: a request for metadata, or an inference request without inputs."""
    return b"\n" + bytes([len(name)]) + name


def test_grpc(guarded: Guarded) -> None:
    known = {"authorization": bearer(guarded.tabular)}
    code = grpc.StatusCode
    assert call(guarded, "ServerLive") is code.OK
    assert call(guarded, "ModelMetadata", model(b"tabular")) is code.UNAUTHENTICATED
    assert call(guarded, "ModelMetadata", model(b"tabular"), authorization="Bearer tm_wrong") is code.UNAUTHENTICATED
    assert call(guarded, "ModelMetadata", model(b"tabular"), **known) is code.OK
    assert call(guarded, "ModelMetadata", model(b"matrix"), **known) is code.PERMISSION_DENIED
    assert call(guarded, "ModelMetadata", model(b"tabular"), x_api_key=guarded.reader) is code.OK
    assert call(guarded, "ModelInfer", model(b"matrix"), **known) is code.PERMISSION_DENIED
    assert call(guarded, "ModelInfer", model(b"tabular")) is code.UNAUTHENTICATED
    assert call(guarded, "ModelInfer", model(b"tabular"), **known) is code.INVALID_ARGUMENT  # let in, but no inputs
    assert call(guarded, "ModelInfer", model(b"tabular@x"), x_api_key=guarded.reader) is code.PERMISSION_DENIED
    assert call(guarded, "ModelInfer", model(b"tabular"), authorization=bearer(SIGNER.token())) is code.INVALID_ARGUMENT
    assert call(guarded, "RepositoryModelUnload", b"", **known) is code.PERMISSION_DENIED


def limited(tmp_path: Path, limits: RateLimits, auth: AuthOptions | None) -> ServeOptions:
    return ServeOptions(port=0, lame_duck=0.0, grace=5.0, auth=auth, rate_limits=limits)


def test_rate_limits_by_caller_and_rows(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    shop, other = create_key(file, "shop", ["infer"]), create_key(file, "other", ["infer"])
    limits = RateLimits(
        default=Rate(rows=50, burst=2), callers={"shop": Rate(requests=1, burst=3)}, address=Rate(requests=0.01)
    )
    given = limited(tmp_path, limits, AuthOptions(keys=str(file)))
    with served([packages.tabular(tmp_path)], given) as server:
        guarded = Guarded(server, file, shop, other, "", "")
        statuses = [ask(guarded, x_api_key=shop).status_code for _ in range(6)]
        assert statuses[:3] == [200] * 3
        assert 429 in statuses[3:]
        refused = ask(guarded, x_api_key=shop)
        assert refused.status_code == 429
        assert refused.json()["error"] == "rate limit: caller shop may ask for 1 requests a second"
        assert int(refused.headers["retry-after"]) == 1
        many = {"rows": ROWS["rows"] * 10_000}
        assert ask(guarded, body=many, x_api_key=other).status_code == 200  # owed from now on
        refused = ask(guarded, x_api_key=other)
        assert refused.status_code == 429
        assert "50 rows a second" in refused.json()["error"]
        assert 190 <= int(refused.headers["retry-after"]) <= 199
        assert call(guarded, "ModelInfer", model(b"tabular"), x_api_key=other) is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Guessing keys is no faster than asking without one.
        assert ask(guarded, x_api_key="tm_wrong").status_code == 401
        assert ask(guarded, x_api_key="tm_wrong").status_code == 429
        assert "address 127.0.0.1" in ask(guarded, authorization="Bearer a.b.c").json()["error"]
        assert guarded.served.get("/v2/health/ready").status_code == 200


def test_addresses_are_limited_where_there_is_no_other_caller(tmp_path: Path) -> None:
    given = limited(tmp_path, RateLimits(address=Rate(requests=2)), None)
    with served([packages.tabular(tmp_path)], given) as server:
        guarded = Guarded(server, tmp_path, "", "", "", "")
        statuses = [ask(guarded).status_code for _ in range(4)]
        assert statuses[0] == 200
        assert 429 in statuses
        assert all(server.get("/v2/health/live").status_code == 200 for _ in range(10))


def test_without_auth_keys_mean_nothing(tmp_path: Path) -> None:
    with served([packages.tabular(tmp_path)]) as server:
        guarded = Guarded(server, tmp_path, "", "", "", "")
        assert ask(guarded, authorization="Bearer whatever", x_api_key="x").status_code == 200


def test_the_log_tells_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = create_key(file, "shop", ["infer"])
    given = {"auth": {"keys": str(file)}, "access_log": True, "host": "0.0.0.0", "lame_duck": 0.0}
    with process(tmp_path, [packages.tabular(tmp_path)], **given) as server:
        url = f"http://127.0.0.1:{server.address.rpartition(':')[2]}{TABULAR}"
        for value in (key, key[:-1] + "!"):
            httpx.post(url, json=ROWS, headers={"authorization": f"Bearer {value}"})
            httpx.post(f"{url}?api_key={value}", json=ROWS, headers={"x-api-key": value})
        server.terminate()
        assert server.child.wait(60) == 0
        text = str(server.log)
        assert key[:20] not in text
        assert "keys and tokens can be read on the network" in text
        asked = [line for line in server.log if line["event"] == "request"]
        assert [line["status"] for line in asked] == [200, 200, 401, 401]


def test_tokens_need_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for name in ("jwt", "tidemill.realtime.security.tokens", "tidemill.realtime.security.jwks"):
        monkeypatch.setitem(sys.modules, name, None)
    from tidemill.realtime import Server

    jwt = JwtOptions(issuer=ISSUER, audience=AUDIENCE, public_key="key.pem")
    with pytest.raises(MissingExtra, match=r"tidemill\[auth\]"):
        Server(ServeOptions(auth=AuthOptions(jwt=jwt)))
