"""Models loaded, unloaded, aliased and shared by request, as Triton's clients do it."""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import tritonclient.http as triton

from tests.realtime.http_client import eventually
from tests.realtime.models.repository import answer, body, change, index, times
from tests.realtime.serving import Served, served
from tidemill.errors import PackageError
from tidemill.model.samples import write_samples
from tidemill.realtime import ServeOptions
from tidemill.realtime.models import loading
from tidemill.realtime.models.options import RepositoryOptions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "fraud", "2", 2.0)
    times(tmp_path, "other", "1", 10.0)
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[Served]:
    with explicit(root) as found:
        yield found


def explicit(root: Path, *load: str, **options: object):  # type: ignore[no-untyped-def]
    repository = RepositoryOptions(directory=str(root), load=load)
    return served(
        [], ServeOptions(port=0, lame_duck=0.0, grace=5.0, repository=repository, model_control="explicit", **options)
    )


def test_nothing_is_served_until_it_is_loaded(server: Served) -> None:
    assert server.get("/v2/health/ready").status_code == 200
    assert server.post("/v2/models/fraud/infer", body()).status_code == 404
    assert index(server)["fraud", "2"] == ("UNAVAILABLE", "not asked for")
    assert change(server, "fraud", "load") == (200, "")
    assert answer(server, "fraud") == ("2", 2.0)
    assert index(server)["fraud", "2"] == ("READY", "")
    assert index(server)["fraud", "1"] == ("UNAVAILABLE", "not asked for")
    assert server.get("/v2/models/fraud").json()["versions"] == ["2"]
    assert "/v2/models/fraud/infer" in server.get("/openapi.json").json()["paths"]
    assert server.get("/v1/models").json() == {"models": ["fraud"]}
    assert change(server, "fraud", "unload") == (200, "")
    assert server.post("/v2/models/fraud/infer", body()).status_code == 404
    assert "/v2/models/fraud/infer" not in server.get("/openapi.json").json()["paths"]
    assert server.get("/v1/models").json() == {"models": []}


def test_a_server_of_which_a_model_to_be_loaded_is_broken_does_not_start(root: Path) -> None:
    (root / "other" / "1" / "model.py").write_text("other")
    with (
        pytest.raises(PackageError, match=r"^other version 1 cannot be served: 1/model\.py: its SHA-256 is .*\Z"),
        explicit(root, "fraud", "other"),
    ):
        pass
    with explicit(root, "fraud") as server:
        assert answer(server, "fraud") == ("2", 2.0)


def test_a_server_that_never_can_serve_anything_does_not_start(root: Path) -> None:
    repository = RepositoryOptions(directory=str(root))
    for version in root.glob("*/*"):
        (version / "model.toml").unlink()
    with (
        pytest.raises(PackageError, match=r"fraud version 2 cannot be served: .*\nother version 1 cannot be served: "),
        served([], ServeOptions(port=0, repository=repository)),
    ):
        pass
    shutil.rmtree(root / "fraud")
    shutil.rmtree(root / "other")
    with (
        pytest.raises(PackageError, match="it holds no version to serve of any model"),
        served([], ServeOptions(port=0, repository=repository)),
    ):
        pass
    with served([], ServeOptions(port=0, lame_duck=0.0, repository=repository, model_control="poll")) as server:
        assert server.get("/v2/health/ready").status_code == 200, "one may come"


def test_tritons_client_loads_and_unloads(server: Served) -> None:
    client = triton.InferenceServerClient(server.address)
    client.load_model("fraud", config='{"version_policy": {"all": {}}}')
    assert client.is_model_ready("fraud", "1")
    assert client.is_model_ready("fraud", "2")
    ready = {(one["name"], one["version"]) for one in client.get_model_repository_index() if one["state"] == "READY"}
    assert ready == {("fraud", "1"), ("fraud", "2")}
    client.load_model("fraud", config='{"version_policy": {"specific": {"versions": [1]}}}')
    assert not client.is_model_ready("fraud", "2")
    client.unload_model("fraud")
    assert not client.is_model_ready("fraud")
    client.close()


def test_only_the_version_policy_is_taken_of_a_load(server: Served) -> None:
    for parameters, said in [
        ({"config": '{"max_batch_size": 4}'}, "nothing else"),
        ({"config": '{"version_policy": {"newest": {}}}'}, "version_policy"),
        ({"config": '{"version_policy": {"latest": {"num_versions": 0}}}'}, "version_policy"),
        ({"config": '{"version_policy": {"specific": {"versions": ["../1"]}}}'}, "version_policy"),
        ({"config": "{"}, "malformed JSON"),
        ({"file:1/model.onnx": "AAAA"}, "file:1/model.onnx"),
        ([], "expected an object"),
    ]:
        status, error = change(server, "fraud", "load", {"parameters": parameters})
        assert (status, said in error) == (400, True), (parameters, error)
    assert server.post("/v2/models/fraud/infer", body()).status_code == 404


