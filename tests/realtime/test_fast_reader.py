"""The quick way in reads what the general one reads, and nothing else: same rows, or left alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.realtime import packages
from tidemill.errors import InputError
from tidemill.model.package import open_package
from tidemill.model.signature import Input
from tidemill.prediction.live import Live
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.oip_fast import FastReader
from tidemill.realtime.protocols.oip_request import Reader

# The strategies below are long to print, which Hypothesis does when it has something to tell of them.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

LIMITS = RequestLimits(max_rows=4, max_elements=9)

NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(),
    st.sampled_from([0, -0.0, 1e39, -1e39, 3.4028236e38, 2**53 + 1, 2**64, 10**400, 1e-46]),
)
CELL = st.one_of(NUMBER, NUMBER, NUMBER, st.none(), st.booleans(), st.text(max_size=2), st.lists(NUMBER, max_size=2))
GOOD_DATA = st.lists(NUMBER, min_size=3, max_size=3)
DATA = st.one_of(GOOD_DATA, st.lists(CELL, max_size=10), st.lists(st.lists(CELL, max_size=4), max_size=3), CELL)
DIMENSION = st.one_of(st.sampled_from([0, 1, 2, 3, 3, 3, 4, 5, -1, 2**62, 2**70, 3.0, True, None]), st.integers())
SHAPE = st.one_of(st.just([1, 3]), st.just([2, 3]), st.lists(DIMENSION, max_size=3), CELL)
TENSOR = st.one_of(
    st.fixed_dictionaries(
        {
            "name": st.one_of(st.just("X"), st.sampled_from(["a", "Y", None])),
            "shape": SHAPE,
            "datatype": st.one_of(st.just("FP32"), st.sampled_from(["FP64", "INT32", 3])),
            "data": DATA,
        },
        optional={"parameters": st.sampled_from([{}, {"binary_data_size": 12}, None]), "more": CELL},
    ),
    CELL,
)
BODY = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(TENSOR, min_size=1, max_size=1), st.lists(TENSOR, max_size=2), CELL)},
    optional={
        "id": st.one_of(st.text(max_size=3), st.none(), st.integers()),
        "outputs": st.sampled_from([[], [{"name": "sum"}], None]),
        "parameters": st.sampled_from([{}, {"timeout": 5}, None]),
        "more": CELL,
    },
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> tuple[FastReader, Reader]:
    live = Live.open(open_package(packages.matrix(tmp_path_factory.mktemp("fast"))))
    fast = FastReader.of(live.package.manifest.inputs, LIMITS)
    assert fast is not None
    return fast, Reader(live.intake, ["sum"], LIMITS)


def compare(readers: tuple[FastReader, Reader], body: bytes) -> bool:
    """Whether the quick way read it; then the general one reads the same."""
    fast, reader = readers
    found = fast.read(body)
    if found is None:
        return False
    rows, id_ = found
    general, asked = reader.read(body, None)
    assert (rows.n, id_) == (general.n, asked.id)
    assert (asked.partial, asked.timeout) == (False, None)
    assert not any(binary for _, binary in asked.outputs)
    assert rows.columns["X"].dtype == general.columns["X"].dtype
    assert rows.columns["X"].shape == general.columns["X"].shape
    assert np.ascontiguousarray(rows.columns["X"]).tobytes() == np.ascontiguousarray(general.columns["X"]).tobytes()
    assert not rows.valid
    assert not general.valid
    return True


@given(BODY)
@example({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1e39, -1e39, 0.1]}]})
@example({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [None, None, 1]}]})
@example({"inputs": [{"name": "X", "shape": [2, 3], "datatype": "FP32", "data": [None, 2**64, 1, 2, 3, 4]}]})
@example({"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [True, 1, 1]}]})
def test_both_ways_read_the_same(readers: tuple[FastReader, Reader], body: dict[str, Any]) -> None:
    compare(readers, json.dumps(body).encode())


@given(st.lists(NUMBER, min_size=3, max_size=3), st.sampled_from([None, "x"]))
def test_the_quick_way_is_taken_by_what_it_is_for(
    readers: tuple[FastReader, Reader], data: list[float], id_: str | None
) -> None:
    tensor = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor], **({} if id_ is None else {"id": id_})}).encode()
    small = all(abs(v) < (2**63 if isinstance(v, int) else 1e34) for v in data)
    assert compare(readers, body) or not small


@given(st.binary(max_size=40), st.integers(0, 80), st.integers(0, 20))
def test_damaged_text_is_read_alike(readers: tuple[FastReader, Reader], junk: bytes, at: int, cut: int) -> None:
    body = orjson.dumps(
        {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2.5, 3]}], "id": "é"}
    )
    compare(readers, body[:at] + junk + body[at + cut :])


FRAMED = b'{"inputs":[{"name":"X","shape":[1,3],"datatype":"FP32","data":%b}]}'


@given(
    st.one_of(
        st.lists(CELL, max_size=5).map(json.dumps),
        st.sampled_from(
            ["[1,2,3]]", "[1,2,3],[1,2,3]", "[1,2,3", "[ 1 ,\n2, 3 ]", '[1,2,3],"more":[1,2,3]', "[1,2,3,]", "3"]
        ),
        st.text(alphabet='[],"{}:123.e-data ', max_size=30),
    )
)
def test_within_a_known_frame_only_three_numbers_are_read(readers: tuple[FastReader, Reader], data: str) -> None:
    assert compare(readers, FRAMED % b"[1.5,2,3]")  # now its frame is known
    compare(readers, FRAMED % data.encode())


@pytest.mark.parametrize("name", ['"data":[', 'a"data":[1.0, 2.0, 3.0]', "[", "data"])
def test_a_name_like_a_frame_misleads_nobody(name: str) -> None:
    fast = FastReader(Input(name=name, datatype="FP32", shape=(-1, 3)), LIMITS)
    for data in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        body = json.dumps({"inputs": [{"name": name, "shape": [1, 3], "datatype": "FP32", "data": data}]}).encode()
        found = fast.read(body)
        assert found is not None
        assert found[0].columns[name].tolist() == [data]


def test_what_the_general_way_refuses_the_quick_way_leaves_alone(readers: tuple[FastReader, Reader]) -> None:
    fast, reader = readers
    tensor = {"name": "X", "shape": [5, 3], "datatype": "FP32", "data": [0] * 15}
    body = json.dumps({"inputs": [tensor]}).encode()
    assert fast.read(body) is None
    with pytest.raises(InputError, match="at most 4 are taken"):
        reader.read(body, None)


def test_models_it_is_not_for(tmp_path: Path) -> None:
    for package in (packages.tabular(tmp_path), packages.sleeper(tmp_path), packages.every_type(tmp_path)):
        assert FastReader.of(open_package(package).manifest.inputs, LIMITS) is None
