"""Both clients against a real server: the same answers and errors as the model in this process gives."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tidemill
from tests.realtime.http_client import eventually
from tests.realtime.serving import served
from tidemill.datatypes import DATATYPES
from tidemill.errors import (
    ConfigError,
    InputError,
    Late,
    ModelError,
    NotFound,
    RowsRejected,
    TooLarge,
    Unavailable,
)
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.options import RepositoryOptions

PEOPLE: dict[str, list[Any]] = {"age": [41, None, 20], "city": ["Bern", "Zürich", "Genève"], "income": [1.5, None, 2e5]}
RECORDS = [dict(zip(PEOPLE, values, strict=True)) for values in zip(*PEOPLE.values(), strict=True)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        PEOPLE,
        RECORDS,
        pa.table(PEOPLE),
        pa.RecordBatch.from_pydict(PEOPLE),
        pd.DataFrame({**PEOPLE, "age": pd.array(PEOPLE["age"], "Int32")}),
        pl.DataFrame(PEOPLE),
        {
            "age": np.array([41, 0, 20]),
            "age.valid": np.array([True, False, True]),
            "city": np.array(PEOPLE["city"]),
            "income": np.array([1.5, np.nan, 2e5], np.float32),
        },
    ],
    ids=["columns", "records", "arrow", "batch", "pandas", "polars", "arrays"],
)
def test_whatever_holds_the_rows_the_answer_is_the_models_own(server, homes, ask, data, binary):
    here = tidemill.load(homes["tabular"]).predict(data)
    there = ask(f"http://{server.address}", "predict", "tabular", data, client={"binary": binary})
    assert there.outputs.keys() == here.outputs.keys()
    assert np.array_equal(there["score"], here["score"])
    assert (there.problems, there.statuses) == ((), ("ok",) * 3)
    assert there.to_arrow() == here.to_arrow()


@pytest.mark.parametrize("binary", [True, False])
def test_a_matrix_is_taken_whole_or_by_its_columns(server, homes, ask, binary):
    X = np.arange(6, dtype=np.float64).reshape(2, 3)
    columns = {"c": X[:, 2], "a": X[:, 0], "b": [1.0, None]}
    for data in (X, {"X": X}, columns, [{"a": 1, "c": 2}]):
        here = tidemill.load(homes["matrix"]).predict(data)
        there = ask(f"http://{server.address}", "predict", "matrix", data, client={"binary": binary})
        for name in here.outputs:
            if binary or not np.isnan(here["sum"]).any():
                assert np.array_equal(there[name], here[name], equal_nan=name != "first"), name


def test_every_datatype_goes_there_and_back(server, ask):
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"text": ["ä", ""], "raw": np.array([b"\xff\x00", b""], object)}
    for name, type_ in DATATYPES.items():
        if name != "BYTES":
            data[name.lower()] = rng.integers(0, 2, (2, 2)).astype(type_.dtype)
    there = ask(f"http://{server.address}", "predict", "every", data)
    for name, values in data.items():
        assert np.array_equal(there[f"same_{name}"], np.asarray(values)), name
        assert there[f"same_{name}"].dtype == (DATATYPES[name.upper()].dtype if name.upper() in DATATYPES else object)
    with pytest.raises(InputError, match="raw: raw bytes go in binary tensors only"):
        ask(f"http://{server.address}", "predict", "every", data, client={"binary": False})


def test_some_outputs_and_no_rows(server, ask):
    url = f"http://{server.address}"
    assert list(ask(url, "predict", "matrix", np.ones((1, 3)), outputs=["twice"]).outputs) == ["twice"]
    assert len(ask(url, "predict", "tabular", [])) == 0
    with pytest.raises(InputError, match="unknown output 'thrice': the model has sum, twice, first"):
        ask(url, "predict", "matrix", np.ones((1, 3)), outputs=["thrice"])


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("tabular", {"age": [41, 200, -1], "city": ["Bern", "Bern", "Rome"], "income": [1.0, 1.0, 1.0]}),
        ("fragile", {"x": [4.0, -1.0, 9.0]}),
        ("fragile", {"x": [4.0, -1.0, -100.0]}),
    ],
)
def test_bad_rows_are_named_as_in_this_process(server, homes, ask, model, data):
    url = f"http://{server.address}"
    here = tidemill.load(homes[model])
    with pytest.raises((RowsRejected, ModelError)) as expected:
        here.predict(data)
    with pytest.raises(type(expected.value)) as found:
        ask(url, "predict", model, data)
    assert str(found.value) == str(expected.value)
    partial, there = here.predict(data, "partial"), ask(url, "predict", model, data, on_bad_row="partial")
    assert there.problems == partial.problems
    assert there.statuses == partial.statuses
    assert there.to_arrow() == partial.to_arrow()


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (("predict", "nothing", {"x": [1]}), NotFound, "unknown model 'nothing'"),
        (("predict", "tabular", {"age": [1]}), InputError, "city"),
        (("predict", "tabular", {"agee": [1]}), InputError, "agee"),
        (("predict", "tabular", "Bern"), InputError, "cannot read rows from str"),
        (("metadata", "tabular", "7"), NotFound, "unknown version '7'"),
        (("predict", "fragile", {"x": np.zeros(70_000)}), TooLarge, "at most 65536"),
    ],
)
def test_errors_are_those_of_the_tree(server, ask, call, kind, says):
    with pytest.raises(kind, match=says):
        ask(f"http://{server.address}", *call)


def test_late_is_late_by_the_servers_own_clock(server, ask):
    url = f"http://{server.address}"
    assert ask(url, "predict", "sleeper", {"seconds": [0.0]})["seconds"] == [0.0]
    with pytest.raises(Late):
        ask(url, "predict", "sleeper", {"seconds": [1.0]}, timeout=0.3, client={"retries": 5})


def test_what_the_server_tells_of_itself(server, ask):
    url = f"http://{server.address}/"
    assert ask(url, "server")["name"] == "tidemill"
    assert ask(url, "metadata", "matrix")["versions"] == ["1"]
    assert ask(url, "live") is True
    ask(url, "wait_ready")  # a call that was late holds its thread a while
    assert ask(url, "ready") is True
    assert ask(url, "ready", "matrix", "1") is True
    ask(url, "wait_ready", "matrix")
    assert {one["name"] for one in ask(url, "index")} == {"every", "fragile", "matrix", "sleeper", "tabular"}


def test_nobody_there_is_not_ready_and_not_reached(ask):
    url = "http://127.0.0.1:9"
    assert ask(url, "live") is False
    assert ask(url, "ready") is False
    with pytest.raises(Unavailable, match="the server cannot be reached"):
        ask(url, "predict", "any", {"x": [1]})
    with pytest.raises(Late, match=r"m was not ready within 0\.3 s"):
        ask(url, "wait_ready", "m", timeout=0.3)


class Recorded(httpx.HTTPTransport):
    """Notes what is sent."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__()
        self.asked = asked

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        return super().handle_request(request)


