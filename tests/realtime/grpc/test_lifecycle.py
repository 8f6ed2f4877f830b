"""A process that serves gRPC: the port of its own, and an end in order under streams, watches and busy callers."""

import queue
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from tests.realtime.grpc import calls
from tests.realtime.grpc.calls import SERVICE, each, infer, message, outputs, raw
from tests.realtime.packages import matrix, sleeper
from tests.realtime.serving import process, served
from tidemill.errors import ConfigError
from tidemill.realtime import ServeOptions
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.security.tls import TlsOptions

PATIENCE = 60.0
ONE = np.ones((1, 3), np.float32)


def test_a_port_of_its_own_speaks_both(tmp_path: Path) -> None:
    options = ServeOptions(port=0, grpc_port=0, lame_duck=0.0, grace=5.0)
    with served([matrix(tmp_path)], options) as server:
        port = server.server.grpc_http.port
        assert port not in (0, server.port)
        for address in (server.address, f"127.0.0.1:{port}"):
            with grpc.insecure_channel(address) as channel:
                assert outputs(infer(channel)(raw("matrix", X=ONE)))["sum"] == [3.0]
        assert server.client.get(f"http://127.0.0.1:{port}/v2/health/ready").json()["ready"]


def test_replicas_have_one_port() -> None:
    with pytest.raises(ConfigError, match="grpc_port: replicas share one port"):
        ServeOptions(grpc_port=0, replicas=ReplicaOptions()).check()


def test_sigterm_loses_no_call_and_ends_what_has_no_end(tmp_path: Path) -> None:
    """Unary calls go on from several threads, a stream has work in flight, another is idle, health is watched."""
    packages = [matrix(tmp_path), sleeper(tmp_path)]
    statuses: queue.Queue[int | grpc.StatusCode] = queue.Queue()
    failures: list[grpc.RpcError] = []
    answered = [0] * 4
    stopping = threading.Event()
    silent = threading.Event()
    with process(tmp_path, packages, lame_duck=0.3, grace=20.0) as server:
        address = server.address

        def watch() -> None:
            with grpc.insecure_channel(address) as channel:
                call = calls.stream(channel, "/grpc.health.v1.Health/Watch", "grpc.health.v1.HealthCheckResponse")(
                    each(message("grpc.health.v1.HealthCheckRequest")())
                )
                try:
                    for one in call:
                        statuses.put(one.status)
                except grpc.RpcError as error:
                    statuses.put(error.code())

        def ask(lane: int) -> None:
            with grpc.insecure_channel(address) as channel:
                method = infer(channel)
                while True:
                    try:
                        method(raw("matrix", X=ONE * lane), timeout=PATIENCE)
                    except grpc.RpcError as error:
                        # Nobody listens any more: such a call was never taken.
                        refused = error.code() == grpc.StatusCode.UNAVAILABLE and stopping.is_set()
                        if not refused:
                            failures.append(error)
                        return
                    answered[lane] += 1

        threads = [threading.Thread(target=ask, args=(lane,)) for lane in range(4)]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        assert statuses.get(timeout=PATIENCE) == 1
        with grpc.insecure_channel(address) as channel:
            stream = calls.stream(channel, f"{SERVICE}/ModelStreamInfer", "inference.ModelStreamInferResponse")

            def slowly() -> Any:
                yield raw("sleeper", seconds=np.array([0.8], np.float32))
                silent.wait(PATIENCE)

            working = stream(slowly())
            first: queue.Queue[Any] = queue.Queue()
            reader = threading.Thread(target=lambda: first.put(next(working)))
            reader.start()
            while min(answered) < 5:
                assert not failures
            stopping.set()
            server.terminate()
            assert statuses.get(timeout=PATIENCE) == 2
            assert outputs(first.get(timeout=PATIENCE).infer_response)["seconds"] == pytest.approx([0.8])
            with pytest.raises(grpc.RpcError) as caught:
                next(working)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert statuses.get(timeout=PATIENCE) == grpc.StatusCode.UNAVAILABLE
            silent.set()
            reader.join(PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
        assert server.child.wait(PATIENCE) == 0
    assert not failures


def test_the_access_log_tells_of_calls_and_no_values(tmp_path: Path) -> None:
    with process(tmp_path, [matrix(tmp_path), sleeper(tmp_path)], access_log=True, lame_duck=0.0) as server:
        with grpc.insecure_channel(server.address) as channel:
            infer(channel)(raw("matrix", X=ONE * 77))
            with pytest.raises(grpc.RpcError):
                infer(channel)(raw("matrix", X=-ONE))
            left = infer(channel).future(raw("sleeper", seconds=np.array([1.0], np.float32)))
            with pytest.raises(grpc.FutureTimeoutError):
                left.result(0.2)
            left.cancel()
            stream = calls.stream(channel, f"{SERVICE}/ModelStreamInfer", "inference.ModelStreamInferResponse")
            assert len(list(stream(each(*[raw("matrix", X=ONE)] * 3)))) == 3
        server.terminate()
        assert server.child.wait(PATIENCE) == 0
        lines = [line for line in server.log if line["event"] == "request"]
    told = [(line["path"].rpartition("/")[2], line["grpc_status"]) for line in lines]
    assert sorted(told) == [("ModelInfer", 0), ("ModelInfer", 1), ("ModelInfer", 3), ("ModelStreamInfer", 0)]
    assert all(line["ms"] > 0 and line["request_bytes"] > 0 for line in lines)
    assert "77" not in str([{k: v for k, v in line.items() if k not in ("ms", "time")} for line in lines])


def test_grpc_over_tls_and_mutual_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, mine = authority.issue_cert("localhost"), authority.issue_cert("someone@example.org")
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "client_ca")}
    server.cert_chain_pems[0].write_to_path(paths["cert"])
    server.private_key_pem.write_to_path(paths["key"])
    authority.cert_pem.write_to_path(paths["client_ca"])
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, tls=TlsOptions(**paths))
    root, key, chain = authority.cert_pem.bytes(), mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    with served([matrix(tmp_path)], options) as found:
        address = f"localhost:{found.port}"
        known = grpc.ssl_channel_credentials(root, key, chain)
        with grpc.secure_channel(address, known) as channel:
            assert outputs(infer(channel)(raw("matrix", X=ONE), timeout=PATIENCE))["sum"] == [3.0]
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(root)) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                infer(channel)(raw("matrix", X=ONE), timeout=PATIENCE)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
