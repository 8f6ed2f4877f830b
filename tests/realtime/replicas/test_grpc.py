"""gRPC through replicas that are rolled, lost and drained: long connections move, and no call fails of it."""

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import fleet, marked


class GrpcCallers:
    """Clients of one channel each, which call without pause; every call has an outcome."""

    def __init__(self, address: str, many: int) -> None:
        self.pids: list[int] = []
        self.lost: list[str] = []
        self.enough = threading.Event()
        self._address = address
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(many)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with triton.InferenceServerClient(self._address) as client:
            mark = number * 1_000_000
            while not self.enough.is_set():
                mark += 1
                inputs = [triton.InferInput("mark", [1], "INT64"), triton.InferInput("seconds", [1], "FP32")]
                inputs[0].set_data_from_numpy(np.array([mark], np.int64))
                inputs[1].set_data_from_numpy(np.array([0.005], np.float32))
                try:
                    found: Any = client.infer("marked", inputs)
                    assert found.as_numpy("mark").tolist() == [mark]
                    with self._lock:
                        self.pids.append(int(found.as_numpy("pid")[0]))
                except triton.InferenceServerException as error:
                    with self._lock:
                        self.lost.append(str(error))

    def go_on(self, many: int) -> None:
        least = len(self.pids) + many
        eventually(lambda: len(self.pids) >= least)

    def finish(self) -> None:
        self.enough.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("balancer", ["socket", "envoy"])
def test_calls_go_on_while_replicas_are_rolled(tmp_path: Path, balancer: str) -> None:
    if balancer == "envoy":
        pytest.importorskip("envoy", reason="needs the extra 'balancer'")
    with fleet(tmp_path, [marked(tmp_path)], {"minimum": 2, "balancer": balancer}) as server:
        before = {one.pid for one in server.replicas()}
        callers = GrpcCallers(server.address, many=4)
        callers.go_on(100)
        server.child.send_signal(signal.SIGHUP)
        server.wait_for("replica ended", 2)
        callers.go_on(100)
        callers.finish()
        assert callers.lost == []
        assert set(callers.pids[-20:]).isdisjoint(before)


def test_envoy_spreads_the_calls_of_one_connection_and_hides_a_lost_replica(tmp_path: Path) -> None:
    pytest.importorskip("envoy", reason="needs the extra 'balancer'")
    with fleet(tmp_path, [marked(tmp_path)], {"minimum": 2, "balancer": "envoy"}) as server:
        callers = GrpcCallers(server.address, many=3)
        callers.go_on(100)
        assert len(set(callers.pids)) == 2
        server.replicas()[0].kill()
        server.wait_for("replica ready", 3)
        callers.go_on(100)
        callers.finish()
        assert callers.lost == []
