"""The keys of an upsert into a table that has no unique index: what an index would refuse is refused here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tidemill.errors import RunError

__all__ = ["cannot_key", "check_keys"]


def cannot_key(schema: pa.Schema, key: Sequence[str]) -> str | None:
    """Why rows of this schema cannot be told apart by these columns, in one sentence, or None."""
    field = next((schema.field(k) for k in key if pa.types.is_nested(schema.field(k).type)), None)
    return None if field is None else f"key column {field.name!r} is {field.type}; a key is of plain values"


def check_keys(batches: Iterable[pa.RecordBatch], key: Sequence[str]) -> None:
    """Raises RunError where a row has no key, or two rows have the same. Takes memory with the number of keys."""
    keys = pa.Table.from_batches([b.select(list(key)) for b in batches])
    if any(keys[k].null_count for k in key):
        raise RunError(f"a row of the run has no key ({', '.join(key)} is null); nothing is published")
    counted = keys.group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1)).slice(0, 1).to_pylist()
    if twice:
        shown = ", ".join(f"{k} = {twice[0][k]}" for k in key)
        raise RunError(f"several rows of the run have the key {shown}; nothing is published")
