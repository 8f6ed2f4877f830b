"""The rows that every source gives and every sink takes: most of them good, six of them bad, some cells null."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tests.batch.support import answers, child, table
from tidemill.batch import ScoreOptions

ROWS = 1200
# Rows whose a is below its minimum, and one that lacks b; first and last among them.
BAD = dict.fromkeys((0, 9, 521, 777, 1199), ("below_minimum", "a")) | {700: ("null", "b")}
# In three shards, of which two are sealed when a run is killed.
SHARD_ROWS = 400

# Sizes that a large input has by itself.
SMALL = {
    "tidemill.batch.plan.SHARD_ROWS": SHARD_ROWS,
    "tidemill.batch.sources.listing._UNIT_ROWS": SHARD_ROWS,
    "tidemill.batch.sources.text.UNIT_BYTES": 1,
    "tidemill.batch.sources.text._BLOCK": 16 << 10,
}

# argv: package, source, sink, options as JSON, shards to seal, SMALL as JSON
KILLED = """
import importlib, json, os, signal, sys
import msgspec
from tidemill.batch import ScoreOptions, score
from tidemill.batch.stage import LocalStage
for name, value in json.loads(sys.argv[6]).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)
mark, left = LocalStage.mark, [int(sys.argv[5])]
def dying(stage, marker):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return mark(stage, marker)
LocalStage.mark = dying
score(*sys.argv[1:4], msgspec.json.decode(sys.argv[4], type=ScoreOptions))
"""


@dataclass(frozen=True)
class Case:
    """Where a test does what: its own directory, and what fixtures give."""

    place: Path
    get: Any


def given() -> pa.Table:
    """id, a, b, c (null in each eleventh row), label, of which one is null."""
    found = table(ROWS)
    a = pc.if_else(pc.is_in(found["id"], pa.array([i for i, (_, f) in BAD.items() if f == "a"])), -1.0, found["a"])
    b = pc.if_else(pc.equal(found["id"], 700), pa.scalar(None, pa.float32()), found["b"])
    return found.set_column(1, "a", a.cast(pa.float32())).set_column(2, "b", b)


def good(rows: pa.Table, bad: Collection[int] = BAD) -> list[dict[str, Any]]:
    """What the output must hold of these rows, in their order."""
    kept = rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(list(bad), pa.int64()))))
    columns = {n: kept[n].to_pylist() for n in ("id", "c", "label")} | answers(kept)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def killed(package: Path, source: str, sink: str, options: ScoreOptions, shards: int) -> None:
    """A run that dies by kill -9 when it is to seal one more than these shards."""
    run = child(KILLED, package, source, sink, msgspec.json.encode(options).decode(), shards, json.dumps(SMALL))
    _, err = run.communicate(timeout=120)
    assert run.returncode == -9, err
