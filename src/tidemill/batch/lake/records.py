"""What a run leaves beside a table's data: its manifest, on a disk or in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.ledger import write_durably
from tidemill.batch.manifest import RunManifest
from tidemill.errors import RunError, SinkError

if TYPE_CHECKING:
    from tidemill.batch.stores.objects import Objects

__all__ = ["Records"]


class Records:
    """A directory of a table that its readers leave out.

    An execution writes its manifest under a name of its own before it commits; that of the one that committed is then
    put under the run's name.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def begin(self) -> None:
        """Make the directory, where there is one to make. Raises SinkError."""
        if remote(self.where):
            return
        try:
            Path(self.where).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{self.where}: cannot be made: {error.strerror}") from error

    def check_conditions(self) -> None:
        """Raises SinkError for a store that ignores conditions: of two versions of a log both would count."""
        from tidemill.batch.stores.probe import check_conditions

        check_conditions(_objects(self.where), replacing=False)

    def keep(self, execution: int, manifest: RunManifest) -> None:
        """The manifest of an execution that is about to commit. Raises SinkError."""
        self.begin()
        self._put(_execution(manifest.run_id, execution), msgspec.json.encode(manifest))

    def settled(self, run_id: str, execution: int) -> RunManifest:
        """The manifest of the execution that committed. Raises RunError where it is gone."""
        name = f"{run_id}.manifest.json"
        data = self._get(_execution(run_id, execution))
        if data is not None:
            self._put(name, data)
            self._remove(_execution(run_id, execution))
        else:
            data = self._get(name)
        if data is None:
            raise RunError(
                f"run {run_id} was committed, but its manifest {self.where}/{name} is gone; begin a new run, with "
                "another run id"
            )
        try:
            return msgspec.json.decode(data, type=RunManifest)
        except msgspec.DecodeError as error:
            raise RunError(f"{self.where}/{name}: cannot be understood ({error})") from None

    def drop(self, run_id: str, execution: int) -> None:
        """The execution did not commit, and never will."""
        self._remove(_execution(run_id, execution))

    def send(self, directory: Path, uri: str, names: Sequence[str]) -> None:
        """Copy files below a directory to a store, under the same names. Raises SinkError."""
        objects = _objects(uri)
        for name in names:
            objects.put(name, directory / name)

    def _put(self, name: str, data: bytes) -> None:
        if remote(self.where):
            _objects(self.where).put(name, data)
        else:
            write_durably(Path(self.where) / name, data)

    def _get(self, name: str) -> bytes | None:
        if remote(self.where):
            return _objects(self.where).get(name)
        try:
            return (Path(self.where) / name).read_bytes()
        except FileNotFoundError:
            return None

    def _remove(self, name: str) -> None:
        if remote(self.where):
            _objects(self.where).delete([name])
        else:
            (Path(self.where) / name).unlink(missing_ok=True)


def _objects(uri: str) -> Objects:
    from tidemill.batch.stores.objects import Objects

    return Objects(uri, SinkError)


def _execution(run_id: str, execution: int) -> str:
    return f"{run_id}.{execution:016x}.json"
