"""A server's life as a process: start, ready, drain, end; and what it writes meanwhile."""

import http.client
import json
import signal
import ssl
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import trustme

from tests.packages import make
from tests.realtime import packages
from tests.realtime.http_client import eventually
from tests.realtime.serving import Process, process, served
from tidemill.errors import ConfigError, IntegrityError
from tidemill.model.signature import Input, Output
from tidemill.realtime import ServeOptions, Server
from tidemill.realtime.security.options import AuthOptions
from tidemill.realtime.security.tls import TlsOptions

PATH = "/v2/models/sleeper/infer"


def seconds(value: float) -> dict[str, object]:
    return {"inputs": [{"name": "seconds", "shape": [1], "datatype": "FP32", "data": [value]}]}


def busy(server: Process) -> bool:
    """Whether its model is in a call. It has a management port."""
    address = next(line["address"] for line in server.log if line["event"] == "management")
    return bool(httpx.get(f"http://{address}/models").json()[0]["busy_threads"])


class Load:
    """Clients that ask without pause, each on its kept connection, until the server takes no more."""

    def __init__(self, server: Process, clients: int, sleep: float) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._body = json.dumps(seconds(sleep))
        self._threads = [threading.Thread(target=self._run, args=(server.address,)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, address: str) -> None:
        while True:
            connection = http.client.HTTPConnection(address, timeout=60)
            try:
                connection.connect()
            except OSError:
                return  # it has stopped accepting
            try:
                while True:
                    connection.request("POST", PATH, self._body)
                    answer = connection.getresponse()
                    content = answer.read()
                    if answer.status != 200:
                        self.lost.append(f"{answer.status} {content!r}")
                    else:
                        self.answered += 1
                    if answer.getheader("connection") == "close":
                        break
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            finally:
                connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    with process(tmp_path, [packages.sleeper(tmp_path)], lame_duck=0.5, grace=20.0) as server:
        load = Load(server, clients=16, sleep=0.01)
        eventually(lambda: load.answered > 100)
        server.terminate()
        eventually(lambda: any(line["event"] == "draining" for line in server.log))
        assert server.child.wait(60) == 0
        load.join()
        assert load.lost == []
        assert load.answered > 100
        assert server.log[-1]["event"] == "stopped"
        assert server.log[-1]["cut"] == 0


def test_draining_is_not_ready_and_says_close(tmp_path: Path) -> None:
    with process(tmp_path, [packages.sleeper(tmp_path)], lame_duck=3.0, grace=5.0) as server:
        with httpx.Client(base_url=server.url) as kept:
            assert kept.get("/v2/health/ready").status_code == 200
            server.terminate()
            eventually(lambda: any(line["event"] == "draining" for line in server.log))
            # The kept connection, and a new one: both are served, told that the server is not ready, and closed.
            for answer in (kept.get("/v2/health/ready"), httpx.get(f"{server.url}/v2/health/ready")):
                assert answer.status_code == 503
                assert answer.headers["connection"] == "close"
        assert httpx.post(f"{server.url}{PATH}", json=seconds(0.0)).status_code == 200
        assert server.child.wait(60) == 0


def test_what_is_in_flight_has_the_grace_to_finish(tmp_path: Path) -> None:
    management = {"port": 0}
    with process(tmp_path, [packages.sleeper(tmp_path)], lame_duck=0.0, grace=20.0, management=management) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}{PATH}", json=seconds(1.5), timeout=60))
        )
        asking.start()
        eventually(lambda: busy(server))
        server.terminate()
        asking.join(60)
        assert answers[0].status_code == 200
        assert server.child.wait(60) == 0


def test_after_the_grace_a_model_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    with (
        process(tmp_path, [packages.sleeper(tmp_path)], lame_duck=0.0, grace=0.3, management={"port": 0}) as server,
        closing(http.client.HTTPConnection(server.address)) as asking,
    ):
        asking.request("POST", PATH, json.dumps(seconds(50.0)))
        eventually(lambda: busy(server))
        server.terminate()
        assert server.child.wait(20) == 0
        assert server.log[-1]["cut"] == 1


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with process(tmp_path, [packages.sleeper(tmp_path)], lame_duck=50.0, grace=50.0) as server:
        server.child.send_signal(signal.SIGINT)
        eventually(lambda: any(line["event"] == "draining" for line in server.log))
        server.child.send_signal(signal.SIGINT)
        server.child.wait(20)
        assert "a second signal" in server.log[-1]["event"]


