"""Renames that publish: a taken name is left alone, two are swapped at once, and what cannot be done is said."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidemill.renames import exchange, rename_new, write_whole


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two directories, each of which holds its own name."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    return tmp_path / "a", tmp_path / "b"


def held(directory: Path) -> dict[str, str]:
    return {p.name: (p / "is").read_text() for p in directory.iterdir()}


def test_exchange_swaps_two_directories(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert exchange(*two)
    assert held(tmp_path) == {"a": "b", "b": "a"}


def test_exchange_with_what_is_not_there_says_so_and_does_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange(two[0], tmp_path / "c")
    assert held(tmp_path) == {"a": "a", "b": "b"}


@pytest.mark.parametrize("known", [True, False], ids=["by the kernel", "where the file system cannot"])
def test_rename_new_takes_a_free_name_only(
    two: tuple[Path, Path], tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setattr("tidemill.renames._renameat2", lambda old, new, flags: errno.EINVAL)
    with pytest.raises(FileExistsError):
        rename_new(*two)
    assert held(tmp_path) == {"a": "a", "b": "b"}
    rename_new(two[0], tmp_path / "c")
    assert held(tmp_path) == {"b": "b", "c": "a"}


def test_a_file_system_without_exchange_is_told_and_left_as_it_was(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.renames._renameat2", lambda old, new, flags: errno.ENOTSUP)
    assert not exchange(*two)
    assert held(tmp_path) == {"a": "a", "b": "b"}


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "a"
    for data in (b"first", b"second\n"):
        write_whole(place, data)
        assert place.read_bytes() == data
    assert list(tmp_path.iterdir()) == [place]


def test_threads_that_write_one_file_do_not_meet_aside(tmp_path: Path) -> None:
    place = tmp_path / "a"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: write_whole(place, bytes([n]) * 1000), range(200)))
    assert len(set(place.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [place]
