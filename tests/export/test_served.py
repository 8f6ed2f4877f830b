"""What is exported is served: the server starts by it and answers, only its addresses and places are the test's."""

import re
import signal
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.cli.support import start, tidemill


def exported(kind: str, package: Path, out: Path) -> str:
    """The `server.toml` of that export."""
    more = ["--image", "i", "--concurrency", "1"] if kind == "kubernetes" else []
    done = tidemill("export", kind, package, "--out", out, *more)
    assert done.exit_code == 0, done.output
    if kind == "kubernetes":
        text: str = yaml.safe_load((out / "configmap.yaml").read_text())["data"]["server.toml"]
        return text
    return (out / {"container": "server.toml", "systemd": "tabular.toml"}[kind]).read_text()


@pytest.mark.parametrize("kind", ["container", "kubernetes", "systemd"])
def test_a_server_starts_by_what_is_exported(tmp_path, package, kind):
    text = exported(kind, package, tmp_path / "out")
    models = tmp_path / "models" / "tabular"
    models.mkdir(parents=True)
    (models / "1").symlink_to(package)
    text = text.replace("/var/lib/tabular", str(tmp_path / "state")).replace("/models/", f"{tmp_path}/models/")
    text = text.replace('"0.0.0.0"', '"127.0.0.1"').replace("lame_duck = 5.0", "lame_duck = 0.0")
    text = re.sub(r"port = \d+", "port = 0", text)
    (tmp_path / "state").mkdir()
    (tmp_path / "server.toml").write_text(text)
    file = tmp_path / "port"
    with start("serve", tmp_path / "server.toml", "--port", "0", "--port-file", file) as server:
        try:
            while not file.exists():
                assert server.poll() is None, server.communicate()[1]
                time.sleep(0.02)
            url = f"http://{file.read_text().strip()}"
            assert httpx.get(f"{url}/v2/health/ready").status_code == 200
            body = {"rows": [{"age": 41, "city": "Bern", "income": 1000.0}]}
            answer = httpx.post(f"{url}/v2/models/tabular/infer", json=body).json()
            assert answer["outputs"][0]["data"] == [46.0]
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == 0, log
    assert ('"event":"management"' in log) == (kind != "systemd"), "those that a platform probes and scrapes"
