"""The unit: accepted and judged by systemd's own tools, and a server that tells a manager what it waits for."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import PROGRAM, tidemill
from tidemill.config import load_toml
from tidemill.errors import ConfigError
from tidemill.export import Host, read_site, systemd
from tidemill.realtime import ServeOptions
from tidemill.realtime.notify import notify

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


@pytest.fixture
def unit(tmp_path: Path, server_toml: Path) -> Path:
    program = tmp_path / "opt" / "bin" / "tidemill"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    more = ["--name", "churn", "--cpu", "1.5", "--memory", "4G", "--program", program]
    done = tidemill("export", "systemd", server_toml, "--out", tmp_path / "unit", *more)
    assert done.exit_code == 0, done.output
    return tmp_path / "unit" / "churn.service"


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(ANALYZE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
def test_systemd_accepts_the_unit_and_finds_a_planted_fault(unit):
    found = analyze("verify", unit)
    assert (found.returncode, found.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=strickt"))
    assert "Failed to parse protect system value" in analyze("verify", unit).stderr


@needs_systemd
def test_little_is_left_to_break_out_with(unit):
    """Of 10; systemd calls 2 and less safe. What is missing is a network of its own."""
    assert analyze("security", "--offline=true", "--threshold=20", unit).returncode == 0
    unit.write_text(unit.read_text().replace("PrivateUsers=yes\n", "").replace("CapabilityBoundingSet=\n", ""))
    assert analyze("security", "--offline=true", "--threshold=20", unit).returncode != 0


def test_times_limits_and_secrets_are_those_of_the_options(unit, server_toml):
    lines = unit.read_text().splitlines()
    assert "TimeoutStopSec=27" in lines, "2 s lame duck, 20 s grace, and 5"
    assert "TimeoutStartSec=600" in lines
    assert "MemoryMax=4G" in lines
    assert "CPUQuota=150%" in lines
    assert f"LoadCredential=tls.key:{server_toml.parent}/server.key" in lines
    options = load_toml(unit.with_name("churn.toml"), ServeOptions)
    assert options.tls is not None
    assert options.tls.key == "/run/credentials/churn.service/tls.key"
    assert options.replicas is not None
    assert options.replicas.most == 12
    assert options.packages == (str(server_toml.parent / "tabular"),)


def test_what_systemd_hides_is_shown_to_the_service(server_toml):
    text = systemd(read_site(server_toml, "churn"), Host(program=Path("/home/some/venv/bin/tidemill")))
    assert "BindReadOnlyPaths=/home/some/venv\n" in text["churn.service"]
    assert "/home/some/venv/bin/tidemill serve /etc/tidemill/churn.toml" in text["churn.service"]


def test_a_path_that_no_unit_can_name_is_refused(server_toml):
    with pytest.raises(ConfigError, match="a unit cannot name it"):
        systemd(read_site(server_toml, "churn"), Host(program=Path("/opt/my venv/bin/tidemill")))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", "2Gi"], "memory: expected bytes as systemd writes them"),
        (["--memory", "2G\nUser=root"], "memory: expected bytes as systemd writes them"),
        (["--cpu", "nan"], "expected a number of cores above 0"),
    ],
)
def test_what_no_unit_can_say_is_refused(tmp_path, package, arguments, says):
    done = tidemill("export", "systemd", package, "--out", tmp_path / "u", *arguments)
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize("replicas", [[], ["--replicas", "2", "--balancer", "socket"]], ids=["one", "two"])
def test_a_manager_hears_of_ready_and_stopping(tmp_path, package, replicas):
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        command = [*PROGRAM, "serve", str(package), "--port", "0", "--lame-duck", "0", *replicas]
        environment = {"NOTIFY_SOCKET": str(address), "PYTHONPATH": ":".join(sys.path)}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as server:
            try:
                assert manager.recv(100) == b"READY=1"
                server.send_signal(signal.SIGTERM)
                assert manager.recv(100) == b"STOPPING=1"
                assert server.wait(30) == 0
            finally:
                server.kill()


def test_nobody_to_tell_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0tidemill-test-notify")
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@tidemill-test-notify")
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
