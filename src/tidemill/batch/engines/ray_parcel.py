"""How a package reaches Ray's workers: as one object of the store, which each machine gets once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tidemill.batch.parcel import Parcel, pack, unpacked
from tidemill.prediction.live import Live
from tidemill.rows import Array

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["RayParcel", "ship"]


@dataclass(frozen=True)
class RayParcel:
    """A parcel and where its archive is."""

    parcel: Parcel
    archive: ObjectRef[Array]

    def arrived(self) -> Live:
        """The package, loaded: what a worker asks for. Raises PackageError where it would answer otherwise."""
        import ray

        return self.parcel.open(unpacked(self.parcel, ray.get(self.archive).data))


def ship(live: Live) -> RayParcel:
    """Put a loaded package into the store of the Ray that this process is connected to."""
    import ray

    parcel, archive = pack(live)
    # As an array, workers read it where it lies instead of copying it.
    return RayParcel(parcel, ray.put(np.frombuffer(archive, np.uint8)))
