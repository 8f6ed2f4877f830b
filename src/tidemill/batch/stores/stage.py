"""A stage below a prefix of a store, for workers that share no disk: parts go up as objects, and a marker is created
where there is none, so that the first of two attempts at a shard counts.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.inputs import Found
from tidemill.batch.ledger import PartFile, Sealed, decode_kept, disk_refused
from tidemill.batch.places import SourceFormat
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.stage import Kind, not_a_stage, strange
from tidemill.batch.stores.objects import Entry, Objects
from tidemill.batch.stores.reader import RangeReader
from tidemill.errors import RunError, SinkError

__all__ = ["ObjectStage"]

_DIGEST = "sha256"
_PLAN = "plan.json"
# Written when all of a spool is there.
_SHARED = "spool/done.json"
# The most that a store copies in one request.
_COPIED_BYTES = 5 << 30


class ObjectStage:
    """Keeps what a run has sealed below s3://bucket/prefix, gs:// or az://.

    What is being written, and what was fetched, lies in a temporary directory of this process. No lock keeps two
    drivers apart here: the target lets only one of them commit.
    """

    def __init__(self, where: str) -> None:
        self._objects = Objects(where, SinkError)
        self.where = self._objects.uri
        self._directory: Path | None = None
        self._making = threading.Lock()
        self._noted: dict[str, tuple[Entry, bytes]] = {}

    @property
    def spool(self) -> Path:
        return self._local("spool")

    def share(self, found: Found) -> Found:
        if found.root != str(self.spool):
            return found
        for file in found.files:
            self._objects.put(f"spool/{file.name}", self.spool / file.name)
        shared = replace(found, root=f"{self.where}/spool")
        self._objects.put(_SHARED, msgspec.json.encode(shared))
        shutil.rmtree(self.spool)
        return shared

    def shared(self) -> Found | None:
        data = self._objects.get(_SHARED)
        return None if data is None else decode_kept(data, Found, f"{self.where}/{_SHARED}")

    @contextmanager
    def held(self) -> Iterator[None]:
        names = {e.name.partition("/")[0] for e in self._objects.list()}
        # A plan comes first, but for the copy of an input that it is made of.
        other = strange(names) or (None if _PLAN in names else min(names - {"spool"}, default=None))
        if other is not None:
            raise not_a_stage(self.where, other)
        try:
            yield
        finally:
            self._forget()

    def work(self) -> Path:
        return self._local("work")

    def clean(self) -> None:
        shutil.rmtree(self._local("work"))

    def forget(self) -> None:
        kept = [e.name for e in self._objects.list()]
        for kind in ("shards", "parts", "dead", "spool"):
            self._objects.delete(n for n in kept if n.startswith(f"{kind}/"))

    def keep(self, kind: Kind, path: Path, name: str) -> None:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._objects.put(f"{kind}/{name}", path, {_DIGEST: digest})
        path.unlink()

    def mark(self, marker: Sealed) -> Sealed:
        name, data = _marker(marker.shard), msgspec.json.encode(marker)
        while True:
            found = self._objects.create(name, data)
            if found == data:
                return marker
            try:
                return decode_kept(found, Sealed, f"{self.where}/{name}")
            except RunError:  # what nobody can read marks nothing
                self._objects.delete([name])

    def sealed(self, plan: Plan) -> dict[int, Sealed]:
        """By the sizes that the store tells; bytes are checked when they are fetched. Markers of shards that are not
        the plan's stay: a worker asks for its own, while others seal theirs.
        """
        wanted = {_marker(s.index): s.index for s in plan.shards}
        found: dict[int, Sealed] = {}
        broken: list[str] = []
        names = [e.name for e in self._objects.list("shards") if e.name in wanted]
        with ThreadPoolExecutor(8, "tidemill-markers") as pool:
            markers = list(pool.map(self._objects.get, names))
        for name, data in zip(names, markers, strict=True):
            if data is None:
                continue
            try:
                marker = decode_kept(data, Sealed, name)
            except RunError:
                broken.append(name)
                continue
            if marker.shard == wanted[name]:
                found[marker.shard] = marker
            else:
                broken.append(name)
        # Parts are there before their marker: whoever looks for them after it finds those of every whole shard.
        sizes = {e.name: e.size for kind in ("parts", "dead") for e in self._objects.list(kind)} if found else {}
        for shard, marker in list(found.items()):
            whole = sizes.get(f"parts/{marker.part.name}") == marker.part.bytes and (
                marker.dead is None or sizes.get(f"dead/{marker.dead.name}") == marker.dead.bytes
            )
            if not whole:
                broken.append(_marker(shard))
                del found[shard]
        self._objects.delete(broken)
        return found

    def fetch(self, kind: Kind, name: str) -> Path:
        """Raises RunError for bytes that are not those that were kept: the shard is to be scored again."""
        path = self._local(kind) / name
        if path.exists():
            return path
        aside = path.with_name(f".{name}.part")
        try:
            fetched = self._objects.fetch(f"{kind}/{name}", aside)
        except OSError as error:
            raise disk_refused(path, error) from error
        if fetched is None or fetched[0] != fetched[1].get(_DIGEST):
            aside.unlink(missing_ok=True)
            raise self._damaged(kind, name)
        aside.rename(path)
        return path

    def rows(self, kind: Kind, part: PartFile, format_: SourceFormat) -> int:
        if format_ != "parquet" or (self._local(kind) / part.name).exists():
            return sink(format_).count(self.fetch(kind, part.name))
        entry = self._objects.head(f"{kind}/{part.name}")
        if entry is None or entry.size != part.bytes:
            raise self._damaged(kind, part.name)
        try:
            rows: int = pq.read_metadata(RangeReader(entry.size, partial(self._objects.read, entry))).num_rows
        except pa.ArrowException:
            raise self._damaged(kind, part.name) from None
        return rows

    def put(self, name: str, data: bytes) -> None:
        self._objects.put(name, data)

    def get(self, name: str) -> bytes | None:
        return self._objects.get(name)

    def note(self, name: str, data: bytes) -> None:
        with suppress(RunError):
            self._objects.put(f"notes/{name}", data)

    def notes(self, below: str) -> dict[str, bytes]:
        """What has not changed since the last time is not fetched again."""
        with suppress(RunError):
            entries = {e.name: e for e in self._objects.list(f"notes/{below}")}
            new = [e for name, e in entries.items() if name not in self._noted or self._noted[name][0] != e]
            with ThreadPoolExecutor(8, "tidemill-notes") as pool:
                for entry, data in zip(new, pool.map(lambda e: self._objects.get(e.name), new), strict=True):
                    if data is not None:
                        self._noted[entry.name] = entry, data
        start = f"notes/{below}/"
        return {name.removeprefix(start): data for name, (_, data) in self._noted.items() if name.startswith(start)}

    def copy(self, kind: Kind, part: PartFile, objects: Objects, name: str) -> None:
        """Bring a kept file to a name elsewhere in a store: by the store itself, where that is its own bucket."""
        here = self._objects
        if (here.scheme, here.bucket) != (objects.scheme, objects.bucket) or part.bytes >= _COPIED_BYTES:
            path = self.fetch(kind, part.name)
            objects.put(name, path)
            path.unlink()
            return
        said = here.attributes(f"{kind}/{part.name}")
        if said is None or said.get(_DIGEST) != part.sha256:
            raise self._damaged(kind, part.name)
        objects.copy(here.key(f"{kind}/{part.name}"), name)

    def remove(self) -> None:
        names = [e.name for e in self._objects.list()]
        own = [n for n in names if strange([n.partition("/")[0]]) is None]
        # The plan last: what is left without it is nobody's.
        self._objects.delete([n for n in own if n != _PLAN])
        self._objects.delete([n for n in own if n == _PLAN])
        self._forget()

    def remove_unused(self) -> None:
        if not any(True for kind in ("shards", "dead", "spool") for _ in self._objects.list(kind)):
            self.remove()

    def _damaged(self, kind: Kind, name: str) -> RunError:
        """Take away the marker that names a file which is not what was kept, and tell of it."""
        for entry in self._objects.list("shards"):
            data = self._objects.get(entry.name)
            if data is not None and f'"{name}"'.encode() in data:
                self._objects.delete([entry.name])
        return RunError(
            f"{self.where}/{kind}/{name}: is gone, or not what was written there; its shard is no longer sealed; "
            "resume the run"
        )

    def _local(self, name: str) -> Path:
        # Several threads count parts at once.
        with self._making:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="tidemill-"))
                weakref.finalize(self, shutil.rmtree, self._directory, True)
            path = self._directory / name
            path.mkdir(exist_ok=True)
        return path

    def _forget(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _marker(shard: int) -> str:
    return f"shards/{shard:05d}.json"
