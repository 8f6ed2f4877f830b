"""How many rows a run reads and asks at a time: what the user says, and what is measured before its first row."""

from __future__ import annotations

import math

import msgspec

from tidemill.batch.columns import model_columns
from tidemill.batch.paging import CHUNK_BYTES
from tidemill.batch.plan import Plan
from tidemill.batch.shard import read_piece
from tidemill.errors import SourceError
from tidemill.model.samples import read_samples
from tidemill.model.signature import Output
from tidemill.prediction.live import Live
from tidemill.prediction.profile import measure

__all__ = ["CALL_BYTES", "CALL_ROWS", "settled"]

# Small calls stay in the cache: for most models about a thousand rows beat sixteen thousand.
CALL_ROWS = 1024
CALL_BYTES = 8 << 20
# Measuring costs a fraction of a second, which a small input never earns back.
_WORTH_MEASURING = 256 << 20
_SECONDS = 0.3


def settled(live: Live, plan: Plan) -> Plan:
    """The plan with the rows of a chunk and of one call, for all of a run and its resumes: with another size a model
    whose rows are not quite independent of each other would answer otherwise.

    Both are cut by the bytes of a row's answers, calls by those that go in, too, as the first rows of the input have
    them. What chunks hold of the input is cut as it is read. `call_rows` given by hand are not cut.
    """
    out = _answer_bytes(live, plan)
    call = plan.job.call_rows
    if call is None:
        large = sum(f.snapshot.size for f in plan.files) >= _WORTH_MEASURING
        # A model that may end its process is asked for nothing here but what it has answered before.
        safe = live.runtime.releases_gil or live.package.manifest.samples is not None
        best = measure(live, budget=_SECONDS).best_rows if large and safe and live.divisible else CALL_ROWS
        call = max(1, min(best, CALL_BYTES // max(out, _question_bytes(live, plan))))
    chunk = max(1, min(plan.job.chunk_rows, CHUNK_BYTES // out))
    return msgspec.structs.replace(plan, chunk_rows=chunk, call_rows=call)


def _question_bytes(live: Live, plan: Plan) -> int:
    """Bytes of a row that go into the model, by its signature and by the first rows that are read."""
    declared = sum(i.row_bytes for i in live.package.manifest.inputs)
    piece = next((p for s in plan.shards for p in s.pieces), None)
    if piece is None:
        return declared
    try:
        _, first = next(read_piece(plan, piece), (0, None))
    except SourceError:  # told when the shard is scored
        return declared
    if first is None or not first.num_rows:
        return declared
    read = first.select(list(dict.fromkeys(model_columns(live.package.manifest.inputs, first.schema.names))))
    found: int = read.nbytes // first.num_rows
    return max(declared, found)


def _answer_bytes(live: Live, plan: Plan) -> int:
    """Bytes of a row's answers: as the signature fixes them, else as the samples' were."""
    outputs = plan.outputs(live)
    declared = max(1, sum(_declared(o) for o in outputs))
    samples = read_samples(live.package)
    if samples is None or not samples[1].num_rows or all(_fixed(o) for o in outputs):
        return declared
    names = {o.name for o in outputs}
    found = samples[1].select([n for n in samples[1].schema.names if n in names])
    answered: int = found.nbytes // found.num_rows
    return max(declared, answered)


def _declared(output: Output) -> int:
    return math.prod(abs(d) for d in output.shape[1:]) * (output.type.size or 32)


def _fixed(output: Output) -> bool:
    return bool(output.type.size) and all(d >= 0 for d in output.shape[1:])
