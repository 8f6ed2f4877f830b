"""Options of outputs that are many files: how they are spread over directories, and how large they become."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidemill.batch.places import Place
from tidemill.errors import ConfigError

__all__ = ["Spread", "spread_options"]

_SIZE = re.compile(r"(\d{1,6})(KB|MB|GB|B)\Z")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_FILE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Spread:
    """The columns whose values name directories, and the bytes at which a file is full. `given` are the options that
    were there.
    """

    keys: tuple[str, ...]
    file_bytes: int
    given: frozenset[str]


def spread_options(place: Place) -> Spread:
    """`partition_by=a,b` and `file_size=256MB` of a place. Raises ConfigError for others and for what is no size."""
    unknown = next((o for o in place.options if o not in ("partition_by", "file_size")), None)
    if unknown is not None:
        raise ConfigError(f"output {place.shown}: unknown option {unknown}; expected partition_by, file_size")
    keys = tuple(k for k in place.options.get("partition_by", "").split(",") if k)
    if len(set(keys)) < len(keys):
        raise ConfigError(f"output {place.shown}: partition_by names a column twice")
    return Spread(keys, _bytes(place), frozenset(place.options))


def _bytes(place: Place) -> int:
    text = place.options.get("file_size")
    if text is None:
        return _FILE_BYTES
    found = _SIZE.match(text)
    if found is None or int(found[1]) == 0:
        raise ConfigError(f"output {place.shown}: file_size: expected a size such as 256MB, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]