HOSTILE = [
    "../fraud",
    "..%2Ffraud",
    "%2Fetc%2Fpasswd",
    "fraud%00",
    "fraud%0a",
    ".",
    "..",
    ".hidden",
    "fraud/1",
    "fraud@champion",
    "a" * 129,
    "a" * 4000,
    "%F0%9F%92%A3",
    "%ff",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_none_is_refused_and_opens_nothing(name: str, server: Served, root: Path) -> None:
    times(root / "nested", "secret", "1", 1.0)
    request = f"POST /v2/repository/models/{name}/load HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(request.encode())
        status = int(sock.recv(65536).split(b" ")[1])
    assert status in (400, 404), status
    assert [one for one, (state, _) in index(server).items() if state == "READY"] == []


def test_a_model_that_is_not_there(server: Served) -> None:
    assert change(server, "absent", "load") == (404, "there is no model 'absent' to serve")
    assert change(server, "fraud", "dance")[0] == 404
    assert server.get("/v2/repository/models/fraud/load").status_code == 405


def test_changes_need_explicit_control(root: Path) -> None:
    options = ServeOptions(port=0, lame_duck=0.0, repository=RepositoryOptions(directory=str(root)))
    with served([], options) as server:
        assert answer(server, "fraud") == ("2", 2.0)
        for action in ("load", "unload", "aliases", "traffic"):
            doc = {"aliases": {}} if action == "aliases" else None
            status, error = change(server, "fraud", action, doc)
            assert (status, "explicit" in error) == (400, True)
        assert answer(server, "fraud") == ("2", 2.0)


def test_a_broken_version_leaves_the_old_one_serving(server: Served, root: Path) -> None:
    assert change(server, "fraud", "load") == (200, "")
    broken = times(root, "fraud", "3", 3.0)
    (broken / "model.py").write_text("changed after packaging")
    status, error = change(server, "fraud", "load")
    assert status == 500
    assert "3/model.py: its SHA-256 is" in error
    assert answer(server, "fraud") == ("2", 2.0)
    state, reason = index(server)["fraud", "3"]
    assert state == "UNAVAILABLE"
    assert "its SHA-256 is" in reason
    times(root, "fraud", "3", 3.0)
    assert change(server, "fraud", "load") == (200, "")
    assert answer(server, "fraud") == ("3", 3.0)


RAISES = """
class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def predict(self, rows):
        raise ValueError("FACTOR")
"""


def test_a_version_that_does_not_answer_its_own_samples_replaces_none(server: Served, root: Path) -> None:
    assert change(server, "fraud", "load") == (200, "")
    inputs = pa.RecordBatch.from_pydict({"x": [1.0], "seconds": [0.0]})
    outputs = pa.RecordBatch.from_pydict({"y": [1.0]})
    write_samples(root / "samples.arrow", inputs, outputs)
    samples = {"samples.arrow": (root / "samples.arrow").read_bytes()}
    times(root, "fraud", "3", 3.0, source=RAISES, samples="samples.arrow", files=samples)
    status, error = change(server, "fraud", "load")
    assert (status, error.startswith("fraud version 3: it does not answer its own samples: ")) == (500, True), error
    assert answer(server, "fraud") == ("2", 2.0)


def test_the_same_version_with_another_content_is_swapped(server: Served, root: Path) -> None:
    assert change(server, "fraud", "load") == (200, "")
    times(root, "fraud", "2", 20.0)
    assert answer(server, "fraud") == ("2", 2.0)
    assert change(server, "fraud", "load") == (200, "")
    assert answer(server, "fraud") == ("2", 20.0)


LOADS_SLOWLY = """
import time
from pathlib import Path


class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        with open(Path(directory).parent.parent / "loads", "a") as file:
            file.write("loaded\\n")
        time.sleep(0.5)

    def predict(self, rows):
        return {"y": rows["x"] * FACTOR}
"""


def test_loads_of_one_model_at_once_are_one_load(server: Served, root: Path) -> None:
    times(root, "slow", "1", 3.0, source=LOADS_SLOWLY)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: change(server, "slow", "load"), range(8)))
    assert done == [(200, "")] * 8
    assert answer(server, "slow") == ("1", 3.0)
    assert (root / "loads").read_text() == "loaded\n"


def test_loading_does_not_hold_up_the_calls_of_another(server: Served, root: Path) -> None:
    assert change(server, "fraud", "load") == (200, "")
    times(root, "slow", "1", 3.0, source=LOADS_SLOWLY)
    loads = threading.Thread(target=change, args=(server, "slow", "load"))
    loads.start()
    eventually(lambda: index(server).get(("slow", "1"), ("", ""))[0] == "LOADING")
    answered = 0
    while loads.is_alive():
        assert answer(server, "fraud") == ("2", 2.0)
        answered += 1
    loads.join()
    assert answered > 20


HANGS = LOADS_SLOWLY.replace("time.sleep(0.5)", "time.sleep(60.0)")


