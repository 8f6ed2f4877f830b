"""Live: the one path. validate → transform → run → transform → derive → seal; synchronous, thread-safe, no I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

from tidemill.errors import ModelError, PackageError, Problem, Transient
from tidemill.model.package import Package
from tidemill.model.signature import Input, Output
from tidemill.prediction.derive import derivation
from tidemill.prediction.intake import Intake
from tidemill.prediction.result import Result
from tidemill.prediction.validate import Validator
from tidemill.rows import Array, Rows
from tidemill.runtimes import Runtime, load_runtime
from tidemill.runtimes.source import forget_with, in_one_process, is_interrupt, load_source, to_dict, to_rows, told

__all__ = ["Live"]


class Live:
    """A loaded package that answers rows.

    `call_rows` bounds the rows of one model call; larger inputs are answered in pieces, which changes no answer
    where rows are independent (and is not done where they are not).
    """

    def __init__(self, package: Package, runtime: Runtime, *, call_rows: int | None = None) -> None:
        manifest = package.manifest
        self.package = package
        self.runtime = runtime
        self.intake = Intake(manifest.inputs)
        self.fingerprint = package.fingerprint(runtime.version)
        self.divisible = manifest.rows_independent
        # A package's own code may wait for anything, whatever its samples cost: an event loop must not wait with it.
        self.may_block = manifest.runtime.name == "python" or manifest.transform is not None
        limits = [x for x in (call_rows, manifest.runtime.max_call_rows) if x is not None]
        self.call_rows = min(limits) if limits else None
        self.on_error: Callable[[BaseException], None] | None = None
        """Told of each exception of the model, on the thread on which it was raised."""
        self.on_call: Callable[[int, int], None] | None = None
        """Told of each model call before it is made: those rows of `predict` that it is for, from the first of them to
        before the last (those between that were rejected are in no call)."""
        self.again: Callable[[int], bool] | None = None
        """Asked when the model raised Transient, with how often in a row: waits, and says whether to call again."""
        self._repeatable = manifest.repeatable
        self._bisect = manifest.rows_independent and manifest.repeatable
        self._validator = Validator(manifest.inputs)
        self._fills = [i for i in manifest.inputs if i.fill is not None]
        self._before, self._after = _transforms(package, self)
        self._raw = [o for o in manifest.outputs if o.source is None]
        by_name = {o.name: o for o in manifest.outputs}
        self._derived = [(o, o.source, derivation(o, by_name[o.source])) for o in manifest.outputs if o.source]

    @classmethod
    def open(cls, package: Package, *, call_rows: int | None = None) -> Live:
        """Load a package's runtime. Raises PackageError or MissingExtra where that is not possible."""
        return cls(package, load_runtime(package), call_rows=call_rows)

    def predict(self, rows: Rows, until: float = math.inf) -> Result:
        """Answer n rows (those of `intake`). Never raises for what a row or the model does: that is in `problems`.

        `until` is a time.monotonic() moment after which no further model call is begun; rows not answered by
        then are late.
        """
        problems = self._validator.problems(rows)
        if not problems:
            outputs, failed = self._answer(rows, until, None)
            return Result(outputs, failed)
        good = np.ones(rows.n, np.bool_)
        good[[p.row for p in problems]] = False
        if not self.divisible:
            # Rows that depend on each other have no answer without the one that is bad.
            first = problems[0]
            bad = {p.row for p in problems}
            problems += [
                Problem(i, "model_failed", "", f"its call holds a rejected row: row {first.row}: {first.message}")
                for i in range(rows.n)
                if i not in bad
            ]
            return Result(self._filler(rows.n), sorted(problems, key=lambda p: p.row))
        index = np.flatnonzero(good)
        outputs, failed = self._answer(rows.take(index), until, index)
        problems += [p.at(int(index[p.row])) for p in failed]
        problems.sort(key=lambda p: p.row)
        return Result(self._scatter(outputs, index, rows.n), problems)

    # -- the model -----------------------------------------------------------------------------------------

    def _answer(self, rows: Rows, until: float, index: Array | None) -> tuple[Rows, list[Problem]]:
        """Answer good rows, in pieces of `call_rows`. `index` is where they stand in the caller's (None: the same)."""
        size = self.call_rows
        if size is None or rows.n <= size or not self.divisible:
            if rows.n == 0:
                return self._filler(0), []
            return self._attempt(rows, until, 0, index)
        parts: list[Rows] = []
        problems: list[Problem] = []
        for start in range(0, rows.n, size):
            outputs, failed = self._attempt(rows.slice(start, start + size), until, start, index)
            parts.append(outputs)
            problems += [p.at(p.row + start) for p in failed]
        return self._join(parts), problems

    def _attempt(self, rows: Rows, until: float, at: int, index: Array | None) -> tuple[Rows, list[Problem]]:
        """One model call; if it raises, the halves are asked again, so that only the guilty rows fail. What is declared
        to be transient is no row's fault: the same call is made again, as often as `again` says.
        """
        if time.monotonic() > until:
            return self._filler(rows.n), [
                Problem(i, "late", "", "not answered before its deadline") for i in range(rows.n)
            ]
        tries = 0
        while True:
            try:
                if self.on_call is not None:
                    self._tell(at, rows.n, index)
                return self._call(rows), []
            except BaseException as error:
                if is_interrupt(error):
                    raise
                if self.on_error is not None:
                    self.on_error(error)
                transient = isinstance(error, Transient)
                if transient and self._repeatable and self.again is not None:
                    tries += 1
                    if self.again(tries):
                        continue
                elif rows.n > 1 and self._bisect and not transient:
                    middle = rows.n // 2
                    left, lost = self._attempt(rows.slice(0, middle), until, at, index)
                    right, more = self._attempt(rows.slice(middle, rows.n), until, at + middle, index)
                    return self._join([left, right]), lost + [p.at(p.row + middle) for p in more]
                text = str(error) if isinstance(error, ModelError) else told(error)
                # Half a surrogate pair in a user's message would break the encoder that tells of it.
                message = f"the model failed: {text}"[:1000].encode(errors="replace").decode()
                code = "transient" if transient and self.again is not None else "model_failed"
                return self._filler(rows.n), [Problem(i, code, "", message) for i in range(rows.n)]

    def _tell(self, at: int, n: int, index: Array | None) -> None:
        assert self.on_call is not None  # noqa: S101 - whoever calls has looked
        if index is None:
            self.on_call(at, at + n)
        else:
            self.on_call(int(index[at]), int(index[at + n - 1]) + 1)

    def _call(self, rows: Rows) -> Rows:
        for one in self._fills:
            rows = _filled(rows, one)
        if self._before is not None:
            rows = to_rows(self._before(to_dict(rows)), rows.n, "transform.before")
        found = self.runtime.run(rows)
        if self._after is not None:
            found = to_rows(self._after(to_dict(found)), rows.n, "transform.after")
        return self._seal(found, rows.n)

    def _seal(self, found: Rows, n: int) -> Rows:
        """The declared outputs, each of its declared datatype and shape, or ModelError."""
        columns: dict[str, Array] = {}
        for output in self._raw:
            array = found.columns.get(output.name)
            if array is None:
                raise ModelError(f"no output {output.name!r}; the model gave {', '.join(found.columns)}")
            columns[output.name] = array = _sealed(output, array, n)
            if output.name in found.valid and not found.valid[output.name].all():
                raise ModelError(
                    f"output {output.name!r} has missing cells; an output has none: put a value or NaN there"
                )
            if array.dtype.kind == "O":
                _check_strings(output, array)
        for output, source, derive in self._derived:
            columns[output.name] = _sealed(output, derive(columns[source]), n)
        if self._derived:
            columns = {o.name: columns[o.name] for o in self.package.manifest.outputs}
        return Rows(columns, n)

    # -- rows without an answer ----------------------------------------------------------------------------

    def _filler(self, n: int) -> Rows:
        columns: dict[str, Array] = {}
        for output in self.package.manifest.outputs:
            shape = (n, *(max(d, 0) for d in output.shape[1:]))
            columns[output.name] = np.full(shape, _blank(output.type.dtype), output.type.dtype)
        return Rows(columns, n)

    def _scatter(self, outputs: Rows, index: Array, n: int) -> Rows:
        columns: dict[str, Array] = {}
        for name, array in outputs.columns.items():
            out = np.full((n, *array.shape[1:]), _blank(array.dtype), array.dtype)
            out[index] = array
            columns[name] = out
        return Rows(columns, n)

    def _join(self, parts: list[Rows]) -> Rows:
        """Concatenate pieces whose variable dimensions may differ where one of them is only filler."""
        shapes = [{k: v.shape[1:] for k, v in p.columns.items()} for p in parts]
        if any(s != shapes[0] for s in shapes[1:]):
            parts = [_padded(p, shapes) for p in parts]
        return Rows.concat(parts)


