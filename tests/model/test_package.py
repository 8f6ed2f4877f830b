"""A package on disk: whole or absent, and refused with the file's name once anything in it was touched."""

import os
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tidemill.errors import ConfigError, IntegrityError, PackageError
from tidemill.model.manifest import Manifest, RuntimeSpec, Slo
from tidemill.model.package import Package, open_package, write_package
from tidemill.model.signature import Input, Output

MANIFEST = Manifest(
    format=1,
    name="m",
    version="1",
    runtime=RuntimeSpec(name="python", artifact="model.py"),
    inputs=(Input(name="x", datatype="FP32"),),
    outputs=(Output(name="y", datatype="FP32"),),
)


def fill(stage: Path) -> None:
    (stage / "model.py").write_text("x = 1\n")
    (stage / "data").mkdir()
    (stage / "data" / "weights.txt").write_text("2\n")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write_package(tmp_path / "m", MANIFEST, fill)


def test_what_is_written_opens_and_is_the_same(package: Package) -> None:
    opened = open_package(package.directory)
    assert opened == package
    assert sorted(opened.manifest.files) == ["data/weights.txt", "model.py"]
    assert opened.path("data/weights.txt").read_text() == "2\n"
    assert [p.name for p in package.directory.parent.iterdir()] == ["m"]


def change(path: Path) -> None:
    path.write_text("x = 2\n")


def add(path: Path) -> None:
    path.with_name("extra.py").write_text("")


def link_out(path: Path) -> None:
    outside = path.parent.parent / "outside.py"
    outside.write_text("x = 1\n")
    path.unlink()
    path.symlink_to(outside)


def link_within(path: Path) -> None:
    path.rename(path.with_name("real.py"))
    path.symlink_to("real.py")


def link_directory(path: Path) -> None:
    outside = path.parent.parent / "code"
    outside.mkdir()
    (path.parent / "helpers").symlink_to(outside)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("touch", "told"),
    [
        (change, r"m/model\.py: its SHA-256 is .*the file was changed after packaging"),
        (Path.unlink, r"m/model\.py: named in model\.toml, but missing"),
        (add, r"m/extra\.py: not named in model\.toml"),
        (link_out, r"m/model\.py: not a plain file"),
        (link_within, r"m/real\.py: not named in model\.toml"),
        (link_directory, r"m/helpers: not named in model\.toml"),
        (pipe, r"m/model\.py: not a plain file"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_a_touched_file_is_refused_by_name(package: Package, touch: Callable[[Path], None], told: str) -> None:
    touch(package.path("model.py"))
    with pytest.raises(IntegrityError, match=told):
        open_package(package.directory)


def test_a_linked_directory_of_files_is_not_entered(package: Package) -> None:
    data = package.path("data")
    data.rename(package.directory.parent / "elsewhere")
    data.symlink_to(package.directory.parent / "elsewhere")
    with pytest.raises(IntegrityError, match=r"m/data/weights\.txt: named in model\.toml, but missing"):
        open_package(package.directory)


def test_a_signature_file_is_no_extra_file(package: Package) -> None:
    package.path("model.sig").write_text("{}")
    open_package(package.directory)


def test_no_package_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"not a model package \(no model\.toml\); make one with"):
        open_package(tmp_path)


def test_an_existing_target_is_kept(package: Package) -> None:
    with pytest.raises(PackageError, match="exists; choose another --out, or pass --overwrite"):
        write_package(package.directory, MANIFEST, fill)
    assert open_package(package.directory) == package


def test_what_is_no_package_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PackageError, match="is not a model package; it is left alone"):
        write_package(tmp_path / "thesis", MANIFEST, fill, overwrite=True)
    with pytest.raises(PackageError, match="is a file; choose another --out"):
        write_package(tmp_path / "file", MANIFEST, fill, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_failing_writer_leaves_nothing_and_changes_nothing(package: Package) -> None:
    def fails(stage: Path) -> None:
        (stage / "model.py").write_text("x = 3\n")
        raise OSError("disk full")

    def forgets(stage: Path) -> None:
        (stage / "other.py").write_text("")

    for target, writer, error in (
        (package.directory, fails, OSError),
        (package.directory, forgets, ConfigError),
        (package.directory.with_name("new"), fails, OSError),
    ):
        with pytest.raises(error):
            write_package(target, MANIFEST, writer, overwrite=True)
    assert open_package(package.directory) == package
    assert [p.name for p in package.directory.parent.iterdir()] == ["m"]


def test_what_has_its_default_is_not_written(tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(MANIFEST, slo=Slo(), requirements=())
    package = write_package(tmp_path / "m", manifest, fill)
    found = tomllib.loads((package.directory / "model.toml").read_text())
    assert found.keys() == {"format", "name", "version", "runtime", "inputs", "outputs", "files"}
    assert open_package(package.directory) == package


def test_overwriting_never_leaves_a_reader_without_a_package(package: Package) -> None:
    """A reader that lists the directory's parent as fast as it can always finds the target there."""
    done = threading.Event()
    absent: list[int] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        while not done.is_set():
            looks += 1
            if not package.directory.exists():
                absent.append(looks)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for version in range(2, 42):
            write_package(
                package.directory, msgspec.structs.replace(MANIFEST, version=str(version)), fill, overwrite=True
            )
    finally:
        done.set()
        reader.join()
    assert not absent
    assert looks > 40
    assert open_package(package.directory).version == "41"
    assert [p.name for p in package.directory.parent.iterdir()] == ["m"]


def test_overwriting_where_the_file_system_cannot_exchange(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.model.package.exchange", lambda stage, target: False)
    write_package(package.directory, msgspec.structs.replace(MANIFEST, version="2"), fill, overwrite=True)
    assert open_package(package.directory).version == "2"
    assert [p.name for p in package.directory.parent.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("same", "changed"),
    [
        (True, {"slo": Slo(p99_ms=5)}),
        (True, {"description": "words"}),
        (True, {"version": "2"}),
        (False, {"inputs": (Input(name="x", datatype="FP32", maximum=1.0),)}),
        (False, {"outputs": (Output(name="y", datatype="FP32", tolerance=0.1),)}),
        (False, {"runtime": RuntimeSpec(name="python", artifact="model.py", threads=2)}),
        (False, {"requirements": ("numpy==2.4.6",)}),
    ],
)
def test_the_fingerprint_covers_what_can_change_an_answer(
    package: Package, same: bool, changed: dict[str, object]
) -> None:
    other = Package(package.directory, msgspec.structs.replace(package.manifest, **changed))
    assert (other.fingerprint("r 1") == package.fingerprint("r 1")) is same


def test_the_fingerprint_covers_the_runtime_version_and_every_artefact(package: Package, tmp_path: Path) -> None:
    assert package.fingerprint("r 1") != package.fingerprint("r 2")

    def other_weights(stage: Path) -> None:
        fill(stage)
        (stage / "data" / "weights.txt").write_text("3\n")

    other = write_package(tmp_path / "other", MANIFEST, other_weights)
    assert other.fingerprint("r 1") != package.fingerprint("r 1")


def test_samples_and_profile_do_not_change_the_fingerprint(package: Package, tmp_path: Path) -> None:
    def with_both(stage: Path) -> None:
        fill(stage)
        (stage / "s.arrow").write_text("s")
        (stage / "p.json").write_text("p")

    manifest = msgspec.structs.replace(MANIFEST, samples="s.arrow", profile="p.json")
    assert write_package(tmp_path / "both", manifest, with_both).fingerprint("r") == package.fingerprint("r")
