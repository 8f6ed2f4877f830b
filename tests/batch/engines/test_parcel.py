"""A parcel: the package arrives as it was, is loaded once, and answers as the driver's would or not at all."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.batch.frames import open_for_frames
from tidemill.batch.parcel import pack, unpacked
from tidemill.errors import IntegrityError, PackageError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_it_is_the_same_archive_whenever_it_is_packed(package: Path) -> None:
    first, again = pack(open_for_frames(package)), pack(open_for_frames(package))
    assert first == again


def test_it_arrives_whole_and_is_loaded_once(package: Path) -> None:
    live = open_for_frames(package)
    parcel, archive = pack(live)
    place = unpacked(parcel, archive)
    there = parcel.open(place)
    assert there.fingerprint == live.fingerprint
    assert there.call_rows == live.call_rows
    assert parcel.open(unpacked(parcel, archive)) is there


def test_a_file_that_was_changed_on_the_way_is_found(package: Path) -> None:
    parcel, archive = pack(open_for_frames(package))
    place = unpacked(parcel, archive)
    (place / "model.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError, match="the file was changed after packaging"):
        parcel.open(place)


def test_a_worker_with_another_runtime_does_not_answer(package: Path) -> None:
    parcel, archive = pack(open_for_frames(package))
    driver = replace(parcel, fingerprint="f" * 64, runtime="onnxruntime 9.9")
    with pytest.raises(
        PackageError, match=r"this worker runs it with onnxruntime .*, the driver with onnxruntime 9\.9"
    ):
        driver.open(unpacked(parcel, archive))


def test_a_directory_of_somebody_else_is_not_trusted(package: Path, temporary: Path) -> None:
    parcel, archive = pack(open_for_frames(package))
    root = temporary / f"tidemill-{os.getuid()}"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(PackageError, match="is not a directory that only this user may write to"):
        unpacked(parcel, archive)


def test_what_nobody_used_for_a_week_goes(package: Path, temporary: Path) -> None:
    parcel, archive = pack(open_for_frames(package))
    old = unpacked(parcel, archive)
    week_ago = time.time() - 8 * 24 * 3600
    os.utime(old, (week_ago, week_ago))
    new = unpacked(replace(parcel, place="tidemill-other"), archive)
    assert sorted(p.name for p in new.parent.iterdir()) == ["tidemill-other"]
