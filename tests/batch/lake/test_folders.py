"""`files:`: every file of a directory is a row; one that changes afterwards is refused; millions stay a small plan."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from tests.batch.support import read_output
from tests.packages import make
from tidemill.batch import ScoreOptions, score
from tidemill.batch.sources import listing
from tidemill.errors import ConfigError, RunError, SourceError, TidemillError
from tidemill.model.signature import Input, Output

SIZES = """
import numpy as np

class Model:
    inputs = {"%s": ("BYTES", [-1])}
    outputs = {"size": ("INT64", [-1]), "first": ("BYTES", [-1])}

    def predict(self, rows):
        values = rows["%s"]
        return {"size": np.array([len(v) for v in values], "i8"), "first": np.array([v[:1] for v in values], object)}
"""


def sizes(directory: Path, name: str, *, binary: bool) -> Path:
    """A model that tells the length of each content, and its first byte or letter."""
    inputs = [Input(name=name, datatype="BYTES", binary=binary)]
    outputs = [Output(name="size", datatype="INT64"), Output(name="first", datatype="BYTES", binary=binary)]
    return make(directory, "python", SIZES % (name, name), inputs, outputs).directory


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sizes(tmp_path_factory.mktemp("images") / "p", "bytes", binary=True)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sizes(tmp_path_factory.mktemp("texts") / "p", "text", binary=False)


def tree(root: Path, n: int, suffix: str = ".jpg") -> dict[str, bytes]:
    """n files in three directories, with a hidden one and one of another kind beside them."""
    files = {f"{'abc'[i % 3]}/f{i:05d}{suffix}": bytes([i % 251]) * (i % 97) for i in range(n)}
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / f".hidden{suffix}").write_bytes(b"x")
    os.mkfifo(root / "b" / f"pipe{suffix}")
    (root / "_trash").mkdir()
    (root / "_trash" / f"gone{suffix}").write_bytes(b"x")
    return files


def test_every_file_is_a_row(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.batch.lake.folders._LISTING_ROWS", 100)
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 70)
    monkeypatch.setattr("tidemill.batch.sources.listing._UNIT_ROWS", 10)
    files = tree(tmp_path / "in", 250)
    report = score(images, f"files:{tmp_path}/in?glob=*.jpg", tmp_path / "out", ScoreOptions(pass_through=("path",)))
    found = read_output(tmp_path / "out").to_pydict()
    assert dict(zip(found["path"], zip(found["size"], found["first"], strict=True), strict=True)) == {
        name: (len(data), data[:1]) for name, data in files.items()
    }
    assert found["path"] == sorted(files)
    assert (report.read, report.written, report.dead, report.files) == (250, 250, 0, 3)
    assert report.shards > 3
    origin = json.loads(Path(report.manifest).read_bytes())["plan"]["origin"]
    assert (origin["kind"], origin["read"]["files"]) == ("files", "250")
    assert origin["read"]["bytes"] == str(sum(map(len, files.values())))


def test_a_million_files_would_be_a_small_plan(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan keeps of a file is its share of a listing."""
    monkeypatch.setattr("tidemill.batch.lake.folders._LISTING_ROWS", 1000)
    (tmp_path / "in").mkdir()
    for i in range(2500):
        (tmp_path / "in" / f"{i:06d}.jpg").touch()
    report = score(images, f"files:{tmp_path}/in", tmp_path / "out", ScoreOptions(chunk_rows=4096))
    assert (report.read, report.files) == (2500, 3)
    assert Path(report.manifest).stat().st_size < 10_000


