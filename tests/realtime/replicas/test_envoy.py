"""Replicas behind Envoy, as processes: lost, rolled, drained and scaled under load, and no request fails of it."""

import signal
import ssl
from pathlib import Path

import httpx
import psutil
import pytest
import trustme

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers, Fleet, alive, ask, fleet, marked
from tests.realtime.serving import process

pytest.importorskip("envoy", reason="needs the extra 'balancer'")

TWO = {"minimum": 2, "balancer": "envoy"}


def envoy_of(server: Fleet) -> psutil.Process:
    (found,) = [one for one in psutil.Process(server.child.pid).children() if "envoy" in one.name()]
    return found


def test_a_lost_replica_is_not_seen_by_callers(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        callers = Callers(server.address, many=8, seconds=0.005)
        callers.go_on(200)
        assert len(callers.answered) == 2, "both answer"
        for ready in (3, 4):
            server.replicas()[0].kill()
            server.wait_for("replica ready", ready)
            callers.go_on(200)
        callers.finish()
        assert callers.lost == []
        assert len(server.events("replica failed")) == 2


def test_what_must_not_be_repeated_is_not(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path, repeatable=False)], TWO) as server:
        callers = Callers(server.address, many=8, seconds=0.05)
        callers.go_on(50)
        server.replicas()[0].kill()
        server.wait_for("replica failed")
        callers.go_on(50)
        callers.finish()
        assert 1 <= len(callers.lost) <= 8, "those in flight on it are lost, not asked again"
        assert all(line.startswith(("502", "503")) for line in callers.lost), callers.lost


def test_a_new_version_is_rolled_out_without_a_lost_request(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        before = {one.pid for one in server.replicas()}
        callers = Callers(server.address, many=8, seconds=0.005)
        callers.go_on(100)
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("replica ended", 2)
        callers.go_on(100)
        callers.finish()
        assert callers.lost == []
        assert not before & {one.pid for one in server.replicas()}


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO, lame_duck=1.0, grace=20.0) as server:
        callers = Callers(server.address, many=16, seconds=0.01)
        callers.go_on(200)
        server.terminate()
        assert server.child.wait(60) == 0
        callers.finish()
        assert callers.lost == []
        assert [line["cut"] for line in server.events("stopped")] == [0, 0]


def test_envoy_is_started_again_and_ends_with_its_supervisor(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], TWO) as server:
        first = envoy_of(server)
        first.kill()
        server.wait_for("Envoy ended")

        def answers() -> bool:
            try:
                return ask(server.url).status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers)
        second, replicas = envoy_of(server), server.replicas()
        server.child.kill()
        eventually(lambda: not any(alive(one.pid) for one in (second, *replicas)))


def test_tls_is_envoys(tmp_path: Path) -> None:
    ca = trustme.CA()
    pem, authority = str(tmp_path / "cert.pem"), str(tmp_path / "ca.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    ca.cert_pem.write_to_path(authority)
    with fleet(tmp_path, [marked(tmp_path)], TWO, tls={"cert": pem, "key": pem}) as server:
        port = server.address.rpartition(":")[2]
        answer = httpx.get(
            f"https://localhost:{port}/v2/health/ready", verify=ssl.create_default_context(cafile=authority)
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(("work", "chosen"), [(0.0, "socket"), (0.002, "envoy")])
def test_auto_chooses_by_what_a_call_takes(tmp_path: Path, work: float, chosen: str) -> None:
    with fleet(tmp_path, [marked(tmp_path, work=work)], {"minimum": 2, "balancer": "auto"}) as server:
        (line,) = server.events("balancer")
        assert line["balancer"] == chosen
        assert "a call takes" in line["reason"]
        assert len(server.replicas()) == 2
        callers = Callers(server.address, many=4)
        callers.go_on(50)
        callers.finish()
        assert callers.lost == []


def test_an_address_that_is_taken_is_told_as_a_single_process_tells_it(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], {"minimum": 1, "balancer": "socket"}) as server:
        port = int(server.address.rpartition(":")[2])
        (tmp_path / "second").mkdir()
        with fleet(tmp_path / "second", [marked(tmp_path)], TWO, port=port, ready=False) as other:
            assert other.child.wait(60) == 1
        with (
            pytest.raises(AssertionError, match="the server ended"),
            process(tmp_path / "second", [marked(tmp_path)], port=port),
        ):
            pass
        single = (tmp_path / "second" / "server.log").read_text().splitlines()[-1]
        assert other.text.splitlines()[-1] == single
