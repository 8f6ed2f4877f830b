"""Deadlines, overload and clients that leave, with a model that really sleeps."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.packages import make
from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.serving import Served, served
from tidemill.model.signature import Input, Output
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.batched import Batched
from tidemill.realtime import ServeOptions

PATH = "/v2/models/sleeper/infer"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A sleeper whose queue holds 8 rows."""
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, max_queue_rows=8, workers=1)
    with served([packages.sleeper(tmp_path)], options) as found:
        yield found


def body(*seconds: float, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "seconds", "shape": [len(seconds)], "datatype": "FP32", "data": list(seconds)}
    return {"inputs": [tensor], "parameters": parameters}


class Asking:
    """A request on its way in a thread of its own."""

    def __init__(self, server: Served, *seconds: float, **options: Any) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, seconds, options))
        self._thread.start()

    def _ask(self, server: Served, seconds: tuple[float, ...], options: dict[str, Any]) -> None:
        self.answer = httpx.post(f"http://{server.address}{PATH}", json=body(*seconds), timeout=60, **options)

    def wait(self) -> httpx.Response:
        self._thread.join(60)
        assert self.answer is not None
        return self.answer


def batched(server: Served) -> Batched:
    return server.server.service.endpoints.find("sleeper").batched


def occupy(server: Served, seconds: float) -> Asking:
    """A request that the model is busy with."""
    asking = Asking(server, seconds)
    eventually(lambda: batched(server).busy == 1)
    return asking


def test_a_full_queue_is_refused_at_once_with_retry_after(server: Served) -> None:
    running = occupy(server, 0.6)
    waiting = Asking(server, *[0.0] * 8)
    eventually(lambda: batched(server).queued_rows == 8)
    before = time.monotonic()
    refused = [server.post(PATH, body(0.0)) for _ in range(20)]
    assert running.answer is None, f"20 refusals took {time.monotonic() - before} s, and the model is still busy"
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1
        assert "the queue is full: 8 rows wait, the limit is 8" in answer.json()["error"]
    assert running.wait().status_code == 200
    assert waiting.wait().status_code == 200
    assert server.post(PATH, body(0.0)).status_code == 200


@pytest.mark.parametrize("way", ["parameter", "header"])
def test_late_is_504_at_the_deadline_while_the_thread_is_still_busy(server: Served, way: str) -> None:
    before = time.monotonic()
    if way == "parameter":
        answer = server.post(PATH, body(3.0, timeout=200_000))
    else:
        answer = server.post(PATH, body(3.0), headers={"x-request-timeout-ms": "200"})
    spent = time.monotonic() - before
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]
    assert 0.2 <= spent < 2.0
    assert batched(server).busy == 1, "the thread still sleeps, and still counts"


def test_the_soonest_of_parameter_and_header_counts(server: Served) -> None:
    before = time.monotonic()
    answer = server.post(PATH, body(3.0, timeout=60_000_000), headers={"x-request-timeout-ms": "100"})
    assert answer.status_code == 504
    assert time.monotonic() - before < 2.0


def test_without_either_the_package_sets_the_deadline(tmp_path: Path) -> None:
    with served([packages.sleeper(tmp_path, timeout_ms=100)]) as server:
        assert server.post(PATH, body(1.0)).status_code == 504
        assert server.post(PATH, body(1.0, timeout=0)).status_code in (429, 504)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_deadline_that_is_no_time_is_an_error(server: Served, value: str) -> None:
    answer = server.post(PATH, body(0.0), headers={"x-request-timeout-ms": value})
    assert answer.status_code == 400
    assert "x-request-timeout-ms" in answer.json()["error"]


def test_what_cannot_make_its_deadline_is_refused_before_it(server: Served) -> None:
    running = occupy(server, 0.5)
    # The model takes long; this many rows ahead of it, by its own measured speed, take longer than a microsecond.
    answer = server.post(PATH, body(0.0, timeout=1))
    assert answer.status_code in (429, 504)
    assert running.wait().status_code == 200
    assert server.counters("sleeper")["execution_count"] == 1