SLOW_TO_LOAD = """
import time


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"x": ("FP64", [-1])}

    def load(self, directory):
        time.sleep(SECONDS)

    def predict(self, rows):
        return {"x": rows["x"]}
"""


def slow_to_load(directory: Path, seconds: float = 1.5) -> Path:
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="x", datatype="FP64")]
    source = SLOW_TO_LOAD.replace("SECONDS", str(seconds))
    return make(directory / "slow", "python", source, inputs, outputs, name="slow").directory


def test_while_it_loads_it_is_live_and_not_ready(tmp_path: Path) -> None:
    port_file = tmp_path / "address"
    package = slow_to_load(tmp_path)
    with process(tmp_path, [package], until="listening", port_file=str(port_file)) as server:
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        early = httpx.post(f"{server.url}/v2/models/slow/infer", json={})
        assert early.status_code == 503
        assert early.json()["error"] == "the models are being loaded"
        assert early.headers["retry-after"] == "1"
        assert not port_file.exists(), "it is written when the server is ready"
        eventually(port_file.exists)
        assert port_file.read_text() == f"{server.address}\n"
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        server.terminate()
        assert server.child.wait(60) == 0


def test_sigterm_ends_it_though_a_model_never_loads(tmp_path: Path) -> None:
    with process(tmp_path, [slow_to_load(tmp_path, 600)], until="listening", lame_duck=0.0) as server:
        server.terminate()
        assert server.child.wait(60) == 0


def test_a_tampered_package_is_not_served(tmp_path: Path) -> None:
    package = packages.sleeper(tmp_path)
    (package / "model.py").write_text("class Model: pass")
    with pytest.raises(IntegrityError, match=r"sleeper/model\.py: its SHA-256 is"), served([package]):
        pass


def test_two_packages_of_one_name_and_version_are_refused(tmp_path: Path) -> None:
    first, second = packages.sleeper(tmp_path / "a", name="sleeper"), packages.sleeper(tmp_path / "b", name="sleeper")
    with pytest.raises(ConfigError, match="two packages are sleeper version 1"), served([first, second]):
        pass


def test_the_access_log_tells_of_requests_and_never_of_values(tmp_path: Path) -> None:
    package = packages.tabular(tmp_path)
    with process(tmp_path, [package], access_log=True, lame_duck=0.0) as server:
        row = {"age": 87, "city": "Genève", "income": 123456.75}
        url = f"{server.url}/v2/models/tabular/infer?secret=123456.75"
        assert httpx.post(url, json={"rows": [row]}).status_code == 200
        assert httpx.post(url, json={"rows": [{**row, "age": 187}]}).status_code == 400
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        server.terminate()
        assert server.child.wait(60) == 0
        lines = [line for line in server.log if line["logger"] == "tidemill.access"]
        assert [(x["method"], x["path"], x["status"]) for x in lines] == [
            ("POST", "/v2/models/tabular/infer", 200),
            ("POST", "/v2/models/tabular/infer", 400),
            ("GET", "/v2/health/live", 200),
        ]
        assert all(x["ms"] >= 0 and x["response_bytes"] > 0 for x in lines)
        text = json.dumps(server.log, ensure_ascii=False)
        assert "123456.75" not in text
        assert "187" not in text
        assert "Genève" not in text


def test_without_being_asked_no_request_is_logged(tmp_path: Path) -> None:
    with process(tmp_path, [packages.tabular(tmp_path)], lame_duck=0.0) as server:
        assert httpx.post(f"{server.url}/v2/models/tabular/infer", json={"rows": [{}]}).status_code == 400
        server.terminate()
        assert server.child.wait(60) == 0
        assert [line["event"] for line in server.log] == ["listening", "loaded", "ready", "draining", "stopped"]


def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    tls = TlsOptions(cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))
    options = ServeOptions(port=0, lame_duck=0.0, tls=tls)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with served([packages.sleeper(tmp_path)], options) as server:
        answer = httpx.post(f"https://{server.address}{PATH}", json=seconds(0.0), verify=context)
        assert answer.json()["outputs"][1]["data"] == [1]


def test_options_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pem"):
        Server(ServeOptions(tls=TlsOptions(cert="nothing.pem", key="nothing.pem")))
    with pytest.raises(ConfigError, match="nobody could ask"):
        Server(ServeOptions(auth=AuthOptions()))