def test_a_model_that_never_loads_is_given_up(server: Served, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PATIENCE", 1.0)
    times(root, "stuck", "1", 3.0, source=HANGS)
    assert change(server, "stuck", "load") == (500, "stuck version 1: it was not loaded and warmed up within 1 s")
    assert change(server, "fraud", "load") == (200, "")
    assert answer(server, "fraud") == ("2", 2.0)


def test_unload_lets_those_who_wait_be_answered(server: Served) -> None:
    assert change(server, "fraud", "load") == (200, "")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(server.post, "/v2/models/fraud/infer", body(3.0, 0.4)) for _ in range(4)]
        eventually(lambda: server.server.http.in_flight == 4)
        assert change(server, "fraud", "unload") == (200, "")
        assert server.post("/v2/models/fraud/infer", body()).status_code == 404
        assert index(server)["fraud", "2"][0] == "UNLOADING"
        answers = [one.result() for one in waiting]
    assert [one.status_code for one in answers] == [200] * 4
    assert {one.json()["outputs"][0]["data"][0] for one in answers} == {6.0}
    eventually(lambda: index(server)["fraud", "2"][0] == "UNAVAILABLE")


def test_a_call_that_never_ends_is_cut_after_the_grace(root: Path) -> None:
    repository = RepositoryOptions(directory=str(root), load=("fraud",))
    options = ServeOptions(port=0, lame_duck=0.0, grace=0.2, repository=repository, model_control="explicit")
    with served([], options) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.post, "/v2/models/fraud/infer", body(1.0, 3.0))
        eventually(lambda: server.server.models.endpoints.find("fraud").batched.busy > 0)
        assert change(server, "fraud", "unload") == (200, "")
        assert waiting.result().status_code == 503
        eventually(lambda: index(server)["fraud", "2"][0] == "UNAVAILABLE")


def test_aliases_are_usable_wherever_a_version_is(server: Served) -> None:
    config = '{"version_policy": {"all": {}}}'
    assert change(server, "fraud", "load", {"parameters": {"config": config}}) == (200, "")
    assert change(server, "fraud", "aliases", {"aliases": {"champion": "1", "next": "2"}}) == (200, "")
    for written in ("fraud/versions/champion", "fraud@champion", "fraud@1"):
        assert answer(server, written) == ("1", 1.0)
        assert server.get(f"/v2/models/{written}/ready").status_code == 200
        assert server.get(f"/v2/models/{written}/config").json()["version_policy"]["specific"]["versions"] == ["1"]
        assert len(server.get(f"/v2/models/{written}/stats").json()["model_stats"]) == 1
        assert server.get(f"/v1/models/{written}/metadata").json()["model_spec"]["version"] == "1"
        predicted = server.post(f"/v1/models/{written}:predict", {"instances": [{"x": 4.0, "seconds": 0.0}]})
        assert predicted.json() == {"predictions": [4.0]}
    assert answer(server, "fraud") == ("2", 2.0)
    assert change(server, "fraud", "aliases", {"aliases": {"champion": "2", "next": None}}) == (200, "")
    assert answer(server, "fraud@champion") == ("2", 2.0)
    missing = server.post("/v2/models/fraud@next/infer", body())
    assert missing.status_code == 404
    assert "'1', '2', 'champion'" in missing.json()["error"]


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ({"champion": "9"}, "aliases.champion: there is no version '9'; expected one of 2"),
        ({"2": "2"}, "'2' is a version itself"),
        ({"champion": 2}, "aliases.champion"),
        ({"../x": "2"}, "aliases"),
        ({"": "2"}, "aliases"),
        ("champion", "aliases"),
    ],
)
def test_an_alias_that_cannot_be_is_refused_and_changes_nothing(aliases: object, said: str, server: Served) -> None:
    assert change(server, "fraud", "load") == (200, "")
    assert change(server, "fraud", "aliases", {"aliases": {"stable": "2"}}) == (200, "")
    status, error = change(server, "fraud", "aliases", {"aliases": aliases})
    assert (status, said in error) == (400, True), error
    assert answer(server, "fraud@stable") == ("2", 2.0)


def test_a_model_called_stats_shadows_no_route(server: Served, root: Path) -> None:
    times(root, "stats", "1", 5.0)
    assert change(server, "stats", "load") == (200, "")
    assert answer(server, "stats") == ("1", 5.0)
    every: Callable[[], list[str]] = lambda: [  # noqa: E731
        one["name"] for one in server.get("/v2/models/stats").json()["model_stats"]
    ]
    assert every() == ["stats"]
    assert change(server, "fraud", "load") == (200, "")
    assert every() == ["fraud", "stats"]
    assert server.get("/v2/models/stats/versions/1").json()["name"] == "stats"


def test_counts_go_on_over_a_swap(server: Served, root: Path) -> None:
    assert change(server, "fraud", "load") == (200, "")
    answer(server, "fraud")
    times(root, "fraud", "2", 20.0)
    assert change(server, "fraud", "load") == (200, "")
    answer(server, "fraud")
    assert server.counters("fraud")["inference_count"] == 2
