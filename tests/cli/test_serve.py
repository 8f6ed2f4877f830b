"""`tidemill serve` as the program: ready, answering, and ending well on SIGTERM and Ctrl-C."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.support import start, tidemill
from tests.packages import make
from tidemill.model.signature import Input, Output


def address(process_file: Path, until: float) -> str:
    while not process_file.exists():
        assert time.monotonic() < until, "not ready"
        time.sleep(0.05)
    return process_file.read_text().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_it_is_told_to_end(number: int, package: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    flags = ("--port", 0, "--port-file", port_file, "--lame-duck", 0, "--limit", "max_rows=2")
    process = start("serve", package, *flags)
    try:
        url = f"http://{address(port_file, time.monotonic() + 60)}/v2/models/tiny/infer"
        body = json.dumps({"rows": [{"x": 21.0}]}).encode()
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            assert json.load(answer)["outputs"][0]["data"] == [42.0]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, json.dumps({"rows": [{"x": 1.0}] * 3}).encode(), timeout=30)
        assert refused.value.code == 413
        refused.value.close()
    finally:
        process.send_signal(number)
        output, logs = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == ""
    assert "Traceback" not in logs
    assert {"listening", "ready", "stopped"} <= {json.loads(line)["event"] for line in logs.splitlines()}


def test_a_port_that_is_taken_is_named(package: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tidemill("serve", package, "--port", port)
    assert done.exit_code == 1
    assert str(port) in done.stderr


@pytest.mark.parametrize("replicas", [(), ("--replicas", 2)])
def test_a_port_file_that_cannot_be_written_is_told_before_anything_is_loaded(
    replicas: tuple[object, ...], package: Path, tmp_path: Path
) -> None:
    for place, why in ((tmp_path / "none" / "port", "No such file or directory"), (tmp_path, "Is a directory")):
        done = tidemill("serve", package, "--port", 0, "--port-file", place, *replicas)
        assert done.exit_code == 2
        assert f"port_file: '{place}' cannot be written ({why})" in done.stderr
        assert '"loaded"' not in done.stderr
        assert '"listening"' not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limit", "nothing=1"], "no such limit; expected one of"),
        (["--limit", "max_rows"], "--limit 'max_rows': expected NAME=NUMBER, as max_rows=1000"),
        (["--limit", "max_rows=0"], "requests.max_rows"),
        (["--tls-cert", "cert.pem"], "tls.key: required, but missing"),
        (["--workers", "0"], "workers"),
        (["--host", ""], "host: expected `str` of length >= 1, got ''"),  # it would be every address there is
    ],
)
def test_wrong_flags_end_with_2_and_name_the_option(flags: list[str], message: str, package: Path) -> None:
    done = tidemill("serve", package, "--port", 0, *flags)
    assert done.exit_code == 2, done.stderr
    assert message in done.stderr


LINGERING = """
import threading
import time


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        threading.Thread(target=time.sleep, args=(600,)).start()

    def predict(self, rows):
        return {"y": rows["x"]}
"""


def test_a_thread_that_a_model_left_running_does_not_keep_the_process(tmp_path: Path) -> None:
    source, port_file = tmp_path / "lingering.py", tmp_path / "port"
    source.write_text(LINGERING)
    package = start("package", source, "--out", tmp_path / "p")
    assert package.communicate(timeout=60)[1] == ""
    assert package.returncode == 0
    process = start("serve", tmp_path / "p", "--port", 0, "--port-file", port_file, "--lame-duck", 0)
    try:
        address(port_file, time.monotonic() + 60)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


LOADING = """
import pathlib

import onnx.parser
import onnxruntime

SOURCE = '<ir_version: 8, opset_import: ["" : 18]> g (float[n] x) => (float[n] y) { y = Identity(x) }'


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        model = onnx.parser.parse_model(SOURCE).SerializeToString()
        while True:
            onnxruntime.InferenceSession(model)
            pathlib.Path("BEGUN").touch()

    def predict(self, rows):
        return {"y": rows["x"]}
"""


def test_what_still_loads_a_model_does_not_abort_the_process(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    source = LOADING.replace("BEGUN", str(begun))
    inputs, outputs = [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")]
    make(tmp_path / "p", "python", source, inputs, outputs)
    process = start("serve", tmp_path / "p", "--port", 0, "--lame-duck", 0)
    until = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < until, "not loading"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    logs = process.communicate(timeout=60)[1]
    assert process.returncode == 0, logs
