"""Metrics of all replicas on the supervisor's management port, over the loss of some of them."""

from pathlib import Path

import httpx

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers, Fleet, fleet, marked
from tests.realtime.test_management import Page, growing, page_of, value


def page(server: Fleet) -> Page:
    return page_of(httpx.get(f"http://{server.events('management')[0]['address']}/metrics", timeout=60).text)


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
