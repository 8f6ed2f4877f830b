"""Inference answers of the Open Inference Protocol: JSON, or JSON followed by binary tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

import orjson

from tidemill.errors import Problem
from tidemill.model.package import Package
from tidemill.model.signature import Output
from tidemill.prediction.result import STATUSES, Result
from tidemill.realtime.protocols.cells import flat_cells
from tidemill.tensors import encode_tensor

__all__ = ["Writer", "row_errors"]


class Writer:
    """Writes the answers of one model version; what never changes in them is rendered beforehand."""

    def __init__(self, package: Package) -> None:
        self._outputs = {o.name: o for o in package.manifest.outputs}
        self._names = list(self._outputs)
        self._open = b'{"model_name":%b,"model_version":%b' % (
            orjson.dumps(package.name),
            orjson.dumps(package.version),
        )
        # An answer to one row, with room for the cells of each output; not where a dimension varies.
        self._one_row: list[bytes] | None = None
        if all(d > 0 for o in self._outputs.values() for d in o.shape[1:]):
            heads = [_head(o, (1, *o.shape[1:])) + b',"data":[' for o in self._outputs.values()]
            heads[0] = self._open + b',"outputs":[' + heads[0]
            self._one_row = [heads[0], *[b"]}," + head for head in heads[1:]], b"]}]}"]

    def plain(self, result: Result, start: int, stop: int) -> bytes:
        """All outputs of rows start to stop as JSON, without an id."""
        if stop - start == 1 and self._one_row is not None:
            bodies: list[bytes] | None = result.memo.get(self)
            if bodies is None:
                bodies = result.memo[self] = self._one_row_each(result, self._one_row)
            return bodies[start]
        return self.write(result, start, stop, [(name, False) for name in self._names], None)[0][0]

    def _one_row_each(self, result: Result, pieces: list[bytes]) -> list[bytes]:
        """The bodies of all rows of a merged call, as if each had been asked for alone."""
        columns: list[Iterable[bytes]] = []
        for piece, name in zip(pieces, self._names, strict=False):
            columns += (repeat(piece), flat_cells(result, name))
        return list(map(b"".join, zip(*columns, repeat(pieces[-1]), strict=False)))

    def with_id(self, body: bytes, id_: str) -> bytes:
        """An answer of `plain` with the request's id in it."""
        return b'%b,"id":%b%b' % (self._open, orjson.dumps(id_), body[len(self._open) :])

    def write(
        self,
        result: Result,
        start: int,
        stop: int,
        outputs: Sequence[tuple[str, bool]],
        id_: str | None,
        problems: Sequence[Problem] | None = None,
        timing: Callable[[], dict[str, int]] | None = None,
    ) -> tuple[list[bytes], int | None]:
        """The body, and the size of its JSON where binary tensors follow it.

        `problems` (None: those were not asked for) name rows, counted from `start`, whose cells are null in JSON
        and fillers in binary tensors; they are told in the answer's parameters, and so is what `timing` gives
        once the outputs are encoded.
        """
        bad = {p.row for p in problems or ()}
        described: list[bytes] = []
        tensors: list[bytes] = []
        for name, binary in outputs:
            array = result.outputs.columns[name]
            head = _head(self._outputs[name], (stop - start, *array.shape[1:]))
            if binary:
                tensors.append(encode_tensor(array[start:stop]))
                described.append(b'%b,"parameters":{"binary_data_size":%d}}' % (head, len(tensors[-1])))
                continue
            cells = flat_cells(result, name)[start:stop]
            if bad:
                width = array[0].size if array.ndim > 1 else 1
                nulls = b",".join([b"null"] * width)
                cells = [nulls if i in bad else c for i, c in enumerate(cells)]
            described.append(b'%b,"data":[%b]}' % (head, b",".join(cells)))
        parts = [self._open]
        if id_ is not None:
            parts.append(b',"id":' + orjson.dumps(id_))
        parameters = {} if problems is None else row_errors(problems)
        if timing is not None:
            parameters |= timing()
        if parameters:
            parts.append(b',"parameters":' + orjson.dumps(parameters))
        parts.append(b',"outputs":[%b]}' % b",".join(described))
        header = b"".join(parts)
        return [header, *tensors], len(header) if tensors else None


def row_errors(problems: Sequence[Problem]) -> dict[str, object]:
    """What a partial answer says of its bad rows: how many there are, and each problem with its row."""
    return {
        "bad_rows": len({p.row for p in problems}),
        "row_errors": [
            {
                "row": p.row,
                "status": STATUSES.get(p.code, "rejected"),
                "code": p.code,
                "field": p.field,
                "message": p.message,
            }
            for p in problems
        ],
    }


def _head(output: Output, shape: Sequence[int]) -> bytes:
    return b'{"name":%b,"datatype":"%b","shape":%b' % (
        orjson.dumps(output.name),
        output.datatype.encode(),
        orjson.dumps(list(shape)),
    )
