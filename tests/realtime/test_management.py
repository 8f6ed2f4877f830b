"""The management port of real servers: metrics that are exact, and nobody who asks there is felt by those who infer."""

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.serving import Process, Served, process, served
from tidemill.observability.counters import FOLD
from tidemill.realtime import ServeOptions
from tidemill.realtime.management import MOST
from tidemill.realtime.options import ManagementOptions

Labels = tuple[tuple[str, str], ...]
Page = dict[tuple[str, Labels], float]


def page_of(text: str) -> Page:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(page: Page, name: str, **labels: str) -> float:
    """The sum of the series that have these labels."""
    found = [v for (n, told), v in page.items() if n == name and labels.items() <= dict(told).items()]
    assert found, f"no {name} {labels}"
    return sum(found)


def growing(page: Page) -> Page:
    return {key: v for key, v in page.items() if key[0].endswith(("_total", "_bucket", "_sum", "_count"))}


class Managed:
    """A server in this process, and its management port."""

    def __init__(self, server: Served) -> None:
        self.server = server
        assert server.server.management is not None
        self.url = f"http://127.0.0.1:{server.server.management.port}"

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=headers, timeout=60)

    def page(self) -> Page:
        return page_of(self.get("/metrics").text)


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, management=ManagementOptions(port=0))
    with served([packages.sleeper(tmp_path), packages.fragile(tmp_path)], options) as server:
        yield Managed(server)


def sleep(server: Served, seconds: float, rows: int = 1, **parameters: object) -> httpx.Response:
    tensor = {"name": "seconds", "shape": [rows], "datatype": "FP32", "data": [seconds] * rows}
    return server.infer("sleeper", inputs=[tensor], **({"parameters": parameters} if parameters else {}))