def test_metadata_is_asked_for_once_and_again_after_a_refusal(homes):
    asked: list[str] = []
    with (
        served([homes["fragile"]]) as one,
        tidemill.Client(f"http://{one.address}", transport=Recorded(asked)) as client,
    ):
        for _ in range(3):
            client.predict("fragile", {"x": [4.0]})
        assert asked == ["GET /v2/models/fragile"] + ["POST /v2/models/fragile/infer"] * 3
        with pytest.raises(TooLarge):
            client.predict("fragile", {"x": np.zeros(70_000)})
        asked.clear()
        client.predict("fragile", {"x": [4.0]})
        assert asked[0] == "GET /v2/models/fragile"


def test_threads_share_a_client(server):
    url = f"http://{server.address}"
    with tidemill.Client(url, max_connections=4, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.predict, "fragile", {"x": [float(i) ** 2]}) for i in range(200)]
        assert [float(one.result()["root"][0]) for one in asked] == list(range(200))


def test_no_more_connections_than_allowed_are_opened_and_they_are_kept(server):
    plane = server.server.http._plane
    before = server.in_loop(lambda: set(plane.connections))
    with tidemill.Client(f"http://{server.address}", max_connections=3) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.predict("fragile", {"x": [float(i)]}), range(60)))
        opened = server.in_loop(lambda: set(plane.connections) - before)
        assert 1 <= len(opened) <= 3
        client.predict("fragile", {"x": [4.0]})
        assert server.in_loop(lambda: set(plane.connections) - before) == opened


def test_who_finds_no_free_connection_in_time_is_told(server):
    with tidemill.Client(f"http://{server.address}", max_connections=1) as client, ThreadPoolExecutor(1) as pool:
        client.metadata("sleeper")
        slow = pool.submit(client.predict, "sleeper", {"seconds": [1.5]})
        eventually(lambda: client._connections._free.empty())
        with pytest.raises(Late, match="no connection was free"):
            client.server(timeout=0.1)
        assert slow.result()["seconds"] == [1.5]


def test_a_closed_client_says_so(server):
    client = tidemill.Client(f"http://{server.address}")
    assert client.live()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.live()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("127.0.0.1:8080", {}, "expected http://HOST:PORT"),
        ("http://h", {"max_connections": 0}, "max_connections: got 0, expected 1 or more"),
        ("http://h", {"ca": "ca.pem"}, "are for https"),
        ("http://h", {"api_key": "k", "token": "t"}, "give one of them"),
        ("http://h", {"api_key": "clé"}, "x-api-key: what a header holds is plain ASCII"),
        ("http://h", {"token": "a\r\nb: c"}, "authorization: what a header holds is plain ASCII"),
        ("https://h", {"ca": "/none.pem"}, "cannot be read"),
    ],
)
def test_options_that_cannot_be_are_told(url, options, says):
    for kind in (tidemill.Client, tidemill.AsyncClient):
        with pytest.raises(ConfigError, match=says):
            kind(url, **options)


def test_models_are_loaded_and_unloaded_where_the_server_lets_clients_do_so(homes, tmp_path, ask):
    (tmp_path / "fragile").symlink_to(homes["fragile"])
    repository = RepositoryOptions(directory=str(tmp_path))
    options = ServeOptions(port=0, lame_duck=0.0, repository=repository, model_control="explicit")
    with served([], options) as one:
        url = f"http://{one.address}"
        ask(url, "load", "fragile")
        ask(url, "wait_ready", "fragile")
        assert ask(url, "predict", "fragile", {"x": [4.0]})["root"] == [2.0]
        ask(url, "unload", "fragile")
        with pytest.raises((NotFound, Unavailable)):
            ask(url, "predict", "fragile", {"x": [4.0]}, client={"retries": 0})
        with pytest.raises(NotFound):
            ask(url, "load", "nothing")
