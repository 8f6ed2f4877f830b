"""Deadlines, overload and clients that leave, with a model that really sleeps."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.packages import make
from tests.realtime import packages
from tests.realtime.grpc import calls
from tests.realtime.http_client import eventually
from tests.realtime.serving import Served, served
from tidemill.model.signature import Input, Output
from tidemill.packaging import PackageOptions, package_model
from tidemill.prediction.batched import Batched, BatchLimits
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
        # Without certificates, which would take longer to read than these requests to answer.
        url = f"http://{server.address}{PATH}"
        self.answer = httpx.post(url, json=body(*seconds), timeout=60, verify=False, **options)

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
    refused = [server.post(PATH, body(0.0)) for _ in range(20)]
    assert running.answer is None, "20 were refused while the model was busy with one"
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


def urgent(server: Served, protocol: str, way: str) -> None:
    """Ask with the highest priority; an answer must come."""
    parameters, said = ({"priority": 1}, {}) if way == "parameter" else ({}, {"x-request-priority": "1"})
    if protocol == "REST":
        assert server.post(PATH, body(0.0, **parameters), headers=said).status_code == 200
        return
    asked = calls.raw("sleeper", seconds=np.zeros(1, np.float32))
    for name, value in parameters.items():
        asked.parameters[name].int64_param = value
    metadata = tuple(said.items())
    with grpc.insecure_channel(server.address) as channel:
        if protocol == "gRPC":
            calls.infer(channel)(asked, metadata=metadata)
        else:
            ask = calls.stream(channel, f"{calls.SERVICE}/ModelStreamInfer", "inference.ModelStreamInferResponse")
            assert [one.error_message for one in ask(calls.each(asked), metadata=metadata)] == [""]


@pytest.mark.parametrize("way", ["parameter", "header"])
@pytest.mark.parametrize("protocol", ["REST", "gRPC", "a gRPC stream"])
def test_a_high_priority_takes_the_place_of_the_last_of_the_lower(server: Served, protocol: str, way: str) -> None:
    running = occupy(server, 1.0)
    low = []
    for i in range(8):
        low.append(Asking(server, 0.0))
        eventually(lambda n=i + 1: batched(server).queued_rows == n)
    urgent(server, protocol, way)
    assert running.wait().status_code == 200
    answers = [one.wait() for one in low]
    assert [a.status_code for a in answers] == [200] * 7 + [429]
    assert "better right to this place" in answers[-1].json()["error"]
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_low_priority_is_refused_where_a_high_one_is_not(server: Served) -> None:
    running = occupy(server, 1.0)
    waiting = [Asking(server, 0.0) for _ in range(8)]
    eventually(lambda: batched(server).queued_rows == 8)
    # Its lane is empty: one of it may wait, in the place of one of the others. A second has no right to another.
    last = Asking(server, 0.0, headers={"x-request-priority": "3"})
    eventually(lambda: sum(w.answer is not None for w in waiting) == 1)
    assert server.post(PATH, body(0.0, priority=3)).status_code == 429
    assert running.wait().status_code == last.wait().status_code == 200
    assert sorted(w.wait().status_code for w in waiting) == [200] * 7 + [429]


@pytest.mark.parametrize("value", [-1, 1.5, "high", True, None])
def test_a_priority_that_is_none_is_an_error(server: Served, value: object) -> None:
    answer = server.post(PATH, body(0.0, priority=value))
    assert answer.status_code == 400
    assert "parameter priority" in answer.json()["error"]
    answer = server.post(PATH, body(0.0), headers={"x-request-priority": str(value)})
    assert answer.status_code == 400
    assert "x-request-priority" in answer.json()["error"]


def test_a_model_that_hangs_is_told_of_and_takes_no_more(tmp_path: Path) -> None:
    options = ServeOptions(port=0, lame_duck=0.0, grace=0.0, workers=1, batching=BatchLimits(hung_after=0.2))
    with served([packages.sleeper(tmp_path)], options) as server:
        hanging = batched(server)
        assert hanging.stuck_since is None
        assert server.post(PATH, body(2.0, timeout=100_000)).status_code == 504
        eventually(lambda: hanging.stuck_since is not None)
        refused = server.post(PATH, body(0.0))
        assert refused.status_code == 503
        assert "does not return" in refused.json()["error"]
        assert hanging.busy == 1, "no thread was started beside it"
        assert server.get("/v2/health/live").status_code == 200
        eventually(lambda: server.get("/v2/health/ready").status_code == 503)
        eventually(lambda: hanging.stuck_since is None)
        assert server.post(PATH, body(0.0)).status_code == 200


def test_more_load_than_there_is_capacity_is_answered_or_refused_and_every_outcome_counted(tmp_path: Path) -> None:
    options = ServeOptions(port=0, lame_duck=0.0, grace=5.0, workers=2, batching=BatchLimits(max_rows=1))
    sent = 300

    async def ask(server: Served) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:

            async def one(i: int) -> httpx.Response:
                await asyncio.sleep(i * 0.003)  # three times what two threads can do
                return await client.post(PATH, json=body(0.02))

            return await asyncio.gather(*[one(i) for i in range(sent)])

    with served([packages.sleeper(tmp_path)], options) as server:
        answers = asyncio.run(ask(server))
        codes = Counter(a.status_code for a in answers)
        assert codes.keys() <= {200, 429}
        assert codes[200] >= 20
        assert codes[429] >= 20, "the queue is bounded by what can be answered in time"
        assert all(int(a.headers["retry-after-ms"]) >= 1 for a in answers if a.status_code == 429)
        stats = server.counters("sleeper")
        assert stats["inference_stats"]["success"]["count"] == codes[200]
        assert stats["inference_stats"]["fail"]["count"] == codes[429]
        assert stats["inference_count"] == codes[200]
        eventually(lambda: batched(server).idle)
        assert server.post(PATH, body(0.0)).status_code == 200, "and normal again"


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
