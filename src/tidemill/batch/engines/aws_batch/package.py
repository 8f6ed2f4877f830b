"""A package on its way to the containers: its archive in the run's root, checked before it is opened."""

from __future__ import annotations

import hashlib

from tidemill.batch.parcel import Parcel, pack, unpacked
from tidemill.batch.stage import Stage
from tidemill.config import Config
from tidemill.errors import IntegrityError
from tidemill.prediction.live import Live

__all__ = ["Packed", "fetch_package", "send_package"]


class Packed(Config, frozen=True, kw_only=True):
    """The archive of a package: its name in the run's root, and its SHA-256 (hex)."""

    name: str
    sha256: str
    parcel: Parcel


def send_package(live: Live, root: Stage) -> Packed:
    """Put the package of a loaded model into the run's root. Raises SinkError."""
    parcel, archive = pack(live)
    root.put(f"{parcel.place}.zip", archive)
    return Packed(name=f"{parcel.place}.zip", sha256=hashlib.sha256(archive).hexdigest(), parcel=parcel)


def fetch_package(packed: Packed, root: Stage) -> Live:
    """The package, loaded. Raises IntegrityError where it is not the one that was sent, PackageError where it would
    answer otherwise here than where the run was planned.
    """
    archive = root.get(packed.name)
    if archive is None:
        raise IntegrityError(f"{root.where}/{packed.name}: the package of the run is gone; submit the run again")
    if hashlib.sha256(archive).hexdigest() != packed.sha256:
        raise IntegrityError(f"{root.where}/{packed.name}: is not the package that was sent; submit the run again")
    return packed.parcel.open(unpacked(packed.parcel, archive))
