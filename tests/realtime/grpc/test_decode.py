"""The reader of bytes and the message classes read the same, or the reader leaves it to them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.realtime.protocols.grpc.decode import CONTENTS, DecodeError, InferRequest, decode, decode_quickly
from tidemill.realtime.protocols.grpc.messages import message

Request = message("inference.ModelInferRequest")

int64s = st.integers(-(1 << 63), (1 << 63) - 1)
uint64s = st.integers(0, (1 << 64) - 1)
PARAMETERS = {
    "bool_param": st.booleans(),
    "int64_param": int64s,
    "string_param": st.text(max_size=5),
    "double_param": st.floats(allow_nan=False),
    "uint64_param": uint64s,
}
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64_contents": int64s,
    "uint_contents": st.integers(0, (1 << 32) - 1),
    "uint64_contents": uint64s,
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
small = st.text(max_size=8)


@st.composite
def parameters(draw: Any, into: Any) -> None:
    for key in draw(st.lists(small, max_size=2)):
        field = draw(st.sampled_from([*PARAMETERS, None]))
        if field is None:
            into[key].SetInParent()
        else:
            setattr(into[key], field, draw(PARAMETERS[field]))


@st.composite
def requests(draw: Any) -> Any:
    made = Request(model_name=draw(small), model_version=draw(small), id=draw(small))
    draw(parameters(made.parameters))
    for _ in range(draw(st.integers(0, 3))):
        tensor = made.inputs.add(name=draw(small), datatype=draw(small), shape=draw(st.lists(int64s, max_size=20)))
        draw(parameters(tensor.parameters))
        for field in draw(st.lists(st.sampled_from([*ELEMENTS]), max_size=2)):
            getattr(tensor.contents, field).extend(draw(st.lists(ELEMENTS[field], max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        draw(parameters(made.outputs.add(name=draw(small)).parameters))
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=6), max_size=3)))
    return made


def told(parameters: dict[str, Any]) -> str:
    return repr(sorted(parameters.items()))


def plain(found: InferRequest) -> tuple[Any, ...]:
    """What can be compared: arrays by their bytes, raw contents by their own."""
    tensors = []
    for t in found.inputs:
        held = {n: c if isinstance(c, list) else (str(c.dtype), c.tobytes()) for n, c in t.contents.items()}
        tensors.append((t.name, t.datatype, t.shape, told(t.parameters), held))
    raw = [data[start : start + size] for data, start, size in found.raw]
    return (
        found.model,
        found.version,
        found.id,
        told(found.parameters),
        tensors,
        [(n, told(p)) for n, p in found.outputs],
        raw,
    )


def by_message(data: bytes) -> tuple[Any, ...] | None:
    """The message classes' reading, spelled out apart from the module under test; None where they refuse."""
    try:
        m = Request.FromString(data)
    except DecodeError:
        return None

    def values(held: Any) -> dict[str, Any]:
        which = {k: v.WhichOneof("parameter_choice") for k, v in held.items()}
        return {k: None if w is None else getattr(held[k], w) for k, w in which.items()}

    tensors = []
    for t in m.inputs:
        contents: dict[int, Any] = {}
        for number, (name, dtype) in CONTENTS.items():
            given_ = list(getattr(t.contents, name))
            if given_:
                contents[number] = given_ if dtype is None else (str(dtype), np.array(given_, dtype).tobytes())
        tensors.append((t.name, t.datatype, list(t.shape), told(values(t.parameters)), contents))
    outputs = [(o.name, told(values(o.parameters))) for o in m.outputs]
    own = told(values(m.parameters))
    return m.model_name, m.model_version, m.id, own, tensors, outputs, list(m.raw_input_contents)


@settings(max_examples=300, deadline=None)
@given(requests(), st.integers(0, 7))
def test_what_an_encoder_writes_is_read_alike(made: Any, start: int) -> None:
    data = made.SerializeToString(deterministic=True)
    expected = by_message(data)
    assert expected is not None
    assert plain(decode(b"\x00" * start + data, start)) == expected
    quick = decode_quickly(data)
    assert quick is None or plain(quick) == expected


@settings(max_examples=600, deadline=None)
@given(requests(), st.data())
def test_bytes_that_were_tampered_with_are_read_alike_or_refused_alike(made: Any, data: Any) -> None:
    raw = bytearray(made.SerializeToString(deterministic=True))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw[place : place + cut] = data.draw(st.binary(max_size=3))
    tampered = bytes(raw)
    expected = by_message(tampered)
    if expected is None:
        assert decode_quickly(tampered) is None
        with pytest.raises(DecodeError):
            decode(tampered)
    else:
        assert plain(decode(tampered)) == expected


def test_the_usual_is_read_without_the_message_classes() -> None:
    made = Request(model_name="m", model_version="1", id="x")
    made.parameters["timeout"].int64_param = -5
    made.parameters["priority"].uint64_param = 1 << 63
    made.parameters["on_bad_row"].string_param = "partial"
    made.parameters["flag"].bool_param = True
    made.parameters["ratio"].double_param = 0.5
    tensor = made.inputs.add(name="x", datatype="INT64", shape=[2, -1])
    tensor.contents.int64_contents.extend([-1, 300, 1 << 62])
    tensor.contents.bytes_contents.extend([b"", b"a" * 300])
    made.outputs.add(name="y").parameters["binary_data"].bool_param = True
    made.raw_input_contents.extend([b"", b"r" * 70_000])
    quick = decode_quickly(made.SerializeToString())
    assert quick is not None
    assert quick.parameters == {"timeout": -5, "priority": 1 << 63, "on_bad_row": "partial", "flag": True, "ratio": 0.5}
    assert quick.inputs[0].shape == [2, -1]
    found = quick.inputs[0].contents
    assert np.asarray(found[3]).tolist() == [-1, 300, 1 << 62]
    assert found[8] == [b"", b"a" * 300]
    assert [size for _, _, size in quick.raw] == [0, 70_000]
