"""Requests that parse but mean little or nothing: each is answered, none with an internal error."""

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.realtime.grpc.calls import SERVICE, message
from tests.realtime.serving import Served
from tidemill.assurance.grpc_client import GrpcClient
from tidemill.datatypes import DATATYPES

EXAMPLES = int(os.environ.get("TIDEMILL_FUZZ", 0)) or 200
# Fine, wrong, late, unknown, or refused where the machine is busy with other tests.
GOOD = {0, 3, 4, 5, 8}

names = st.sampled_from(["X", "a", "b", "c", "X.valid", "age", "city", "income", "int8", "text", "raw", "", "é"])
shapes = st.lists(st.sampled_from([0, 1, 2, 3, -1, 1 << 40, (1 << 63) - 1, -(1 << 63)]), max_size=4)
CONTENTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64_contents": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint_contents": st.integers(0, (1 << 32) - 1),
    "uint64_contents": st.integers(0, (1 << 64) - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
KNOWN = ["timeout", "priority", "on_bad_row", "binary_data_output", "sequence_id", "timing", "x"]
values = st.one_of(
    st.tuples(st.just("bool_param"), st.booleans()),
    st.tuples(st.just("int64_param"), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just("string_param"), st.sampled_from(["partial", "reject", "", "high"])),
    st.tuples(st.just("double_param"), st.floats()),
    st.tuples(st.just("uint64_param"), st.integers(0, (1 << 64) - 1)),
)


@st.composite
def requests(draw: Any) -> Any:
    made = message("inference.ModelInferRequest")(
        model_name=draw(st.sampled_from(["matrix", "tabular", "every", "fragile", "matrix@", ""])),
        model_version=draw(st.sampled_from(["", "", "1", "9"])),
        id=draw(st.text(max_size=3)),
    )
    for key, (field, value) in draw(st.dictionaries(st.sampled_from(KNOWN), values, max_size=2)).items():
        setattr(made.parameters[key], field, value)
    for _ in range(draw(st.integers(0, 3))):
        datatype = draw(st.sampled_from([*DATATYPES, "BF16", ""]))
        tensor = made.inputs.add(name=draw(names), datatype=datatype, shape=draw(shapes))
        if draw(st.booleans()):
            field = draw(st.sampled_from([*CONTENTS]))
            getattr(tensor.contents, field).extend(draw(st.lists(CONTENTS[field], max_size=6)))
    for name in draw(st.lists(st.sampled_from(["sum", "twice", "first", "score", "same_text", "no"]), max_size=2)):
        made.outputs.add(name=name)
    sizes = st.sampled_from([0, 1, 4, 8, 12, 24])
    for size in draw(st.lists(sizes, max_size=3)):
        made.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size)))
    return made


@pytest.fixture(scope="module")
def client(shared: Served) -> Iterator[GrpcClient]:
    with closing(GrpcClient("127.0.0.1", shared.port)) as found:
        yield found


@settings(max_examples=EXAMPLES)
@given(requests())
def test_every_request_is_answered(client: GrpcClient, made: Any) -> None:
    answer = client.call(f"{SERVICE}/ModelInfer", [made.SerializeToString()])
    assert answer.status in GOOD, (answer, made)
    assert (answer.text == "") == (answer.status == 0)


@settings(max_examples=EXAMPLES // 4)
@given(st.lists(requests(), min_size=1, max_size=4))
def test_every_request_of_a_stream_is_answered(client: GrpcClient, made: list[Any]) -> None:
    answer = client.call(f"{SERVICE}/ModelStreamInfer", [one.SerializeToString() for one in made])
    assert answer.status == 0
    assert len(answer.messages) == len(made)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=40))
def test_bytes_that_may_be_no_message_are_answered(client: GrpcClient, data: bytes) -> None:
    answer = client.call(f"{SERVICE}/ModelInfer", [data])
    assert answer.status in GOOD | {13}
    if answer.status == 13:
        assert answer.text == "the message is no inference.ModelInferRequest"
