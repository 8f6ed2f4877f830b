"""`server.toml`: what it says is served, flags replace single fields, and what is wrong is told all at once."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.support import start, tidemill
from tests.realtime.models.repository import times
from tests.realtime.serving import served
from tidemill.errors import ConfigError
from tidemill.realtime.server_file import read_options

FILE = """
packages = ["packages/churn/1"]
model_control = "poll"
grace = 5.0
lame_duck = 0.0
max_model_memory = 1_000_000_000

[repository]
directory = "repository"
interval = 0.5

[aliases.fraud]
champion = "1"

[endpoints.fraud]
versions = "all"
default = "champion"
timeout = 0.2
p99 = 0.05
max_rows = 2

[endpoints.fraud.batching]
workers = 1
max_queue_rows = 10

[endpoints.fraud.split]
weights = { champion = 9, "2" = 1 }
by = "key"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    times(tmp_path / "packages", "churn", "1", 5.0)
    times(tmp_path / "repository", "fraud", "1", 1.0)
    times(tmp_path / "repository", "fraud", "2", 2.0)
    (tmp_path / "server.toml").write_text(FILE)
    return tmp_path / "server.toml"


def test_what_a_file_says_is_served(file: Path) -> None:
    with served([], read_options(file, {"port": 0})) as server:
        assert server.get("/v1/models").json() == {"models": ["churn", "fraud"]}
        one = server.server.models.endpoints.find("fraud")
        assert (one.version, one.slo, one.timeout, one.batched.limits.max_queue_rows) == ("1", 0.05, 0.2, 10)
        rows = [{"x": 1.0, "seconds": 0.0}]
        assert server.infer("fraud", rows=rows * 3).status_code == 413
        assert server.infer("churn", rows=rows * 3).status_code == 200
        assert server.infer("fraud", rows=[{"x": 1.0, "seconds": 5.0}]).status_code in (429, 504), "its own deadline"


def test_flags_replace_single_fields(file: Path) -> None:
    plain = read_options(file, {})
    flags = {"grace": 7.0, "port": 0, "repository": {"interval": 3.0}}
    options = read_options(file, flags)
    assert (plain.grace, options.grace, options.lame_duck) == (5.0, 7.0, 0.0)
    assert options.repository is not None
    assert options.repository.interval == 3.0
    assert options.repository.directory == str(file.parent / "repository")
    assert options.packages == (str(file.parent / "packages/churn/1"),)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "port": "99_999",
        "packages": "[1]",
        "model_control": '"sometimes"',
        "repository": "{ directory = '', intervall = 3 }",
        "endpoints": '{ fraud = { versions = 3, workers = 0, split = { weights = { "1" = -1 } } } }',
        "colour": '"red"',
    }
    file = tmp_path / "server.toml"
    file.write_text("\n".join(f"{key} = {value}" for key, value in wrong.items()))
    with pytest.raises(ConfigError) as error:
        read_options(file, {})
    told = error.value.problems
    for path in (
        "port",
        "packages[0]",
        "model_control",
        "repository.directory",
        "repository.intervall",
        "endpoints.fraud.versions",
        "endpoints.fraud.workers",
        "endpoints.fraud.split.weights.1",
        "colour",
    ):
        assert any(problem.startswith(f"server.toml: {path}: ") for problem in told), (path, told)


def test_a_policy_of_versions_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('[endpoints.fraud]\nversions = "newest"')
    with pytest.raises(ConfigError, match=r"server.toml: endpoints\.fraud: versions: expected latest, latest:N, all"):
        read_options(tmp_path / "server.toml", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [("port = ", "server.toml: Invalid value"), ("x" * 10, "server.toml: "), ("a = 1\na = 2", "server.toml: ")],
)
def test_a_file_that_is_no_toml_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_options(tmp_path / "server.toml", {})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.toml: no such file"):
        read_options(tmp_path / "server.toml", {})


def test_tables_that_contradict_each_other_are_told_with_their_path(file: Path) -> None:
    file.write_text(FILE.replace("max_queue_rows = 10", "preferred_rows = [4096]"))
    with pytest.raises(ConfigError, match=r"endpoints\.fraud\.batching\.preferred_rows: 4096 is above max_rows"):
        read_options(file, {}).check()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model_control = "poll"', r'^model_control: "poll" looks at a repository'),
        ('repository = { directory = ".", load = ["fraud"] }', r'^repository\.load: only model_control = "explicit"'),
        ("rate_limits.default.requests = 5", r"^rate_limits: without auth or tls\.client_ca nobody is known"),
        ("grace = inf", r"grace: expected `float` <= 1000000\.0, got inf"),
        ('host = "a\\u0000b"', "host: expected `str` matching"),
        ('management = { host = "a b" }', r"management\.host: expected `str` matching"),
    ],
)
def test_what_cannot_be_meant_is_told(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_options(tmp_path / "server.toml", {}).check()


def test_the_command_takes_a_file(file: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    server = start("serve", file, "--port", 0, "--port-file", port_file)
    try:
        lines = iter(server.stderr.readline, "")
        ready = next(line for line in map(json.loads, lines) if line["event"] == "ready")
        assert ready["models"] == ["churn", "fraud"]
        assert httpx.get(f"http://{port_file.read_text().strip()}/v2/health/ready", timeout=60).status_code == 200
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to serve: give a package, or a repository"),
        (["a.toml", "b.toml"], "b.toml: there is a file already (a.toml); give one"),
        (["--repository", "nowhere"], "repository nowhere: No such file or directory"),
        (["--model-control", "always"], "model_control: expected one of 'none', 'poll', 'explicit', got 'always'"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
    ],
)
def test_commands_that_cannot_be_meant(arguments: list[Any], said: str) -> None:
    done = tidemill("serve", *arguments, "--port", 0)
    assert done.exit_code == 2, done.stderr
    assert said in done.stderr