def test_a_content_may_be_called_as_the_model_calls_it(tmp_path: Path) -> None:
    package = sizes(tmp_path / "p", "image", binary=True)
    tree(tmp_path / "in", 9)
    score(package, f"files:{tmp_path}/in?glob=*.jpg&bytes=image", tmp_path / "out.parquet")
    assert read_output(tmp_path / "out.parquet")["size"].to_pylist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_text_that_is_not_utf8_is_a_dead_letter_with_its_path(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("äb")
    (tmp_path / "in" / "b.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "in" / "c.txt").write_text("")
    report = score(texts, f"files:{tmp_path}/in?text=text", tmp_path / "out", ScoreOptions(pass_through=("path",)))
    assert (report.read, report.written, report.errors) == (3, 2, {"null": 1})
    assert read_output(tmp_path / "out").to_pydict() == {"path": ["a.txt", "c.txt"], "size": [2, 0], "first": ["ä", ""]}
    [letter] = pl.read_parquet(tmp_path / "out" / "_tidemill" / "dead" / "*.parquet").to_dicts()
    assert (letter["path"], letter["_code"], letter["_field"]) == ("b.txt", "null", "text")


@pytest.fixture
def interrupted(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ScoreOptions]:
    """A run of twelve files, each a shard, that ended before it read those of the third directory."""
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1)
    monkeypatch.setattr("tidemill.batch.sources.listing._UNIT_ROWS", 1)
    tree(tmp_path / "in", 12)
    source, options = f"files:{tmp_path}/in?glob=*.jpg", ScoreOptions(run_id="r1", workers=1, pass_through=("path",))
    content = listing._content

    def cut(root: str, row: dict[str, object], wanted: bool) -> bytes:
        if str(row["path"]).startswith("c/"):
            raise RunError("cut")
        return content(root, row, wanted)

    with monkeypatch.context() as patch:
        patch.setattr("tidemill.batch.sources.listing._content", cut)
        with pytest.raises(RunError, match="cut"):
            score(images, source, tmp_path / "out", options)
    (tmp_path / "in" / "new.jpg").write_bytes(b"it came after the run was planned")
    return source, options


@pytest.mark.parametrize("change", ["longer", "touched", "gone"])
def test_a_file_changed_before_a_resume_is_refused(
    images: Path, tmp_path: Path, interrupted: tuple[str, ScoreOptions], change: str
) -> None:
    last = tmp_path / "in" / "c" / "f00011.jpg"
    if change == "longer":
        last.write_bytes(last.read_bytes() + b"x")
    elif change == "touched":
        os.utime(last, ns=(1, 1))
    else:
        last.unlink()
    with pytest.raises(SourceError, match=r"c/f00011\.jpg: (was changed after|cannot be read: No such)"):
        score(images, interrupted[0], tmp_path / "out", interrupted[1])
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on_with_the_files_it_began_with(
    images: Path, tmp_path: Path, interrupted: tuple[str, ScoreOptions]
) -> None:
    report = score(images, interrupted[0], tmp_path / "out", interrupted[1])
    assert report.resumed_shards == 8
    assert read_output(tmp_path / "out")["path"].to_pylist() == [
        f"{'abc'[i % 3]}/f{i:05d}.jpg" for i in (0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11)
    ]


@pytest.mark.parametrize(
    ("uri", "error", "told"),
    [
        ("files:{}/nowhere", SourceError, "no such directory"),
        ("files:{}/in?glob=*.png", SourceError, r"holds no files like \*\.png"),
        ("files:{}/in?columns=x", ConfigError, "unknown option columns; expected glob, bytes, text"),
        ("files:{}/in?bytes=path", ConfigError, "bytes and text need names of their own"),
        ("files:{}/in?bytes=x&text=x", ConfigError, "bytes and text need names of their own"),
        ("files:{}/in?bytes=other", SourceError, "column 'bytes' is missing; it has path, other"),
    ],
)
def test_what_cannot_be_understood(
    images: Path, tmp_path: Path, uri: str, error: type[TidemillError], told: str
) -> None:
    tree(tmp_path / "in", 3)
    with pytest.raises(error, match=told):
        score(images, uri.format(tmp_path), tmp_path / "out")


def test_links_that_lead_back_are_not_followed(images: Path, tmp_path: Path) -> None:
    tree(tmp_path / "in", 6)
    (tmp_path / "in" / "a" / "back").symlink_to(tmp_path / "in")
    assert score(images, f"files:{tmp_path}/in?glob=*.jpg", tmp_path / "out").read == 6
