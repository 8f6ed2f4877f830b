"""How the calls of one model are shared by its versions: by weight at random, or by a stable hash of a key."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from itertools import accumulate
from typing import Generic, TypeVar

from tidemill.rows import Rows

__all__ = ["Split", "by_key", "key_of"]

T = TypeVar("T", bound=Hashable)
U = TypeVar("U", bound=Hashable)

HASHES = float(1 << 64)


class Split(Generic[T]):
    """Chooses one of several versions for each call."""

    def __init__(
        self,
        model: str,
        versions: Mapping[str, tuple[float, T]],
        default: T,
        key: tuple[str, ...] | None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`versions`: name → (weight, version). `key` names the inputs that identify an entity; None: draw at random.
        A call without a key goes to `default`. `draw` gives numbers of [0, 1).
        """
        self._model = model
        self._weights = {name: weight for name, (weight, _) in versions.items()}
        self._versions = {name: version for name, (_, version) in versions.items()}
        self._default = default
        self._key = key
        self._random = draw
        self._drawn = list(self._versions.values())
        self._bounds = list(accumulate(self._weights.values()))

    def among(self, others: Mapping[T, U]) -> Split[U]:
        """The same choice among what belongs to each version."""
        versions = {name: (self._weights[name], others[version]) for name, version in self._versions.items()}
        return Split(self._model, versions, others[self._default], self._key, self._random)

    def choose(self, rows: Rows, key: bytes | None = None) -> T:
        """The version that answers these rows. `key` is the caller's own word for the entity."""
        if self._key is None:
            return self._drawn[bisect_right(self._bounds, self._random() * self._bounds[-1], hi=len(self._drawn) - 1)]
        if key is None:
            key = key_of(rows, self._key)
        return self._default if key is None else self._versions[by_key(self._model, self._weights, key)]


def by_key(model: str, weights: Mapping[str, float], key: bytes) -> str:
    """The name that a key falls to, in every process alike: names get keys in proportion to their weights, and when
    weights change, only what one must give up moves (weighted rendezvous hashing).
    """
    best, chosen = -1.0, ""
    for name, weight in weights.items():
        if weight > 0:
            digest = blake2b(b"\0".join((model.encode(), name.encode(), key)), digest_size=8).digest()
            # Uniform on (0, 1): never 0, whose logarithm there is none of, and never 1.
            drawn = (int.from_bytes(digest, "big") + 0.5) / HASHES
            score = weight / -math.log(drawn) if drawn < 1.0 else math.inf
            if score > best:
                best, chosen = score, name
    return chosen


def key_of(rows: Rows, names: tuple[str, ...]) -> bytes | None:
    """The first row's key, from the inputs of these names (each of shape (n,)); None if one is absent or missing."""
    if not rows.n:
        return None
    parts = []
    for name in names:
        column, valid = rows.columns.get(name), rows.valid.get(name)
        if column is None or column.ndim != 1 or (valid is not None and not valid[0]):
            return None
        value = column[0]
        if value is None or value != value:
            return None
        parts.append(value if isinstance(value, bytes) else str(value).encode())
    return b"\0".join(parts) if parts else None
