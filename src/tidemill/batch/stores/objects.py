"""Objects below one prefix of a bucket. What is written by condition is settled by reading back, whatever the store
answered: a reply may be lost after the work was done, and 409 and 412 do not say whose object is there.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tidemill.batch.stores.connect import open_bucket, reason, split_uri
from tidemill.batch.stores.tries import Disk, hopeless, local, tries
from tidemill.errors import RunError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["PUT_BYTES", "Entry", "Objects"]

T = TypeVar("T")
# Up to here an object goes up in one request, above in parts of this size.
PUT_BYTES = 32 << 20
_STREAM = 4 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as the store tells of it; `name` is below the prefix."""

    name: str
    size: int
    etag: str | None
    version: str | None
    modified: datetime


class Objects:
    """The objects below `uri` (s3://bucket/prefix). Safe to use from several threads; pickled, it opens anew.

    Everything raises `error`, a RunError of the side it is used on, where the store will not do what it is asked even
    after some seconds of trying, and ConfigError or MissingExtra where the bucket cannot be opened.
    """

    def __init__(self, uri: str, error: type[RunError] = RunError) -> None:
        self.scheme, self.bucket, self.prefix = split_uri(uri)
        self.uri = f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self.error = error
        self._store = open_bucket(self.scheme, self.bucket)

    def __reduce__(self) -> tuple[type[Objects], tuple[str, type[RunError]]]:
        return Objects, (self.uri, self.error)

    def key(self, name: str) -> str:
        """The whole key of a name below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def list(self, below: str = "") -> Iterator[Entry]:
        """Objects below a directory of the prefix, in order of name."""
        import obstore

        start = self.key(below).rstrip("/") if below or self.prefix else None

        def listed() -> list[Entry]:
            return [self._entry(m) for page in obstore.list(self._store, start, chunk_size=1000) for m in page]

        found = self._tried(below or "its objects", "listed", listed)
        # An object of the very name of the prefix stands for the directory.
        yield from sorted((e for e in found if e.name), key=lambda e: e.name)

    def head(self, name: str) -> Entry | None:
        """What is there under a name, or None."""
        import obstore

        def headed() -> Entry | None:
            try:
                return self._entry(obstore.head(self._store, self.key(name)))
            except FileNotFoundError:
                return None

        return self._tried(name, "looked at", headed)

    def attributes(self, name: str) -> dict[str, str] | None:
        """What was put beside the bytes of an object, or None where there is no object."""
        import obstore

        def headed() -> dict[str, str] | None:
            try:
                found = obstore.get(self._store, self.key(name), options={"head": True}).attributes
            except FileNotFoundError:
                return None
            return _plain(found)

        return self._tried(name, "looked at", headed)

    def get(self, name: str) -> bytes | None:
        """The bytes of a small object, or None where there is none."""
        import obstore

        def got() -> bytes | None:
            try:
                return bytes(obstore.get(self._store, self.key(name)).bytes())
            except FileNotFoundError:
                return None

        return self._tried(name, "read", got)

    def read(self, entry: Entry, start: int, stop: int) -> memoryview:
        """Bytes start to stop of the object as it was when `entry` was taken. Raises `error` if it has changed."""
        import obstore
        from obstore.exceptions import PreconditionError

        options: dict[str, object] = {"range": (start, stop)}
        if entry.etag is not None:
            options["if_match"] = entry.etag

        def ranged() -> memoryview:
            try:
                result = obstore.get(self._store, self.key(entry.name), options=options)  # type: ignore[arg-type]
                data = memoryview(result.bytes())
            except (PreconditionError, FileNotFoundError):
                raise self.error(f"{entry.name}: was changed or removed while it was read; begin a new run") from None
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data)} bytes came, {stop - start} were asked for")
            return data

        return self._tried(entry.name, "read", ranged)

    def fetch(self, name: str, path: Path) -> tuple[str, dict[str, str]] | None:
        """Bring an object to a local file: its SHA-256 and attributes, or None where there is none. Raises OSError as
        the disk does.
        """
        import obstore

        def fetched() -> tuple[str, dict[str, str]] | None:
            try:
                result = obstore.get(self._store, self.key(name))
            except FileNotFoundError:
                return None
            size, attributes = result.meta["size"], result.attributes
            digest, found = hashlib.sha256(), 0
            with local():
                path.write_bytes(b"")
            for block in result.stream(_STREAM):
                data = memoryview(block)
                with local(), open(path, "ab") as file:
                    file.write(data)
                digest.update(data)
                found += len(data)
            if found != size:
                raise ConnectionError(f"{found} of {size} bytes came")
            return digest.hexdigest(), _plain(attributes)

        return self._tried(name, "fetched", fetched)

    def put(self, name: str, data: bytes | Path, attributes: Mapping[str, str] | None = None) -> None:
        """Write an object, over one that is there. Large files go up in parts, which are taken back on failure."""
        import obstore

        size = data.stat().st_size if isinstance(data, Path) else len(data)

        def written() -> None:
            obstore.put(
                self._store,
                self.key(name),
                data,
                attributes=dict(attributes or {}),
                use_multipart=size > PUT_BYTES,
                chunk_size=PUT_BYTES // 2,
                max_concurrency=4,
            )

        self._tried(name, "written", written)

    def create(self, name: str, data: bytes, attributes: Mapping[str, str] | None = None) -> bytes:
        """Write a small object where there is none, and return what is there then: `data`, or what was there first."""
        return self._settled(name, data, "create", lambda: True, attributes)

    def replace(self, was: Entry, data: bytes, attributes: Mapping[str, str] | None = None) -> bytes:
        """Write a small object over the one that `was` there, and return what is there then: `data`, or what somebody
        else has put in its place.
        """

        def unchanged() -> bool:
            now = self.head(was.name)
            return now is not None and (now.etag, now.version) == (was.etag, was.version)

        return self._settled(was.name, data, _still(was), unchanged, attributes)

    def copy(self, source: str, name: str) -> None:
        """Have the store copy an object, given by its whole key, to a name below the prefix."""
        import obstore

        self._tried(name, "copied", lambda: obstore.copy(self._store, source, self.key(name)))

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are well, too."""
        import obstore

        keys = [self.key(n) for n in names]

        def deleted() -> None:
            try:
                obstore.delete(self._store, keys)
            except FileNotFoundError:
                for key in keys:
                    _delete_one(self._store, key)

        if keys:
            self._tried(f"{len(keys)} objects", "removed", deleted)

    def put_if(self, name: str, path: Path, attributes: Mapping[str, str], was: Entry | None) -> None:
        """Put a file there in one request, if there is no object, or still the one that `was` there. Whether it is
        there afterwards, no error tells.
        """
        from obstore.exceptions import BaseError

        mode = "create" if was is None else _still(was)
        try:
            with _mapped(path) as data:
                self._put(name, data, mode, attributes)
        except (BaseError, OSError, ValueError) as error:
            raise self._failed(name, "written", error) from error

    def _put(self, name: str, data: bytes | mmap.mmap, mode: object, attributes: Mapping[str, str] | None) -> None:
        """One conditional request."""
        import obstore

        obstore.put(
            self._store,
            self.key(name),
            data,
            attributes=dict(attributes or {}),
            mode=mode,  # type: ignore[arg-type]
            use_multipart=False,
        )

    def _settled(
        self,
        name: str,
        data: bytes,
        mode: object,
        still_free: Callable[[], bool],
        attributes: Mapping[str, str] | None,
    ) -> bytes:
        """A conditional write that ends in one of two ways. `still_free` tells, after a failure that left no `data`
        there, whether the condition may yet hold.
        """
        from obstore.exceptions import BaseError

        last: BaseException | None = None
        for _ in tries():
            try:
                self._put(name, data, mode, attributes)
            except FileNotFoundError as error:
                raise self._failed(name, "written", error) from error
            except (BaseError, OSError, ValueError) as error:
                last = error
                found = self.get(name)
                if found is not None and (found == data or mode == "create" or not still_free()):
                    return found
                if found is None and mode != "create":
                    raise self.error(f"{name}: was removed by somebody else while the run went on") from None
                if hopeless(error):
                    break
            else:
                return data
        raise self._failed(name, "written", last) from last

    def _tried(self, name: str, done: str, call: Callable[[], T]) -> T:
        """Something that may be done twice, again while that may help."""
        from obstore.exceptions import BaseError

        last: BaseException | None = None
        for _ in tries():
            try:
                return call()
            except Disk as error:
                raise error.cause from None
            except RunError:
                raise
            except (BaseError, OSError, ValueError) as error:
                last = error
                if hopeless(error):
                    break
        raise self._failed(name, done, last) from last

    def _failed(self, name: str, done: str, error: BaseException | None) -> RunError:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        if isinstance(error, FileNotFoundError) or (done == "listed" and "404 Not Found" in str(error)):
            return self.error(f"{self.scheme}://{self.bucket}: there is no such bucket")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
            return self.error(
                f"{self.uri}: {name} cannot be {done}: the credentials of the environment do not allow it "
                f"({reason(error)})"
            )
        return self.error(f"{self.uri}: {name} cannot be {done}: {reason(error) if error else 'no answer'}")

    def _entry(self, meta: Mapping[str, object]) -> Entry:
        path = str(meta["path"])
        below = len(self.prefix) + 1 if self.prefix else 0
        etag, version, modified = meta.get("e_tag"), meta.get("version"), meta["last_modified"]
        assert isinstance(modified, datetime)  # noqa: S101 - for the type checker
        return Entry(
            name=path[below:],
            size=int(str(meta["size"])),
            etag=None if etag is None else str(etag),
            version=None if version is None else str(version),
            modified=modified,
        )


def _plain(attributes: Mapping[str, str]) -> dict[str, str]:
    """Stores differ in the case of names."""
    return {str(k).lower(): str(v) for k, v in attributes.items()}


def _still(was: Entry) -> dict[str, str]:
    """The condition that an object is what it was."""
    found = {"e_tag": was.etag, "version": was.version}
    return {k: v for k, v in found.items() if v is not None}


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file: those of a large one as the kernel keeps them, not held by this process."""
    with open(path, "rb") as file:
        if path.stat().st_size <= PUT_BYTES:
            yield file.read()
            return
        # Not closed here: the library may still hold it for a moment.
        yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _delete_one(store: ObjectStore, key: str) -> None:
    import obstore

    try:
        obstore.delete(store, key)
    except FileNotFoundError:
        return