def _padded(part: Rows, shapes: list[dict[str, tuple[int, ...]]]) -> Rows:
    columns: dict[str, Array] = {}
    for name, array in part.columns.items():
        want = tuple(max(d) for d in zip(*(s[name] for s in shapes), strict=True))
        out = np.full((part.n, *want), _blank(array.dtype), array.dtype)
        out[tuple(slice(0, d) for d in array.shape)] = array
        columns[name] = out
    return Rows(columns, part.n)


def _sealed(output: Output, array: Array, n: int) -> Array:
    want = output.shape
    if array.dtype != output.type.dtype:
        raise ModelError(f"output {output.name!r} is {array.dtype}, declared {output.datatype}")
    if array.shape[1:] != want[1:]:
        if len(want) == 1 and array.shape == (n, 1):
            array = array.reshape(n)
        elif len(want) == 2 and want[1] == 1 and array.shape == (n,):
            array = array.reshape(n, 1)
        elif array.ndim != len(want) or any(w not in (-1, s) for w, s in zip(want[1:], array.shape[1:], strict=True)):
            raise ModelError(f"output {output.name!r} has shape {list(array.shape)}, declared {list(want)}")
    if len(array) != n:
        raise ModelError(f"output {output.name!r} has {len(array)} rows for {n} rows of input")
    return array