def root(server: Served, x: float) -> httpx.Response:
    return server.infer("fragile", inputs=[{"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}])


def test_each_outcome_is_counted_and_promtool_has_nothing_to_say(managed: Managed) -> None:
    server = managed.server
    for _ in range(5):
        assert sleep(server, 0.001, rows=3).status_code == 200
    assert root(server, 4.0).status_code == 200
    assert root(server, -4.0).status_code == 500
    assert server.post("/v2/models/sleeper/infer", b"{").status_code == 400
    assert sleep(server, 0.5, timeout=20_000).status_code == 504
    assert server.get("/v2/models/sleeper/infer").status_code == 405
    assert server.get("/no/such/path").status_code == 404
    with socket.create_connection(("127.0.0.1", server.port)) as rude:
        rude.sendall(b"nonsense\r\n\r\n")
        assert rude.recv(4096).startswith(b"HTTP/1.1 400 ")
    left = socket.create_connection(("127.0.0.1", server.port))
    body = b'{"inputs":[{"name":"seconds","shape":[1],"datatype":"FP32","data":[0.3]}]}'
    left.sendall(
        b"POST /v2/models/sleeper/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    eventually(lambda: server.in_loop(lambda: server.server.http.in_flight) == 1)
    left.close()
    eventually(lambda: value(managed.page(), "tidemill_requests_total", model="sleeper", outcome="cancelled") == 1)
    # Times are looked at now and then, outcomes at once.
    answered = "tidemill_request_duration_seconds_count"
    eventually(lambda: value(managed.page(), answered, model="sleeper", result="ok") == 5)
    page = managed.page()
    for model, outcome, count in (
        ("sleeper", "ok", 5),
        ("sleeper", "invalid_input", 1),
        ("sleeper", "late", 1),
        ("fragile", "ok", 1),
        ("fragile", "model_failed", 1),
    ):
        assert value(page, "tidemill_requests_total", model=model, outcome=outcome) == count, (model, outcome)
    assert value(page, "tidemill_http_errors_total", status="404") == 1
    assert value(page, "tidemill_http_errors_total", status="405") == 1
    assert value(page, "tidemill_http_errors_total", status="400") == 1
    assert value(page, "tidemill_rows_total", model="sleeper") == 15
    assert value(page, "tidemill_request_duration_seconds_count", model="sleeper", result="ok") == 5
    for stage in ("read", "decode", "queue", "compute", "encode", "write"):
        assert value(page, "tidemill_request_stage_seconds_count", model="sleeper", stage=stage) == 5
    assert value(page, "tidemill_request_stage_seconds_sum", model="sleeper", stage="compute") >= 0.005
    whole = value(page, "tidemill_request_duration_seconds_sum", model="sleeper", result="ok")
    assert value(page, "tidemill_request_stage_seconds_sum", model="sleeper") == pytest.approx(whole)
    assert value(page, "tidemill_connections_total", tls="false") >= 3
    assert value(page, "tidemill_model_info", model="sleeper", runtime="python") == 1
    assert value(page, "tidemill_model_load_seconds", model="fragile") > 0
    eventually(lambda: value(managed.page(), "tidemill_network_receive_bytes_total") > len(body))
    promtool = shutil.which("promtool")
    assert promtool
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=managed.get("/metrics").content, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_gauges_follow(managed: Managed) -> None:
    server = managed.server
    askers = [threading.Thread(target=sleep, args=(server, 0.6)) for _ in range(4)]
    for asker in askers:
        asker.start()
    eventually(lambda: value(managed.page(), "tidemill_busy_threads", model="sleeper") >= 1)
    eventually(lambda: value(managed.page(), "tidemill_requests_in_flight") >= 1)
    for asker in askers:
        asker.join()
    eventually(lambda: value(managed.page(), "tidemill_busy_threads", model="sleeper") == 0)
    assert value(managed.page(), "tidemill_ready") == 1


def test_what_operators_are_told(managed: Managed) -> None:
    assert managed.get("/healthz").json() == {"live": True}
    assert managed.get("/ready").json() == {"ready": True}
    models = {one["name"]: one for one in managed.get("/models").json()}
    assert models.keys() == {"sleeper", "fragile"}
    assert models["sleeper"]["ready"] is True
    assert len(models["sleeper"]["fingerprint"]) == 64
    assert managed.get("/replicas").status_code == 404
    assert managed.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    openmetrics = managed.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert httpx.post(managed.url + "/metrics").status_code == 405
    assert managed.server.get("/metrics").status_code == 404


def test_a_model_that_cannot_answer_makes_it_not_ready(managed: Managed) -> None:
    service = managed.server.server.service
    endpoint = service.endpoints.find("fragile")
    managed.server.in_loop(lambda: endpoint.unable("for a test"))
    assert managed.get("/ready").status_code == 503
    eventually(lambda: managed.get("/ready").status_code == 200)


def test_clients_that_hang_are_cut_and_felt_by_nobody(managed: Managed) -> None:
    port = int(managed.url.rpartition(":")[2])
    hung = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST)]
    for one in hung:
        one.sendall(b"GET /metrics HTTP/1.1\r\n")
    assert root(managed.server, 9.0).json()["outputs"][0]["data"] == [3.0]
    assert managed.server.get("/v2/health/ready").status_code == 200
    # Those above the number that is allowed are cut at once, and all in the end.
    with socket.create_connection(("127.0.0.1", port)) as one_more:
        one_more.settimeout(30)
        assert one_more.recv(100) == b""
    for one in hung:
        one.settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(100) == b""
        one.close()
    assert managed.get("/healthz").status_code == 200


def test_statistics_are_of_all_who_share_a_directory(tmp_path: Path) -> None:
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, counters_dir=str(tmp_path / "counters"))
    package = packages.sleeper(tmp_path)
    with served([package], options) as one, served([package], options) as other:
        for server, rows in ((one, 2), (other, 3), (other, 3)):
            assert sleep(server, 0.001, rows=rows).status_code == 200
        assert one.post("/v2/models/sleeper/infer", b"{").status_code == 400
        # What the other counted together with later ones is there within a moment.
        eventually(lambda: one.counters("sleeper")["execution_count"] == 3)
        eventually(lambda: one.counters("sleeper") == other.counters("sleeper"))
        found = one.counters("sleeper")
        assert (found["inference_count"], found["execution_count"]) == (8, 3)
        assert found["inference_stats"]["success"]["count"] == 3
        assert found["inference_stats"]["fail"]["count"] == 1
        assert {b["batch_size"]: b["compute_infer"]["count"] for b in found["batch_stats"]} == {2: 1, 3: 2}


def test_without_a_port_there_is_no_management(tmp_path: Path) -> None:
    with served([packages.fragile(tmp_path)]) as server:
        assert server.server.management is None


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServeOptions(port=0, management=ManagementOptions(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="in use"), served([packages.fragile(tmp_path)], options):
            pass


def management_of(server: Process) -> str:
    (line,) = [line for line in server.log if line["event"] == "management"]
    return f"http://{line['address']}"


def test_kill_9_and_restart_lose_no_count_and_none_falls(tmp_path: Path) -> None:
    package = packages.fragile(tmp_path)
    counters = tmp_path / "counters"
    answered = 0
    last: Page = {}
    for turn in range(3):
        directory = tmp_path / str(turn)
        directory.mkdir()
        with process(directory, [package], management={"port": 0}, counters_dir=str(counters)) as server:
            lock = threading.Lock()
            gone = threading.Event()
            before = answered

            def ask(url: str = server.url, gone: threading.Event = gone, lock: threading.Lock = lock) -> None:
                nonlocal answered
                tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [4.0]}
                with httpx.Client(base_url=url, timeout=60) as client:
                    while not gone.is_set():
                        try:
                            found = client.post("/v2/models/fragile/infer", json={"inputs": [tensor]})
                        except httpx.TransportError:
                            return
                        assert found.status_code == 200
                        with lock:
                            answered += 1

            askers = [threading.Thread(target=ask) for _ in range(4)]
            for asker in askers:
                asker.start()
            for count in (50, 100, 200):
                eventually(lambda count=count, before=before: answered > before + count)
                page = growing(page_of(httpx.get(management_of(server) + "/metrics", timeout=60).text))
                fell = {key: (v, page.get(key)) for key, v in last.items() if page.get(key, -1.0) < v - 1e-9}
                assert not fell
                last = page
            server.child.send_signal(signal.SIGKILL)
            server.child.wait(60)
            gone.set()
            for asker in askers:
                asker.join(60)
    directory = tmp_path / "last"
    directory.mkdir()
    with process(directory, [package], management={"port": 0}, counters_dir=str(counters)) as server:
        page = page_of(httpx.get(management_of(server) + "/metrics", timeout=60).text)
    counted = value(page, "tidemill_requests_total", outcome="ok")
    # What a kill kept from leaving was counted; each client can have had one such a turn.
    assert answered <= counted <= answered + 3 * 4
    assert value(page, "tidemill_rows_total") == counted
    # It may have taken the times of the last few hundred, and of no more.
    assert counted - 3 * FOLD < value(page, "tidemill_request_duration_seconds_count", result="ok") <= counted
    assert len(list(counters.iterdir())) == 2
