"""Each rule of the signature, and the words it is told in."""

import pytest

from tidemill.model.signature import Column, Input, Output, signature_problems

X = Input(name="x", datatype="FP32")
SCORES = Output(name="scores", datatype="FP32", shape=(-1, 2), labels=("no", "yes"))
VALUE = Output(name="value", datatype="FP32")

GOOD_INPUTS = [
    Input(name="a", datatype="INT64", nullable=True, minimum=0, maximum=9, categories=(1, 2), fill=0),
    Input(name="b", datatype="BYTES", categories=("u", "v"), fill="u"),
    Input(name="c", datatype="FP16", shape=(-1, 3, -1)),
    Input(name="d", datatype="FP64", shape=(-1, 2), columns=(Column(name="p"), Column(name="q", nullable=True))),
    Input(name="e", datatype="BOOL", fill=True),
]
GOOD_OUTPUTS = [
    SCORES,
    Output(name="hit", datatype="BOOL", source="scores", threshold=0.5),
    Output(name="best", datatype="BYTES", source="scores"),
    Output(name="top", datatype="BYTES", shape=(-1, 1), source="scores", top_k=1),
    Output(name="top_scores", datatype="FP32", shape=(-1, 1), source="scores", top_k=1),
]


def test_a_rich_signature_has_no_problems() -> None:
    assert list(signature_problems(tuple(GOOD_INPUTS), tuple(GOOD_OUTPUTS))) == []


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Input(name="x", datatype="FP32", shape=(3,)), "inputs[0] (x): shape [3] must begin with -1, the rows"),
        (Input(name="x", datatype="FP32", shape=(-1, 0)), "shape [-1, 0] may hold -1 and positive numbers only"),
        (Input(name="x", datatype="BYTES", minimum=0), "minimum and maximum are for numbers, not BYTES"),
        (Input(name="x", datatype="FP32", minimum=2, maximum=1), "minimum 2 of x is above its maximum 1"),
        (Input(name="x", datatype="FP32", categories=(1,)), "categories are for text and integers"),
        (Input(name="x", datatype="INT8", categories=("a",)), "categories of a INT8 input are integers"),
        (Input(name="x", datatype="FP32", binary=True), "binary is for BYTES"),
        (Input(name="x", datatype="INT32", fill=1.5), "fill 1.5 is not a value of INT32"),
        (Input(name="x", datatype="INT32", fill=True), "fill True is not a value of INT32"),
        (Input(name="x", datatype="INT8", fill=128), "fill 128 is not a value of INT8"),
        (Input(name="x", datatype="UINT8", categories=(1, 256)), "category 256 is not a value of UINT8"),
        (Input(name="x", datatype="FP32", maximum=float("nan")), "minimum and maximum of x must be numbers, got nan"),
        (
            Input(name="x", datatype="FP32", shape=(-1, 3), columns=(Column(name="a"), Column(name="b"))),
            "2 columns cannot fill shape [-1, 3]; it must be [-1, 2]",
        ),
        (
            Input(name="x", datatype="FP32", shape=(-1, 1), columns=(Column(name="a"),), nullable=True),
            "with columns, nullable, minimum and maximum are given for each column",
        ),
    ],
)
def test_a_wrong_input_is_told(one: Input, told: str) -> None:
    found = list(signature_problems((one,), (VALUE,)))
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Output(name="y", datatype="INT64", tolerance=0.1), "tolerance is for float outputs, not INT64"),
        (Output(name="y", datatype="BOOL", threshold=0.5), "threshold and top_k need `from`"),
        (
            Output(name="y", datatype="INT64", shape=(-1, 3), source="scores", top_k=3),
            "more than the 2 scores of scores",
        ),
        (
            Output(name="y", datatype="BOOL", source="scores", threshold=float("nan")),
            "threshold must be a number, got nan",
        ),
        (Output(name="y", datatype="FP32", shape=(-1, 2), labels=("a", "a")), "labels ['a'] are given twice"),
        (Output(name="y", datatype="BOOL", source="nowhere", threshold=0.5), "from = 'nowhere' is not a float output"),
        (
            Output(name="y", datatype="BOOL", source="scores", threshold=0.5, top_k=1),
            "threshold and top_k exclude each other",
        ),
        (Output(name="y", datatype="INT64", source="scores", top_k=2), "top_k = 2 gives shape [-1, 2], not [-1]"),
        (Output(name="y", datatype="BOOL", shape=(-1, 1), source="scores", top_k=1), "top_k gives BYTES (labels)"),
        (Output(name="y", datatype="INT64", source="scores", threshold=0.5), "threshold gives BOOL or BYTES"),
        (Output(name="y", datatype="FP32", source="scores"), "the best class is BYTES (its label) or INT64"),
        (Output(name="y", datatype="INT64", source="value"), "needs scores of shape [-1, classes]; value has [-1]"),
    ],
)
def test_a_wrong_output_is_told(one: Output, told: str) -> None:
    found = list(signature_problems((X,), (SCORES, VALUE, one)))
    assert any(told in f for f in found), found


def test_names_are_unique_over_inputs_and_their_columns() -> None:
    matrix = Input(name="m", datatype="FP32", shape=(-1, 1), columns=(Column(name="x"),))
    assert list(signature_problems((X, matrix), (VALUE, VALUE))) == [
        "inputs: the name 'x' is used twice",
        "outputs: the name 'value' is used twice",
    ]


def test_both_sides_are_required() -> None:
    assert list(signature_problems((), ())) == ["inputs: at least one is required", "outputs: at least one is required"]
