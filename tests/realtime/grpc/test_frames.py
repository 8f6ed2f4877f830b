"""A request that is like one before but for its numbers is read as any other: the same rows, or the same error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.realtime.grpc.calls import raw
from tests.realtime.packages import every_type, matrix
from tidemill.datatypes import DATATYPES
from tidemill.errors import InputError
from tidemill.model.package import open_package
from tidemill.prediction.live import Live
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.grpc.decode import decode
from tidemill.realtime.protocols.grpc.encode import FRAME_BYTES, framed
from tidemill.realtime.protocols.grpc.messages import message
from tidemill.realtime.protocols.grpc.read import Frame, InferReader
from tidemill.rows import Rows

NAMES = [name.lower() for name in DATATYPES if name != "BYTES"]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InferReader]:
    directory: Path = tmp_path_factory.mktemp("packages")
    packages = {"every": every_type(directory), "matrix": matrix(directory)}
    return {name: InferReader(Live.open(open_package(p)), RequestLimits()) for name, p in packages.items()}


def same(a: Rows, b: Rows) -> None:
    assert a.n == b.n
    assert list(a.columns) == list(b.columns)
    for name, column in a.columns.items():
        other = b.columns[name]
        assert (column.dtype, column.shape, column.tobytes()) == (other.dtype, other.shape, other.tobytes())
        assert other.flags.aligned


def learned(reader: InferReader, made: Any) -> Frame | None:
    data = framed(made.SerializeToString())
    return reader.frame(decode(data, FRAME_BYTES), data)


@given(st.data())
def test_known_frames_of_one_tensor(readers: dict[str, InferReader], data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    arrays = [np.frombuffer(data.draw(st.binary(min_size=12 * rows, max_size=12 * rows)), "<f4") for _ in range(2)]
    first, second = (raw("matrix", X=a.reshape(rows, 3)) for a in arrays)
    frame = learned(readers["matrix"], first)
    assert frame is not None
    assert frame.packed
    other = framed(second.SerializeToString())
    assert len(other) == frame.size
    assert frame.fits(other)
    expected, asked = readers["matrix"].read(decode(other, FRAME_BYTES))
    same(expected, readers["matrix"].framed(frame, other))
    assert asked == frame.asked


def several(values: list[bytes], masked: bool, columns: bool) -> Any:
    """Matrix inputs as columns, or with a mask: more than one raw tensor."""
    names = ("a", "b", "c") if columns else ("X",)
    made = message("inference.ModelInferRequest")(model_name="matrix")
    for name, value in zip(names, values, strict=False):
        made.inputs.add(name=name, datatype="FP32", shape=[2] if columns else [2, 3])
        made.raw_input_contents.append(value[: 8 if columns else 24])
    if masked:
        made.inputs.add(name=f"{names[-1]}.valid", datatype="BOOL", shape=[2] if columns else [2, 3])
        made.raw_input_contents.append(values[-1][: 2 if columns else 6])
    return made


@given(st.lists(st.binary(min_size=24, max_size=24), min_size=8, max_size=8), st.booleans(), st.booleans())
def test_known_frames_of_several_tensors(
    readers: dict[str, InferReader], values: list[bytes], masked: bool, columns: bool
) -> None:
    reader = readers["matrix"]
    good = [b"\0" * 24] * 3 + [b"\1\0\1\0\1\1" + b"\0" * 18]
    frame = learned(reader, several(good, masked, columns))
    assert frame is not None
    other = framed(several(values[4:], masked, columns).SerializeToString())
    assert frame.fits(other)
    # A byte of a mask that is neither 0 nor 1 is an error, which must be the same one.
    assert outcome(lambda: reader.read(decode(other, FRAME_BYTES))[0]) == outcome(lambda: reader.framed(frame, other))


def outcome(read: Any) -> Any:
    try:
        rows = read()
    except InputError as error:
        return str(error)
    return {n: c.tobytes() for n, c in rows.columns.items()}, {n: v.tobytes() for n, v in rows.valid.items()}


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=1))
def test_another_request_does_not_fit(readers: dict[str, InferReader], place: int, byte: bytes) -> None:
    """One byte changed anywhere but in the numbers is another request."""
    made = several([b"\0" * 24] * 4, True, True)
    data = framed(made.SerializeToString())
    frame = learned(readers["matrix"], made)
    assert frame is not None
    at = place % len(data)
    other = data[:at] + byte + data[at + 1 :]
    numbers = any(start <= at < start + size for _, start, size in frame.tensors)
    assert frame.fits(other) == (numbers or other == data)


def test_what_has_no_frame(readers: dict[str, InferReader]) -> None:
    named = raw("matrix", X=np.ones((1, 3), np.float32))
    named.id = "x"
    typed = message("inference.ModelInferRequest")(model_name="matrix")
    typed.inputs.add(name="X", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    assert learned(readers["matrix"], named) is None
    assert learned(readers["matrix"], typed) is None
    every = raw("every", **{n: np.zeros((1, 2), DATATYPES[n.upper()].dtype) for n in NAMES})
    for name in ("text", "raw"):
        every.inputs.add(name=name, datatype="BYTES", shape=[1])
        every.raw_input_contents.append(b"\0\0\0\0")
    assert learned(readers["every"], every) is None
