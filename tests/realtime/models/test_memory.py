"""What models take of memory: what does not fit is refused, and what goes gives its memory back."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import triton_to_np_dtype

from tests.realtime.http_client import eventually
from tests.realtime.models.repository import change, index, scale, times
from tests.realtime.serving import Served, process, served
from tidemill.errors import OutOfMemory
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.options import RepositoryOptions

MIB = 1 << 20


@contextmanager
def explicit(root: Path, **options: Any) -> Iterator[Served]:
    repository = RepositoryOptions(directory=str(root))
    given = ServeOptions(port=0, lame_duck=0.0, grace=5.0, repository=repository, model_control="explicit", **options)
    with served([], given) as server:
        yield server


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    scale(tmp_path, "large", "1", 1.0, weights=16 * MIB)
    scale(tmp_path, "small", "1", 1.0)
    with explicit(tmp_path, max_model_memory=48 * MIB) as server:
        status, error = change(server, "large", "load")
        assert status == 507
        assert error.startswith("large version 1 does not fit: its files have 67,1")
        assert "of max_model_memory 50,331,648 are left; unload another model or raise the limit" in error
        assert "does not fit" in index(server)["large", "1"][1]
        assert change(server, "small", "load") == (200, "")


GROWS = """
import numpy as np


class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        self.table = np.ones(FACTOR * 131072)

    def predict(self, rows):
        return {"y": rows["x"] * self.table[0]}
"""


def test_what_a_model_takes_is_measured_and_room_comes_back(tmp_path: Path) -> None:
    times(tmp_path, "first", "1", 40, source=GROWS)
    times(tmp_path, "second", "1", 40, source=GROWS)
    with explicit(tmp_path, max_model_memory=64 * MIB) as server:
        assert change(server, "first", "load") == (200, "")
        assert server.server.models.memory >= 40 * MIB
        status, error = change(server, "second", "load")
        assert (status, "second version 1 does not fit: loaded it takes" in error) == (507, True), error
        assert change(server, "first", "unload") == (200, "")
        eventually(lambda: server.server.models.memory == 0)
        assert change(server, "second", "load") == (200, "")


def test_a_server_that_is_given_too_much_does_not_start(tmp_path: Path) -> None:
    given = scale(tmp_path, "large", "1", 1.0, weights=2 * MIB)
    options = ServeOptions(port=0, lame_duck=0.0, max_model_memory=MIB)
    with pytest.raises(OutOfMemory, match="does not fit"), served([given], options):
        pass


def ask_over_grpc(server: Served) -> object:
    """An answer of the model `fraud`, whichever it is."""
    with grpc.InferenceServerClient(server.address) as client:
        inputs = []
        for one in client.get_model_metadata("fraud").inputs:
            inputs.append(grpc.InferInput(one.name, [abs(d) for d in one.shape], one.datatype))
            inputs[-1].set_data_from_numpy(np.zeros(inputs[-1].shape(), triton_to_np_dtype(one.datatype)))
        return client.infer("fraud", inputs).as_numpy("y")


@pytest.mark.parametrize("kind", [scale, times])
def test_a_model_that_went_is_freed_without_the_garbage_collector(kind: Callable[..., Path], tmp_path: Path) -> None:
    kind(tmp_path, "fraud", "1", 1.0)
    with explicit(tmp_path) as server:
        assert change(server, "fraud", "load") == (200, "")
        example = {"rows": [{"x": 1.0, "seconds": 0.0}]}
        if kind is scale:
            example = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
        for _ in range(3):
            assert server.post("/v2/models/fraud/infer", example).status_code == 200
            assert ask_over_grpc(server) is not None
        live = weakref.ref(server.server.models.endpoints.find("fraud").live)
        gc.disable()
        try:
            assert change(server, "fraud", "unload") == (200, "")
            eventually(lambda: live() is None)
        finally:
            gc.enable()


def test_memory_comes_back_to_the_system(tmp_path: Path) -> None:
    times(tmp_path, "large", "1", 64, source=GROWS)
    repository = {"directory": str(tmp_path)}
    with process(tmp_path, [], lame_duck=0, repository=repository, model_control="explicit") as server:
        child = psutil.Process(server.child.pid)
        with httpx.Client(base_url=f"{server.url}/v2/repository/models/large/", timeout=60) as client:
            empty = 0
            for done in range(1, 6):
                assert client.post("load").status_code == 200
                loaded = child.memory_info().rss
                assert client.post("unload").status_code == 200
                eventually(lambda: [x["event"] for x in server.log].count("unloaded") == done)  # noqa: B023
                empty = empty or child.memory_info().rss
                eventually(lambda: child.memory_info().rss < loaded - 48 * MIB)  # noqa: B023
        assert child.memory_info().rss < empty + 32 * MIB