def _check_strings(output: Output, array: Array) -> None:
    """An object array may hold anything; what is no string, or no Unicode, would break the encoder that meets it."""
    values = array.reshape(-1).tolist()
    try:
        if not output.binary:
            "".join(values).encode()
            return
    except TypeError:
        pass
    except UnicodeEncodeError as error:
        raise ModelError(f"output {output.name!r} holds text that is not Unicode: {error.reason}") from None
    wanted = bytes if output.binary else str
    wrong = {type(v).__name__ for v in values if not isinstance(v, wanted)}
    if wrong:
        found = ", ".join(sorted(wrong))
        raise ModelError(f"output {output.name!r} holds {found}, declared BYTES: expected {wanted.__name__}")


def _filled(rows: Rows, one: Input) -> Rows:
    """Put the declared fill in place of missing cells."""
    array = rows.columns[one.name]
    if array.dtype.kind == "f":
        absent = np.isnan(array)
    elif array.dtype.kind == "O":
        absent = np.array([v is None for v in array.reshape(-1)], np.bool_).reshape(array.shape)
    else:
        mask = rows.valid.get(one.name)
        if mask is None:
            return rows
        absent = ~mask
    if not absent.any():
        return rows
    array = array.copy()
    array[absent] = one.fill.encode() if one.binary and isinstance(one.fill, str) else one.fill
    valid: Mapping[str, Array] = {k: v for k, v in rows.valid.items() if k != one.name}
    return Rows({**rows.columns, one.name: array}, rows.n, valid)


def _blank(dtype: np.dtype[np.generic]) -> object:
    return np.nan if dtype.kind == "f" else None if dtype.kind == "O" else 0


_Transform = Callable[[dict[str, Array]], object]


def _transforms(package: Package, owner: Live) -> tuple[_Transform | None, _Transform | None]:
    name = package.manifest.transform
    if name is None:
        return None, None
    module: ModuleType = load_source(package.path(name))
    forget_with(owner, module)
    before, after = getattr(module, "before", None), getattr(module, "after", None)
    if before is None and after is None:
        raise PackageError(f"{name} defines neither before(rows) nor after(rows)")
    return before and in_one_process(before), after and in_one_process(after)
