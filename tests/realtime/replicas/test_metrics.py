"""What the supervisor's management port tells of all replicas, over the loss of some of them."""

from pathlib import Path
from typing import Any

import httpx

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers, Fleet, fleet, marked
from tests.realtime.test_management import Page, growing, page_of, value


def get(server: Fleet, path: str) -> httpx.Response:
    return httpx.get(f"http://{server.wait_for('management')['address']}{path}", timeout=60)


def page(server: Fleet) -> Page:
    return page_of(get(server, "/metrics").text)


def told(server: Fleet) -> list[Any]:
    return [get(server, "/ready").json(), get(server, "/models").json()]


def test_models_are_ready_while_a_replica_is(tmp_path: Path) -> None:
    package = marked(tmp_path, load="import time; time.sleep(1)")
    options = {"management": {"port": 0}, "lame_duck": 60.0}
    with fleet(tmp_path, [package], {"minimum": 1, "balancer": "socket"}, ready=False, **options) as server:
        server.wait_for("starting")
        model = {"name": "marked", "version": "1"}
        assert told(server) == [{"ready": False}, [{**model, "ready": False}]]
        server.wait_for("replica ready")
        assert told(server) == [{"ready": True}, [{**model, "ready": True}]]
        server.terminate()
        server.wait_for("leaving")
        assert told(server) == [{"ready": False}, [{**model, "ready": False}]]


def test_lost_replicas_take_no_count_with_them_and_none_falls(tmp_path: Path) -> None:
    with fleet(tmp_path, [marked(tmp_path)], {"minimum": 2, "balancer": "socket"}, management={"port": 0}) as server:
        callers = Callers(server.address, many=4, seconds=0.001)
        last: Page = {}
        for lost in (1, 2):
            callers.go_on(100)
            server.replicas()[0].kill()
            server.wait_for("replica failed", lost)
            callers.go_on(100)
            found = growing(page(server))
            assert not {key: (v, found.get(key)) for key, v in last.items() if found.get(key, -1.0) < v - 1e-9}
            last = found
        server.wait_for("replica ready", 4)
        callers.finish()
        eventually(lambda: value(page(server), "tidemill_processes") >= 2)
        found = page(server)
        counted = value(found, "tidemill_requests_total", outcome="ok")
        assert callers.total <= counted <= callers.total + len(callers.lost)
        assert value(found, "tidemill_rows_total") == counted
        assert value(found, "tidemill_replica_failures_total") == 2
        eventually(lambda: value(page(server), "tidemill_ready") == 2)
