"""TLS of the data port: certificates of clients, certificates read anew under load, and handshakes that go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.realtime import packages
from tests.realtime.http_client import Client, eventually
from tests.realtime.serving import Served, process, served
from tidemill.errors import ConfigError
from tidemill.realtime import ServeOptions, Server
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.security.options import AuthOptions
from tidemill.realtime.security.tls import TlsOptions, certificate_identity

PATIENCE = 20.0
INFER = "/v2/models/tabular/infer"
ROWS = {"rows": [{"age": 3, "city": "Bern", "income": 2000}]}
SPIFFE = "spiffe://corp.test/shop"


class Authority:
    """A certificate authority, and files of what it issues."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.name = name
        self.file = directory / f"{name}.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *identities: str, **given: Any) -> tuple[Path, Path]:
        """A certificate for host names, or with `common_name`, and its key."""
        made = self.ca.issue_cert(*identities, **given)
        return self._write(name, made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes())

    def vouch(self, name: str, uri: str = SPIFFE, days: int = 1) -> tuple[Path, Path]:
        """A client's certificate with a URI, which begins two days ago and is good for so many from now."""
        issuer = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        signer: Any = load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ops-1")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(2))
            .not_valid_after(now + datetime.timedelta(days))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
            .add_extension(usage, critical=False)
            .sign(signer, hashes.SHA256())
        )
        unlocked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._write(name, made.public_bytes(Encoding.PEM), unlocked)

    def _write(self, name: str, certificate: bytes, key: bytes) -> tuple[Path, Path]:
        files = self.directory / f"{self.name}-{name}.pem", self.directory / f"{self.name}-{name}-key.pem"
        files[0].write_bytes(certificate)
        files[1].write_bytes(key)
        return files

    def server(self) -> TlsOptions:
        cert, key = self.issue("server", "127.0.0.1", "localhost")
        return TlsOptions(cert=str(cert), key=str(key))

    def trusted(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client of this authority's server uses, with its own certificate if it has one."""
        context = ssl.create_default_context(cafile=str(self.file))
        if client is not None:
            context.load_cert_chain(*client)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def options(tls: TlsOptions, **more: Any) -> ServeOptions:
    return ServeOptions(port=0, lame_duck=0.0, grace=5.0, tls=tls, **more)


def ask(server: Served, context: ssl.SSLContext, path: str = INFER, **more: Any) -> httpx.Response:
    with httpx.Client(verify=context, timeout=PATIENCE, **more) as client:
        return client.post(f"https://{server.address}{path}", json=ROWS)


def with_clients(authority: Authority, clients: Authority, **more: Any) -> TlsOptions:
    tls = authority.server()
    return TlsOptions(cert=tls.cert, key=tls.key, client_ca=str(clients.file), **more)


CERTIFICATES = {SPIFFE: ("infer:tabular",), "ops-*": ("read", "admin")}


@pytest.mark.parametrize("auth", ["require", "request"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_show_certificates(auth: str, version: ssl.TLSVersion, authority: Authority, tmp_path: Path) -> None:
    clients, strangers = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers")
    good = clients.vouch("shop")
    ops = clients.issue("ops", common_name="ops-1")
    nobody = clients.issue("nobody", common_name="unheard-of")
    expired = clients.vouch("expired", days=-1)
    stranger = strangers.vouch("shop")
    given = options(with_clients(authority, clients, client_auth=auth), auth=AuthOptions(certificates=CERTIFICATES))

    def trusted(client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = authority.trusted(client)
        context.minimum_version = context.maximum_version = version
        return context

    with served([packages.tabular(tmp_path)], given) as server:
        assert ask(server, trusted(good)).json()["outputs"][0]["data"] == [9.0]
        assert ask(server, trusted(ops)).status_code == 403
        assert ask(server, trusted(ops), "/v2/repository/index").status_code == 200
        assert ask(server, trusted(nobody)).status_code == 401
        for wrong in (expired, stranger):
            with pytest.raises(httpx.TransportError):
                ask(server, trusted(wrong))
        if auth == "require":
            with pytest.raises(httpx.TransportError):
                ask(server, trusted())
        else:
            assert ask(server, trusted()).status_code == 401
        assert ask(server, trusted(good)).status_code == 200


def test_grpc_and_http2_with_a_certificate(authority: Authority, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    cert, key = clients.vouch("shop")
    given = options(with_clients(authority, clients), auth=AuthOptions(certificates=CERTIFICATES))
    with served([packages.tabular(tmp_path)], given) as server:
        answer = ask(server, authority.trusted((cert, key)), http2=True)
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), key.read_bytes(), cert.read_bytes())
        with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
            stub = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
            assert stub(b"\n\x07tabular", timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as refused:
                stub(b"\n\x06matrix", timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("http2", [False, True])
def test_drains_beside_a_connection_that_is_just_ending(authority: Authority, tmp_path: Path, http2: bool) -> None:
    """For one turn of the loop it has no socket any more, but has not been told."""
    with (
        served([packages.tabular(tmp_path)], options(authority.server())) as server,
        httpx.Client(verify=authority.trusted(), http2=http2, timeout=PATIENCE) as client,
    ):
        assert client.post(f"https://localhost:{server.port}{INFER}", json=ROWS).status_code == 200

        async def retired() -> list[object]:
            sockets = []
            for one in tuple(server.server.http._plane.connections):
                one._transport.abort()
                await asyncio.sleep(0)
                sockets.append(one._transport.get_extra_info("socket"))
                one.retire(time.monotonic() + PATIENCE)
                one.sweep(time.monotonic() + PATIENCE)
            return sockets

        assert asyncio.run_coroutine_threadsafe(retired(), server.loop).result(PATIENCE) == [None]


def taken_up_again(server: Served, context: ssl.SSLContext, between: Callable[[], object] = int) -> bool:
    with Client(server.port, context) as first:
        assert first.send(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").answer().status == 200
        session = first.socket.session  # type: ignore[attr-defined]
    between()
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    with context.wrap_socket(raw, server_hostname="localhost", session=session) as again:
        return bool(again.session_reused)


def test_no_session_is_taken_up_again_where_clients_show_certificates(authority: Authority, tmp_path: Path) -> None:
    """Its certificate would not be looked at again (TLS 1.3; those of 1.2 end with the certificates read anew)."""
    clients = Authority(tmp_path, "clients")
    context = authority.trusted(clients.vouch("shop"))
    with served([packages.tabular(tmp_path)], options(with_clients(authority, clients))) as server:
        assert not taken_up_again(server, context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert taken_up_again(server, context)
        assert not taken_up_again(server, context, lambda: server.in_loop(server.server.security.reload))
    with served([packages.twice(tmp_path)], options(authority.server())) as server:
        assert taken_up_again(server, authority.trusted())


def test_old_versions_and_weak_ciphers_are_refused(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server()
    with served(
        [packages.tabular(tmp_path)], options(TlsOptions(cert=tls.cert, key=tls.key, min_version="1.3"))
    ) as server:
        context = authority.trusted()
        assert ask(server, context).status_code == 200
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(httpx.TransportError):
            ask(server, context)
    with served([packages.tabular(tmp_path)], options(tls)) as server:
        for ciphers, taken in (
            ("AES128-SHA", False),
            ("ECDHE+AESCCM", False),
            ("ECDHE-RSA-AES128-SHA", False),
            ("ECDHE+AESGCM", True),
        ):
            context = authority.trusted()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
            with pytest.raises(httpx.TransportError) if not taken else contextlib.nullcontext():
                assert ask(server, context).status_code == 200


def test_plaintext_and_garbage_on_the_tls_port(authority: Authority, tmp_path: Path) -> None:
    with served([packages.tabular(tmp_path)], options(authority.server())) as server:
        for data in (
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x00" * 5000,
            b"\x16\x03\x01\xff\xff" + b"\xff" * 9000,
        ):
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
                raw.sendall(data)
                assert b"HTTP" not in rest(raw)
        assert ask(server, authority.trusted()).status_code == 200
        assert server.server.http.connections <= 1


def rest(raw: socket.socket) -> bytes:
    """What comes until the connection ends, one way or the other."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := raw.recv(65536):
            found += data
    return found


def test_handshakes_that_never_end_are_bounded_and_hold_nobody_up(authority: Authority, tmp_path: Path) -> None:
    limits = HttpLimits(max_handshakes=8, header_timeout=60.0)
    with served([packages.tabular(tmp_path)], options(authority.server(), http=limits)) as server:
        with contextlib.ExitStack() as stack:
            stuck = []
            for n in range(40):
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
                if n % 2:
                    raw.sendall(b"\x16\x03\x01\x02\x00")  # a record that is announced, and does not come
                stuck.append(raw)
            assert ask(server, authority.trusted()).status_code == 200
            for raw in stuck[:30]:  # the oldest were given up
                assert rest(raw) == b""
        assert ask(server, authority.trusted()).status_code == 200


def test_a_handshake_that_takes_too_long_is_ended(authority: Authority, tmp_path: Path) -> None:
    limits = HttpLimits(header_timeout=0.5)
    with served([packages.tabular(tmp_path)], options(authority.server(), http=limits)) as server:
        outgoing = ssl.MemoryBIO()
        hello = authority.trusted().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        for data in (b"", outgoing.read()):  # nothing at all; and a hello that is never followed up
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
                raw.sendall(data)
                answer = rest(raw)
                assert answer[:1] in (b"", b"\x16")
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as drip:
            assert drip_until_ended(drip, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + bytes(500))
        assert ask(server, authority.trusted()).status_code == 200


def drip_until_ended(raw: socket.socket, data: bytes) -> bool:
    """Send a byte now and then. Whether the server ended it before the last one."""
    for byte in data:
        try:
            raw.sendall(bytes([byte]))
        except ConnectionError:
            return True
        time.sleep(0.02)
    return False


def test_certificates_of_clients_may_not_be_endless(authority: Authority, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    cert, key = clients.issue("huge", *[f"host-{n}.{'x' * 60}.test" for n in range(2000)])
    assert cert.stat().st_size > 130_000
    with served([packages.tabular(tmp_path)], options(with_clients(authority, clients))) as server:
        with pytest.raises(httpx.TransportError):
            ask(server, authority.trusted((cert, key)))
        assert ask(server, authority.trusted(clients.vouch("shop"))).status_code == 200


def test_nobody_negotiates_again(authority: Authority, tmp_path: Path) -> None:
    """A client could have the server do the dear part of a handshake over and over (TLS 1.2)."""
    with served([packages.tabular(tmp_path)], options(authority.server())) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2", "-legacy_renegotiation"]
        done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=PATIENCE)
        assert b"CONNECTED" in done.stdout
        assert b"no renegotiation" in done.stderr
        assert ask(server, authority.trusted()).status_code == 200


def subject(port: int, authority: Authority) -> int:
    """The serial number of the certificate that the server shows."""
    with Client(port, authority.trusted()) as client:
        found = client.socket.getpeercert()
        return int(found["serialNumber"], 16)


def swap(authority: Authority, tls: TlsOptions) -> None:
    """A new certificate in the old one's place: first the one file, then the other."""
    cert, key = authority.issue("new", "127.0.0.1", "localhost")
    cert.replace(tls.cert)
    key.replace(tls.key)


def test_certificates_are_read_anew_under_load_and_no_request_fails(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server()
    with served([packages.tabular(tmp_path)], options(tls)) as server:
        over = threading.Event()
        counts = {"kept": 0, "new": 0}
        failures: list[object] = []

        def kept() -> None:
            with httpx.Client(verify=authority.trusted(), timeout=PATIENCE) as client:
                while not over.is_set():
                    note("kept", lambda: client.post(f"https://{server.address}{INFER}", json=ROWS))

        def new() -> None:
            context = authority.trusted()
            while not over.is_set():
                note("new", lambda: ask(server, context))

        def note(kind: str, send: Callable[[], httpx.Response]) -> None:
            try:
                answer = send()
                if answer.status_code != 200:
                    failures.append(answer.text)
            except httpx.HTTPError as error:
                failures.append(error)
            counts[kind] += 1

        threads = [threading.Thread(target=kept), threading.Thread(target=new)]
        for thread in threads:
            thread.start()
        try:
            seen = {subject(server.port, authority)}
            for _ in range(3):
                swap(authority, tls)
                eventually(lambda: subject(server.port, authority) not in seen)
                seen.add(subject(server.port, authority))
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert failures == []
        assert min(counts.values()) > 20
        assert len(seen) == 4


def test_a_certificate_that_does_not_fit_is_not_taken(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server()
    other, _ = authority.issue("other", "localhost")
    with served([packages.tabular(tmp_path)], options(tls)) as server:
        before = subject(server.port, authority)
        good = Path(tls.cert).read_bytes()
        for bad in (other.read_bytes(), b"garbage", b""):
            Path(tls.cert).write_bytes(bad)
            server.in_loop(server.server.security.reload)
            assert subject(server.port, authority) == before
        Path(tls.cert).unlink()
        server.in_loop(server.server.security.reload)
        assert subject(server.port, authority) == before
        Path(tls.cert).write_bytes(good)


def test_an_authority_that_is_taken_out_is_trusted_no_more(authority: Authority, tmp_path: Path) -> None:
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    shop, other = clients.vouch("shop"), others.vouch("shop")
    with served([packages.tabular(tmp_path)], options(with_clients(authority, clients))) as server:
        assert ask(server, authority.trusted(shop)).status_code == 200
        clients.file.write_bytes(others.file.read_bytes())
        server.in_loop(server.server.security.reload)
        assert ask(server, authority.trusted(other)).status_code == 200
        with pytest.raises(httpx.TransportError):
            ask(server, authority.trusted(shop))


def test_hangup_has_them_read_again(authority: Authority, tmp_path: Path) -> None:
    tls = authority.server()
    with process(
        tmp_path, [packages.tabular(tmp_path)], tls={"cert": tls.cert, "key": tls.key}, lame_duck=0.0
    ) as server:
        server.child.send_signal(signal.SIGHUP)
        eventually(lambda: any(line["event"] == "the certificate was read again" for line in server.log))
        assert server.child.poll() is None
        server.terminate()
        assert server.child.wait(60) == 0


@pytest.mark.parametrize(
    "wrong", ["no file", "garbage", "another key", "no authority", "garbage authority", "encrypted"]
)
def test_files_that_are_not_right_are_named(wrong: str, authority: Authority, tmp_path: Path) -> None:
    tls = authority.server()
    (tmp_path / "garbage").write_bytes(b"garbage")
    key: Any = load_pem_private_key(Path(tls.key).read_bytes(), None)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "encrypted").write_bytes(secret)
    _, other = authority.issue("other", "localhost")
    given = {
        "no file": {"cert": "nothing.pem"},
        "garbage": {"cert": str(tmp_path / "garbage")},
        "another key": {"key": str(other)},
        "no authority": {"client_ca": "nothing.pem"},
        "garbage authority": {"client_ca": str(tmp_path / "garbage")},
        "encrypted": {"key": str(tmp_path / "encrypted")},
    }[wrong]
    with pytest.raises(ConfigError, match=r"tls\.") as refused:
        Server(options(TlsOptions(**{"cert": tls.cert, "key": tls.key, **given})))
    assert next(iter(given.values())) in str(refused.value)


def test_certificates_for_callers_need_an_authority(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"only where tls\.client_ca is given"):
        Server(options(authority.server(), auth=AuthOptions(certificates=CERTIFICATES)))


@pytest.mark.parametrize(
    ("certificate", "identity"),
    [
        ({"subjectAltName": (("DNS", "a.test"), ("URI", SPIFFE), ("URI", "x:y"))}, SPIFFE),
        ({"subject": ((("organizationName", "Corp"),), (("commonName", "shop"),))}, "shop"),
        ({"subject": ((("organizationName", "Corp"),),), "subjectAltName": (("DNS", "a.test"),)}, ""),
        ({}, ""),
    ],
)
def test_whom_a_certificate_names(certificate: dict[str, Any], identity: str) -> None:
    assert certificate_identity(certificate) == identity