def test_a_client_that_leaves_takes_its_queued_work_with_it(server: Served) -> None:
    running = occupy(server, 0.5)
    leaving = http.client.HTTPConnection(server.address)
    leaving.request("POST", PATH, json.dumps(body(0.0, 0.0, 0.0)))
    eventually(lambda: batched(server).queued_rows == 3)
    leaving.close()
    eventually(lambda: batched(server).queued_rows == 0)
    assert running.answer is None, "it left while the model was busy with another"
    assert running.wait().status_code == 200
    stays = server.post(PATH, body(0.0))
    assert stays.json()["outputs"][1]["data"] == [1], "called with the rows of the one who stayed"
    assert server.counters("sleeper")["execution_count"] == 2


def test_a_client_that_leaves_while_its_call_runs_harms_nobody(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        content = json.dumps(body(0.3)).encode()
        leaving.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (PATH.encode(), len(content), content)
        )
        eventually(lambda: batched(server).busy == 1)
    answer = server.post(PATH, body(0.0))
    assert answer.status_code == 200
    assert answer.json()["outputs"][1]["data"] == [1]


def test_what_waits_is_merged_when_the_model_comes_free(server: Served) -> None:
    running = occupy(server, 0.3)
    waiting = [Asking(server, 0.0) for _ in range(5)]
    eventually(lambda: batched(server).queued_rows == 5)
    assert running.wait().json()["outputs"][1]["data"] == [1]
    assert [w.wait().json()["outputs"][1]["data"] for w in waiting] == [[5]] * 5
    stats = server.counters("sleeper")
    assert stats["inference_count"] == 6
    assert stats["execution_count"] == 2
    assert {b["batch_size"] for b in stats["batch_stats"]} == {1, 5}


def test_a_stuck_model_is_not_ready_within_a_second_and_ready_again_when_it_returns(server: Served) -> None:
    assert server.get("/v2/health/ready").status_code == 200
    running = occupy(server, 2.0)
    before = time.monotonic()
    eventually(lambda: server.get("/v2/health/ready").status_code == 503)
    assert time.monotonic() - before < 1.0 or running.answer is None
    assert server.get("/v2/models/sleeper/ready").json() == {"name": "sleeper", "ready": False}
    assert server.get("/v2/health/live").status_code == 200
    running.wait()
    eventually(lambda: server.get("/v2/health/ready").status_code == 200)


BREAKS = """
from pathlib import Path


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        self.switch = Path(directory).parent / "broken"

    def predict(self, rows):
        if self.switch.exists():
            raise RuntimeError("the disk is gone")
        if (rows["x"] < 0).any():
            raise ValueError("negative")
        return {"y": rows["x"]}
"""


def test_a_model_that_fails_on_its_own_samples_is_not_ready_until_it_answers_them(tmp_path: Path) -> None:
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")]
    package = make(tmp_path / "breaks", "python", BREAKS, inputs, outputs, name="breaks").directory
    with served([package]) as server:

        def ask(x: float) -> int:
            tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}
            return server.infer("breaks", inputs=[tensor]).status_code

        assert ask(-1.0) == 500
        assert ask(1.0) == 200
        assert server.get("/v2/health/ready").status_code == 200, "one row that it cannot answer says nothing of others"
        (tmp_path / "broken").touch()
        assert ask(1.0) == 500
        eventually(lambda: server.get("/v2/models/breaks/ready").status_code == 503)
        (tmp_path / "broken").unlink()
        eventually(lambda: server.get("/v2/models/breaks/ready").status_code == 200)
        assert ask(1.0) == 200


def test_a_model_that_fails_its_samples_from_the_start_is_not_ready_until_it_answers_them(tmp_path: Path) -> None:
    source, table = tmp_path / "breaks.py", tmp_path / "rows.parquet"
    source.write_text(BREAKS)
    pq.write_table(pa.table({"x": [1.0, 2.0]}), table)
    package_model(source, tmp_path / "sampled", PackageOptions(like=str(table)))
    package_model(source, tmp_path / "unsampled", PackageOptions(name="unsampled"))
    (tmp_path / "broken").touch()
    with served([tmp_path / "sampled", tmp_path / "unsampled"]) as server:
        assert server.get("/v2/models/breaks/ready").status_code == 503
        assert server.get("/v2/health/ready").status_code == 503
        assert server.get("/v2/models/unsampled/ready").status_code == 200, "a row made up says nothing"
        (tmp_path / "broken").unlink()
        eventually(lambda: server.get("/v2/health/ready").status_code == 200)
