"""How a package reaches Spark's Python workers: as an archive that Spark sends to each executor and unpacks there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.batch.parcel import Parcel, pack
from tidemill.errors import ConfigError
from tidemill.prediction.live import Live

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["arrived", "ship"]

_ISOLATED = "spark.sql.artifact.isolation.enabled"


def ship(session: SparkSession, live: Live) -> Parcel:
    """Hand a loaded package to a session, classic or Connect; one that it has already is not sent again.

    Raises ConfigError for a session of a kind to which Spark lets nobody hand archives.
    """
    from pyspark import SparkFiles
    from pyspark.sql import SparkSession

    classic = isinstance(session, SparkSession)
    if classic and session.conf.get(_ISOLATED, "false") == "true":
        raise ConfigError(
            f"{_ISOLATED} is on: a classic session then sends no archive to its workers; turn it off, or use Connect"
        )
    parcel, archive = pack(live)
    with tempfile.TemporaryDirectory() as passing:
        # A classic session serves the file from where it lies: below its own files, which go with it.
        directory = Path(SparkFiles.getRootDirectory()) / "tidemill" if classic else Path(passing)
        directory.mkdir(exist_ok=True)
        path = directory / f"{parcel.place}.zip"
        if not path.exists():
            aside = Path(passing) / "archive"
            aside.write_bytes(archive)
            shutil.move(aside, path)
        session.addArtifact(f"{path}#{parcel.place}", archive=True)
    return parcel


def arrived(parcel: Parcel) -> Live:
    """The package, loaded: what a worker asks for. Raises PackageError where it would answer otherwise."""
    from pyspark import SparkFiles

    return parcel.open(Path(SparkFiles.getRootDirectory()) / parcel.place)
