"""What a keeper desires, look by look, without a server."""

import shutil
from pathlib import Path

import pytest

from tests.realtime.models.repository import times
from tidemill.errors import ConfigError, OutOfMemory, PackageError
from tidemill.realtime import ServeOptions
from tidemill.realtime.models.control import Load, Traffic, Unload
from tidemill.realtime.models.keeper import Keeper
from tidemill.realtime.models.options import EndpointOptions, RepositoryOptions, ShadowOptions, SplitOptions
from tidemill.realtime.security.options import Rate, RateLimits


def keeper(root: Path, **options: object) -> Keeper:
    made = Keeper(ServeOptions(repository=RepositoryOptions(directory=str(root)), **options))  # type: ignore[arg-type]
    made.begin()
    made.applied(made.desired(), {})
    return made


def versions(one: Keeper) -> list[str]:
    return [wanted.version for wanted in one.desired().models]


def test_what_is_still_being_written_is_not_taken(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    times(root, "fraud", "1", 1.0)
    whole = times(tmp_path, "fraud", "2", 2.0)
    one = keeper(root)
    target = root / "fraud" / "2"
    target.mkdir()
    shutil.copy(whole / "model.toml", target / "model.toml")
    for size in range(5):
        (target / "model.py").write_bytes((whole / "model.py").read_bytes()[:size])
        one.look(twice=True)
        assert versions(one) == ["1"]
        assert "changed just now" in {s.version: s.reason for s in one.states()}["2"]
    shutil.copy(whole / "model.py", target / "model.py")
    one.look(twice=True)
    assert versions(one) == ["1"]
    one.look(twice=True)
    assert versions(one) == ["2"]


def test_a_directory_renamed_away_is_missed_only_after_two_looks(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    times(root, "fraud", "1", 1.0)
    one = keeper(root)
    (root / "fraud").rename(tmp_path / "away")
    one.look(twice=True)
    assert versions(one) == ["1"]
    (tmp_path / "away").rename(root / "fraud")
    one.look(twice=True)
    one.look(twice=True)
    assert versions(one) == ["1"]
    shutil.rmtree(root / "fraud")
    one.look(twice=True)
    one.look(twice=True)
    assert versions(one) == []


def test_what_failed_is_tried_again_once_it_changed(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    one = keeper(tmp_path)
    there = times(tmp_path, "fraud", "2", 2.0)
    one.look()
    assert versions(one) == ["2"]
    assert one.applied(one.desired(), {("fraud", "2"): PackageError("it cannot")}), "another state is to be tried"
    assert versions(one) == ["1"]
    one.look()
    assert versions(one) == ["1"]
    assert {s.version: s.reason for s in one.states()}["2"] == "it cannot"
    (there / "model.py").touch()
    one.look()
    assert versions(one) == ["2"]


def test_what_found_no_room_is_tried_again_once_anything_changed(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "other", "1", 1.0)
    one = keeper(tmp_path)
    times(tmp_path, "fraud", "2", 2.0)
    one.look()
    one.applied(one.desired(), {("fraud", "2"): OutOfMemory("no room")})
    one.look()
    assert ("fraud", "1") in {(w.name, w.version) for w in one.desired().models}
    shutil.rmtree(tmp_path / "other")
    one.look()
    assert [(w.name, w.version) for w in one.desired().models] == [("fraud", "2")]


def test_a_model_whose_every_version_is_broken_now_stays_as_it_is(tmp_path: Path) -> None:
    there = times(tmp_path, "fraud", "1", 1.0)
    one = keeper(tmp_path)
    served = one.desired()
    (there / "model.toml").write_text("format = 1\nrubbish")
    one.look()
    assert one.desired() == served


def test_versions_that_are_named_are_served_beside_those_of_the_policy(tmp_path: Path) -> None:
    for version in "12345":
        times(tmp_path, "fraud", version, 1.0)
    endpoints = {
        "fraud": EndpointOptions(
            split=SplitOptions(weights={"5": 9, "4": 1}), shadow=ShadowOptions(version="3"), default="champion"
        )
    }
    one = keeper(tmp_path, endpoints=endpoints, aliases={"fraud": {"champion": "1"}})
    assert versions(one) == ["1", "3", "4", "5"]


def test_only_what_was_asked_for_is_explicit(tmp_path: Path) -> None:
    times(tmp_path, "fraud", "1", 1.0)
    times(tmp_path, "fraud", "2", 1.0)
    one = keeper(tmp_path, model_control="explicit")
    assert versions(one) == []
    one.change(Load(name="fraud", versions="all"))
    assert versions(one) == ["1", "2"]
    one.change(Traffic(name="fraud", split=SplitOptions(weights={"1": 1})))
    assert one.desired().endpoints["fraud"].split == SplitOptions(weights={"1": 1})
    assert versions(one) == ["1", "2"], "a change of traffic changes no versions"
    one.change(Unload(name="fraud"))
    assert one.desired().models == ()


def test_one_model_in_two_places_is_refused(tmp_path: Path) -> None:
    times(tmp_path / "repository", "fraud", "1", 1.0)
    given = times(tmp_path, "fraud", "2", 1.0)
    options = ServeOptions(repository=RepositoryOptions(directory=str(tmp_path / "repository")))
    with pytest.raises(ConfigError, match="fraud is given and in the repository, too"):
        Keeper(options, [given]).begin()


def test_tables_of_models_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    given = times(tmp_path, "fraud", "2", 1.0)
    options = ServeOptions(endpoints={"froud": EndpointOptions()}, aliases={"fruad": {"champion": "2"}})
    with pytest.raises(ConfigError) as error:
        Keeper(options, [given]).begin()
    assert error.value.problems == ("aliases.fruad: there is no such model", "endpoints.froud: there is no such model")
    limited = ServeOptions(rate_limits=RateLimits(endpoints={"fraud": Rate(), "froud": Rate()}))
    with pytest.raises(ConfigError, match=r"^rate_limits\.endpoints\.froud: there is no such model\Z"):
        Keeper(limited, [given]).begin()
    several = ServeOptions(endpoints={"fraud": EndpointOptions(versions="1..2")})
    with pytest.raises(ConfigError, match=r"endpoints\.fraud\.versions: it picks from a repository"):
        Keeper(several, [given]).begin()
    with pytest.raises(ConfigError, match="nothing to serve"):
        Keeper(ServeOptions()).begin()
