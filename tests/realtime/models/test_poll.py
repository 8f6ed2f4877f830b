"""A repository that is looked at while the server runs: new versions, half-copied ones, broken ones, gone ones."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.realtime.http_client import eventually
from tests.realtime.models.repository import answer, half_copied, index, times
from tests.realtime.serving import Served, served
from tidemill.errors import ConfigError
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.options import EndpointOptions, RepositoryOptions

INTERVAL = 0.1


@contextmanager
def polled(root: Path, **options: Any) -> Iterator[Served]:
    repository = RepositoryOptions(directory=str(root), interval=INTERVAL)
    given = ServeOptions(port=0, lame_duck=0.0, grace=5.0, repository=repository, model_control="poll", **options)
    with served([], given) as server:
        yield server


def looks(server: Served, more: int) -> None:
    """Wait until the repository was looked at so many times more."""
    keeper = server.server.service.control._keeper
    seen: list[object] = []

    def look() -> bool:
        if not any(keeper._found is one for one in seen):
            seen.append(keeper._found)
        return len(seen) > more

    eventually(look)


def test_a_new_version_is_taken_and_a_version_that_goes_is_let_go(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "9", 9.0)
    with polled(tmp_path) as server:
        assert answer(server, "fraud") == ("9", 9.0)
        times(tmp_path, "fraud", "10", 10.0)
        eventually(lambda: answer(server, "fraud") == ("10", 10.0))
        eventually(lambda: index(server)["fraud", "9"] == ("UNAVAILABLE", "not asked for"))
        shutil.rmtree(tmp_path / "fraud" / "10")
        eventually(lambda: answer(server, "fraud") == ("9", 9.0))
        times(tmp_path, "another", "1", 1.0)
        eventually(lambda: server.get("/v2/models/another/ready").status_code == 200)
        shutil.rmtree(tmp_path / "fraud")
        eventually(lambda: server.get("/v2/models/fraud").status_code == 404)
        assert answer(server, "another") == ("1", 1.0)


def test_a_half_copied_version_is_waited_for(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    times(root, "fraud", "1", 1.0)
    whole = times(elsewhere, "fraud", "2", 2.0)
    with polled(root) as server:
        target = root / "fraud" / "2"
        half_copied(whole, target, ["model.py"])
        eventually(lambda: "no model.toml" in index(server).get(("fraud", "2"), ("", ""))[1])
        shutil.rmtree(target)
        half_copied(whole, target, ["model.py", "model.toml"])
        eventually(lambda: index(server).get(("fraud", "2"), ("", ""))[0] == "UNAVAILABLE")
        shutil.rmtree(target)
        half_copied(whole, target, ["model.toml", "model.py"])
        eventually(lambda: "its SHA-256 is" in index(server).get(("fraud", "2"), ("", ""))[1])
        assert answer(server, "fraud") == ("1", 1.0)
        shutil.copy(whole / "model.py", target / "model.py")
        eventually(lambda: answer(server, "fraud") == ("2", 2.0))


def test_a_corrupt_version_does_not_keep_a_server_from_starting(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    (times(tmp_path, "fraud", "2", 2.0) / "model.py").write_text("other")
    with polled(tmp_path) as server:
        assert server.get("/v2/health/ready").status_code == 200
        assert answer(server, "fraud") == ("1", 1.0)
        assert "its SHA-256 is" in index(server)["fraud", "2"][1]
        looks(server, 3)
        assert answer(server, "fraud") == ("1", 1.0)


RAISES = """
class Model:
    inputs = {"x": ("FP64", [-1]), "seconds": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}

    def load(self, directory):
        raise OSError("no licence for FACTOR")

    def predict(self, rows):
        return {"y": rows["x"]}
"""


def test_a_version_that_cannot_be_loaded_is_tried_once(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    with polled(tmp_path) as server:
        times(tmp_path, "fraud", "2", 2.0, source=RAISES)
        eventually(lambda: "no licence for 2.0" in index(server).get(("fraud", "2"), ("", ""))[1])
        before = server.server.models.endpoints
        looks(server, 3)
        assert server.server.models.endpoints is before, "nothing was swapped"
        assert answer(server, "fraud") == ("1", 1.0)


def test_a_version_overwritten_with_rubbish_is_served_from_memory(tmp_path: Path) -> None:
    there = times(tmp_path, "fraud", "1", 1.0)
    with polled(tmp_path) as server:
        (there / "model.py").write_text("rubbish")
        eventually(lambda: index(server)["fraud", "1"] == ("READY", ""))
        looks(server, 4)
        assert answer(server, "fraud") == ("1", 1.0)


def test_directories_that_are_no_models(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "other", "1", 1.0).rename(tmp_path / "fraud" / "2")
    times(tmp_path, "fraud", "7", 1.0).rename(tmp_path / "fraud" / "8")
    (tmp_path / ".staging" / "1").mkdir(parents=True)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "README").write_text("a file")
    (tmp_path / "empty").mkdir()
    with polled(tmp_path) as server:
        assert answer(server, "fraud") == ("1", 1.0)
        found = index(server)
    assert set(found) == {("fraud", "1"), ("fraud", "2"), ("fraud", "8")}
    assert "the package's name is 'other'" in found["fraud", "2"][1]
    assert "the package's version is '7'" in found["fraud", "8"][1]


def test_a_package_may_be_its_models_only_version(tmp_path: Path) -> None:
    times(tmp_path / "elsewhere", "fraud", "4", 4.0).rename(tmp_path / "fraud")
    shutil.rmtree(tmp_path / "elsewhere")
    with polled(tmp_path) as server:
        assert answer(server, "fraud") == ("4", 4.0)
        new = times(tmp_path / "elsewhere", "fraud", "5", 5.0)
        (tmp_path / "fraud").rename(tmp_path / "elsewhere" / "old")
        new.rename(tmp_path / "fraud")
        eventually(lambda: answer(server, "fraud")[0] == "5")


def test_versions_by_policy_and_by_name(tmp_path: Path) -> None:
    for version in ("1", "2", "3", "10"):
        times(tmp_path, "fraud", version, float(version))
    endpoints = {"fraud": EndpointOptions(versions="2..9", default="champion")}
    with polled(tmp_path, endpoints=endpoints, aliases={"fraud": {"champion": "1"}}) as server:
        assert server.get("/v2/models/fraud").json()["versions"] == ["1", "2", "3"]
        assert answer(server, "fraud") == ("1", 1.0)
        assert answer(server, "fraud/versions/3") == ("3", 3.0)
        assert server.get("/v2/models/fraud/versions/10").status_code == 404


def test_a_version_that_an_alias_means_is_kept_and_the_rest_is_tried_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    with polled(tmp_path, aliases={"fraud": {"champion": "1"}}) as server:
        times(tmp_path, "fraud", "2", 2.0)
        shutil.rmtree(tmp_path / "fraud" / "1")
        eventually(lambda: [one for one in caplog.records if one.message == "not served"])
        looks(server, 4)
        (said,) = [one for one in caplog.records if one.message == "not served"]
        assert "aliases.champion: there is no version '1'; expected one of 2" in said.reason  # type: ignore[attr-defined]
        assert answer(server, "fraud@champion") == ("1", 1.0)
        times(tmp_path, "fraud", "1", 10.0)
        eventually(lambda: answer(server, "fraud@champion") == ("1", 10.0))
        assert answer(server, "fraud") == ("2", 2.0)


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"repository .*/nowhere: No such file or directory"),
        polled(tmp_path / "nowhere"),
    ):
        pass
