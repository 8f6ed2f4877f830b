"""Models loaded, swapped and unloaded while clients ask without pause: every request is answered, and rightly.

`SWAP_CYCLES=100` makes it long.
"""

import http.client
import json
import os
import threading
from pathlib import Path

import httpx

from tests.realtime.http_client import eventually
from tests.realtime.models.repository import scale, times
from tests.realtime.serving import Process, process

CYCLES = int(os.environ.get("SWAP_CYCLES", "6"))
CLIENTS = 8


class Asking:
    """Clients that ask one model until told to stop, and keep what they were told."""

    def __init__(self, server: Process, path: str, body: bytes) -> None:
        self.told: list[tuple[str, float]] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, path, body)) for _ in range(CLIENTS)]
        for one in self._threads:
            one.start()

    def _ask(self, server: Process, path: str, body: bytes) -> None:
        connection = http.client.HTTPConnection(server.address, timeout=60)
        try:
            while not self._stop.is_set():
                connection.request("POST", path, body)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status == 200:
                    found = json.loads(content)
                    self.told.append((found["model_version"], found["outputs"][0]["data"][0]))
                else:
                    self.failures.append(f"{answer.status} {content!r}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        for one in self._threads:
            one.join(60)
            assert not one.is_alive()


def asked(control: httpx.Client, name: str, body: object) -> tuple[str, float]:
    found = control.post(f"/v2/models/{name}/infer", json=body).json()
    return found["model_version"], found["outputs"][0]["data"][0]


def test_no_request_fails_whatever_is_loaded_and_unloaded(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    scale(root, "quick", "1", 1.0)
    times(root, "slow", "1", 1.0)
    scale(root, "side", "1", 1.0)
    tensor = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}]}
    rows = {"rows": [{"x": 1.0, "seconds": 0.001}]}
    # On a machine that is busy with other tests nobody is to be refused for a call that took long.
    patient = {"quick": {"p99": 30.0}, "slow": {"p99": 30.0}}
    repository = {"directory": str(root), "load": ["quick", "slow"]}
    options = {"repository": repository, "model_control": "explicit", "endpoints": patient}
    with process(tmp_path, [], lame_duck=0, **options) as server, httpx.Client(base_url=server.url) as control:
        control.timeout = 60

        def change(name: str, action: str) -> None:
            answer = control.post(f"/v2/repository/models/{name}/{action}")
            assert answer.status_code == 200, answer.text

        quick = Asking(server, "/v2/models/quick/infer", json.dumps(tensor).encode())
        slow = Asking(server, "/v2/models/slow/infer", json.dumps(rows).encode())
        try:
            for cycle in range(2, CYCLES + 2):
                scale(root, "quick", str(cycle), float(cycle))
                times(root, "slow", "1", float(cycle))
                change("side", "load")
                change("quick", "load")
                change("slow", "load")
                mark = len(quick.told), len(slow.told)
                eventually(lambda: len(quick.told) > mark[0] + CLIENTS and len(slow.told) > mark[1] + CLIENTS)  # noqa: B023
                # What is asked after a change is answered by the new; what was asked before may be late.
                assert asked(control, "quick", tensor) == (str(cycle), float(cycle))
                assert asked(control, "slow", rows) == ("1", float(cycle))
                change("side", "unload")
        finally:
            quick.stop()
            slow.stop()
        assert quick.failures == []
        assert slow.failures == []
        assert {value for _, value in quick.told} == set(map(float, range(1, CYCLES + 2)))
        assert all(float(version) == value for version, value in quick.told), (
            "the version told is the one that answered"
        )
        stats = control.get("/v2/models/stats").json()["model_stats"]
        counted = {one["name"]: one["inference_stats"]["success"]["count"] for one in stats}
        assert counted["slow"] == len(slow.told) + CYCLES, "answers of all contents of a version are counted, each once"
        eventually(lambda: [line["event"] for line in server.log].count("unloaded") == 3 * CYCLES)
