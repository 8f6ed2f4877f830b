"""Live: pieces, bisection, deadlines, fillers, transforms and the seal."""

from __future__ import annotations

import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prediction.recording import X, Y, recorded
from tests.runtimes.packages import make, network_package
from tidemill.errors import PackageError
from tidemill.model.signature import Column, Input, Output
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result
from tidemill.rows import Rows


def ask(live: Live, values: list[Any], **more: Any) -> Result:
    return live.predict(live.intake.from_lists({"x": (None, values)}), **more)


# -- pieces ----------------------------------------------------------------------------------------------------


def test_one_call_unless_bounded(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p")
    assert ask(live, list(range(10))).outputs["y"].tolist() == [2.0 * i for i in range(10)]
    assert calls == [10]


@pytest.mark.parametrize(
    ("call_rows", "max_call_rows", "sizes"),
    [(4, None, [4, 4, 2]), (None, 3, [3, 3, 3, 1]), (4, 3, [3, 3, 3, 1]), (2, 5, [2] * 5), (10, None, [10])],
)
def test_pieces_of_the_smaller_bound(call_rows, max_call_rows, sizes, tmp_path: Path) -> None:
    spec = {"max_call_rows": max_call_rows} if max_call_rows else {}
    live, calls = recorded(tmp_path / "p", call_rows=call_rows, spec=spec)
    assert ask(live, list(range(10))).outputs["y"].tolist() == [2.0 * i for i in range(10)]
    assert calls == sizes


def test_no_rows_make_no_call(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p", call_rows=4)
    assert ask(live, []).n == 0
    assert ask(live, [None, None]).statuses() == ["rejected"] * 2
    assert calls == []


def test_bad_rows_never_reach_the_model(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p")
    result = ask(live, [1, None, 3, None])
    assert calls == [2]
    assert result.statuses() == ["ok", "rejected", "ok", "rejected"]
    assert result.outputs["y"][[0, 2]].tolist() == [2, 6]


# -- a model that raises ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Live, list[int]]:
    return recorded(tmp_path_factory.mktemp("unlucky") / "p", call_rows=16)


@given(st.lists(st.sampled_from([1, 2, 13, None]), max_size=40))
def test_bisection_finds_exactly_the_guilty(unlucky: tuple[Live, list[int]], values: list[int | None]) -> None:
    live, calls = unlucky
    calls.clear()
    result = ask(live, values)
    assert result.statuses() == [{None: "rejected", 13: "failed"}.get(v, "ok") for v in values]
    assert [p.row for p in result.problems] == sorted(p.row for p in result.problems)
    for i, value in enumerate(values):
        if value not in (None, 13):
            assert result.outputs["y"][i] == 2 * value
        else:
            assert math.isnan(result.outputs["y"][i])
    for problem in result.problems:
        if problem.code == "model_failed":
            assert problem.message == "the model failed: ValueError: 13"
    pieces, guilty = math.ceil(len(values) / 16), values.count(13)
    assert len(calls) <= pieces + 2 * guilty * 4  # a path of four halvings down from 16 for each


def test_what_cannot_be_asked_twice_fails_as_a_whole(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p", repeatable=False)
    assert ask(live, [1, 13, 2]).statuses() == ["failed"] * 3
    assert calls == [3]
    live, calls = recorded(tmp_path / "q", repeatable=False, call_rows=2)
    assert ask(live, [1, 13, 2, 3]).statuses() == ["failed", "failed", "ok", "ok"]
    assert calls == [2, 2]


def test_rows_that_depend_on_each_other_are_never_split(tmp_path: Path) -> None:
    body = "return {'y': rows['x'] - rows['x'].mean()}"
    live, calls = recorded(tmp_path / "p", body, rows_independent=False, call_rows=2)
    assert not live.divisible
    assert ask(live, [1, 2, 3]).outputs["y"].tolist() == [-1, 0, 1]
    assert calls == [3]
    result = ask(live, [1, None, 3])
    assert calls == [3], "no answer without the row that is bad"
    assert result.statuses() == ["failed", "rejected", "failed"]
    assert result.problems[0].message == "its call holds a rejected row: row 1: x: is missing, expected a number"
    assert [p.row for p in result.problems] == [0, 1, 2]


def test_dependent_rows_fail_together(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p", rows_independent=False)
    assert ask(live, [1, 13, 2]).statuses() == ["failed"] * 3
    assert calls == [3]


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise MemoryError()", "MemoryError: "),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return self.predict(rows)", "RecursionError"),
        ("raise ValueError('x' * 5000)", "ValueError: xxx"),
        ("raise Exception(chr(0xD800))", "Exception: "),
        ("raise GeneratorExit", "GeneratorExit: "),
        ("import asyncio; raise asyncio.CancelledError('x')", "CancelledError: x"),
        ("raise type('PanicException', (BaseException,), {})('rust')", "PanicException: rust"),
        (
            "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
            "Mute (whose text cannot be read: ZeroDivisionError)",
        ),
    ],
)
def test_whatever_a_model_raises_is_told_and_not_raised(statement: str, text: str, tmp_path: Path) -> None:
    live, _ = recorded(tmp_path / "p", statement)
    result = ask(live, [1.0])
    assert result.statuses() == ["failed"]
    assert result.problems[0].message.startswith("the model failed: " + text)
    assert len(result.problems[0].message) <= 1000
    result.problems[0].message.encode()


def test_only_the_users_own_interrupt_passes(tmp_path: Path) -> None:
    live, _ = recorded(tmp_path / "p", "raise KeyboardInterrupt")
    # A run in the background ignores it, and with it nobody interrupts.
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(live, [1.0])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert ask(live, [1.0]).statuses() == ["failed"]
    finally:
        signal.signal(signal.SIGINT, was)
    with ThreadPoolExecutor(1) as elsewhere:
        assert elsewhere.submit(ask, live, [1.0, 2.0]).result().statuses() == ["failed", "failed"]


# -- deadlines -------------------------------------------------------------------------------------------------


def test_no_call_begins_after_the_deadline(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p")
    result = ask(live, [1, 2], until=time.monotonic() - 1)
    assert calls == []
    assert result.statuses() == ["late", "late"]
    assert result.problems[0].message == "not answered before its deadline"
    assert np.isnan(result.outputs["y"]).all()
    assert ask(live, [1, None], until=time.monotonic() - 1).statuses() == ["late", "rejected"]


def test_pieces_after_the_deadline_are_late(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p", "import time; time.sleep(0.3); return {'y': rows['x']}", call_rows=2)
    result = ask(live, [1, 2, 3, 4, 5], until=time.monotonic() + 0.2)
    assert calls == [2]
    assert result.statuses() == ["ok", "ok", "late", "late", "late"]
    assert [p.row for p in result.problems] == [2, 3, 4]


def test_a_failed_call_is_not_asked_again_after_the_deadline(tmp_path: Path) -> None:
    live, calls = recorded(tmp_path / "p", "import time; time.sleep(0.3); raise ValueError")
    assert ask(live, [1, 2], until=time.monotonic() + 0.2).statuses() == ["late", "late"]
    assert calls == [2]


# -- fillers ---------------------------------------------------------------------------------------------------


def test_fillers_have_the_declared_types_and_shapes(tmp_path: Path) -> None:
    outputs = (
        Output(name="f", datatype="FP32", shape=(-1, 2)),
        Output(name="i", datatype="INT16"),
        Output(name="b", datatype="BOOL", shape=(-1, 1)),
        Output(name="s", datatype="BYTES"),
    )
    body = """
n = len(rows['x'])
return {'f': np.ones((n, 2), np.float32), 'i': np.ones(n, np.int16), 'b': np.ones((n, 1), bool), 's': np.full(n, 'a')}
"""
    live, _ = recorded(tmp_path / "p", body, outputs=outputs)
    for values in ([None, 1.0], [None, None], []):
        result = ask(live, values)
        for output in outputs:
            array = result.outputs[output.name]
            assert array.dtype == output.type.dtype
            assert array.shape == (len(values), *output.shape[1:])
    one = ask(live, [None, 1.0]).outputs
    assert np.isnan(one["f"][0]).all()
    assert one["i"].tolist() == [0, 1]
    assert one["b"].tolist() == [[False], [True]]
    assert one["s"].tolist() == [None, "a"]


def test_fillers_beside_outputs_whose_length_varies(tmp_path: Path) -> None:
    """One piece has nothing but fillers, of length 0; they are stretched to what the others gave."""
    outputs = (Output(name="y", datatype="INT64", shape=(-1, -1)), Output(name="e", datatype="BYTES", shape=(-1, -1)))
    body = """
if (rows['x'] == 13).any():
    raise ValueError
return {'y': np.full((len(rows['x']), 3), 7), 'e': np.full((len(rows['x']), 2), 'a')}
"""
    live, _ = recorded(tmp_path / "p", body, outputs=outputs)
    result = ask(live, [1, 13])
    assert result.outputs["y"].tolist() == [[7, 7, 7], [0, 0, 0]]
    assert result.outputs["e"].tolist() == [["a", "a"], [None, None]]
    assert ask(live, [13]).outputs["y"].shape == (1, 0)


# -- the seal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "returned", "text"),
    [
        (Y[0], "{'z': rows['x']}", "no output 'y'; the model gave z"),
        (Y[0], "{'y': rows['x'].astype('f4')}", "output 'y' is float32, declared FP64"),
        (Y[0], "{'y': rows['x'] > 0}", "output 'y' is bool, declared FP64"),
        (Y[0], "{'y': np.ones((len(rows['x']), 2))}", "output 'y' has shape [2, 2], declared [-1]"),
        (Y[0], "{'y': np.ones(1)}", "Model.predict returned y of shape [1] for 2 rows"),
        (
            Output(name="y", datatype="FP64", shape=(-1, 3)),
            "{'y': np.ones((2, 2))}",
            "output 'y' has shape [2, 2], declared [-1, 3]",
        ),
        (
            Output(name="y", datatype="FP64", shape=(-1, 2, -1)),
            "{'y': np.ones((2, 2))}",
            "output 'y' has shape [2, 2], declared [-1, 2, -1]",
        ),
        (
            Output(name="y", datatype="BYTES"),
            "{'y': np.array(['a', 1], object)}",
            "output 'y' holds int, declared BYTES: expected str",
        ),
        (Output(name="y", datatype="BYTES"), "{'y': [None, b'a']}", "output 'y' holds NoneType, bytes, declared BYTES"),
        (Output(name="y", datatype="BYTES"), "{'y': ['a', chr(0xD800)]}", "output 'y' holds text that is not Unicode"),
        (
            Output(name="y", datatype="BYTES", binary=True),
            "{'y': ['a', 'b']}",
            "output 'y' holds str, declared BYTES: expected bytes",
        ),
    ],
)
def test_what_is_not_as_declared_is_the_models_failure(
    output: Output, returned: str, text: str, tmp_path: Path
) -> None:
    live, _ = recorded(tmp_path / "p", f"return {returned}", outputs=(output,), repeatable=False)
    result = ask(live, [1.0, 2.0])
    assert result.statuses() == ["failed", "failed"]
    assert result.problems[0].message.startswith("the model failed: " + text)
    assert result.problems[0].code == "model_failed"


@pytest.mark.parametrize("declared", [(-1,), (-1, 1)])
@pytest.mark.parametrize("given_", ["rows['x']", "rows['x'].reshape(-1, 1)"])
def test_n_and_n_by_1_are_one_value_a_row(declared: tuple[int, ...], given_: str, tmp_path: Path) -> None:
    live, _ = recorded(
        tmp_path / "p", f"return {{'y': {given_}}}", outputs=(Output(name="y", datatype="FP64", shape=declared),)
    )
    result = ask(live, [1.0, 2.0])
    assert not result.problems
    assert result.outputs["y"].shape == (2, *declared[1:])


def test_an_output_with_missing_cells_is_the_models_failure(tmp_path: Path) -> None:
    """They would be sent as the values that happen to lie under the mask."""
    live, _ = recorded(tmp_path / "p", "return {'y': rows['x'], 'y.valid': rows['x'] > 1}")
    assert ask(live, [2.0]).statuses() == ["ok"]
    assert "output 'y' has missing cells" in ask(live, [1.0]).problems[0].message


def test_outputs_are_exactly_those_declared_in_their_order(tmp_path: Path) -> None:
    live = Live.open(network_package(tmp_path / "p"))
    result = live.predict(live.intake.from_arrays({"x": np.zeros((2, 5), np.float32)}))
    assert list(result.outputs.columns) == ["probabilities", "label", "best"]
    live, _ = recorded(tmp_path / "q", "return {'extra': rows['x'], 'y': rows['x']}")
    assert list(ask(live, [1.0]).outputs.columns) == ["y"]


def test_a_derivation_that_fails_is_the_models_failure(tmp_path: Path) -> None:
    outputs = (
        Output(name="p", datatype="FP64", shape=(-1, -1), labels=("a", "b")),
        Output(name="label", datatype="BYTES", source="p"),
    )
    live, _ = recorded(tmp_path / "p", "return {'p': np.tile([0.1, 0.2, 0.7], (len(rows['x']), 1))}", outputs=outputs)
    assert "class 2 has no label: 2 are declared" in ask(live, [1.0]).problems[0].message


# -- fill and transforms ---------------------------------------------------------------------------------------


def test_fill_is_what_the_model_sees_of_a_missing_cell(tmp_path: Path) -> None:
    inputs = (
        Input(name="f", datatype="FP32", nullable=True, fill=-1),
        Input(name="i", datatype="INT64", nullable=True, fill=7),
        Input(name="b", datatype="BOOL", nullable=True, fill=True),
        Input(name="s", datatype="BYTES", nullable=True, fill="?"),
        Input(name="r", datatype="BYTES", nullable=True, fill="?", binary=True),
        Input(
            name="X",
            datatype="INT32",
            shape=(-1, 2),
            columns=(Column(name="u", nullable=True), Column(name="v")),
            fill=5,
        ),
    )
    outputs = tuple(
        Output(name=i.name.lower() + "o", datatype=i.datatype, shape=i.shape, binary=i.binary) for i in inputs
    )
    body = """
assert not [name for name in rows if name.endswith('.valid')], rows.keys()
return {name.lower() + 'o': array for name, array in rows.items()}
"""
    live, _ = recorded(tmp_path / "p", body, inputs, outputs)
    given_ = live.intake.from_records([{"v": 1}, {"f": 2, "i": 3, "b": False, "s": "a", "r": "b", "u": 4, "v": 6}])
    before = {k: v.tolist() for k, v in given_.columns.items()}
    result = live.predict(given_)
    assert not result.problems
    assert {k: v.tolist() for k, v in result.outputs.columns.items()} == {
        "fo": [-1, 2],
        "io": [7, 3],
        "bo": [True, False],
        "so": ["?", "a"],
        "ro": [b"?", b"b"],
        "xo": [[5, 1], [4, 6]],
    }
    np.testing.assert_equal({k: v.tolist() for k, v in given_.columns.items()}, before)


def transformed(
    directory: Path, source: str, body: str = "return {'y': rows['x']}", inputs: Any = X, outputs: Any = Y
) -> Live:
    declared = f"""
import numpy as np


class Model:
    inputs = {{"x": ("FP64", (-1,))}}
    outputs = {{"y": ("FP64", (-1,))}}

    def predict(self, rows):
        {body}
"""
    return Live.open(
        make(directory, "python", declared, inputs, outputs, files={"transform.py": source}, transform="transform.py")
    )


def test_before_and_after_stand_around_the_model(tmp_path: Path) -> None:
    source = """
import numpy as np

def before(rows):
    return {"x": rows["a"] + rows["b"]}

def after(rows):
    return {"cents": np.rint(rows["y"] * 100).astype(np.int64)}
"""
    inputs = (Input(name="a", datatype="FP64"), Input(name="b", datatype="FP64"))
    live = transformed(tmp_path / "p", source, inputs=inputs, outputs=(Output(name="cents", datatype="INT64"),))
    result = live.predict(live.intake.from_records([{"a": 1, "b": 0.5}, {"a": 1}]))
    assert result.statuses() == ["ok", "rejected"]
    assert result.outputs["cents"].tolist() == [150, 0]


def test_before_is_given_the_masks(tmp_path: Path) -> None:
    source = """
import numpy as np

def before(rows):
    valid = rows.get("x.valid", np.ones(len(rows["x"]), bool))
    return {"x": np.where(valid, rows["x"], -1.0)}
"""
    live = transformed(tmp_path / "p", source, inputs=(Input(name="x", datatype="INT64", nullable=True),))
    assert ask(live, [5, None]).outputs["y"].tolist() == [5, -1]
    assert ask(live, [5]).outputs["y"].tolist() == [5]


def test_only_the_rows_that_a_transform_fails_on_fail(tmp_path: Path) -> None:
    source = "def before(rows):\n    if (rows['x'] < 0).any():\n        raise ValueError('negative')\n    return rows\n"
    result = ask(transformed(tmp_path / "p", source), [1, -1, 2])
    assert result.statuses() == ["ok", "failed", "ok"]
    assert result.problems[0].message == "the model failed: ValueError: negative"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def before(rows):\n    return None\n", "transform.before returned NoneType, expected a dict of arrays"),
        ("def before(rows):\n    return {'x': rows['x'][:1]}\n", "transform.before returned x of shape [1] for 2 rows"),
        ("def after(rows):\n    return [1, 2]\n", "transform.after returned list, expected a dict of arrays"),
        ("def after(rows):\n    return {'z': rows['y']}\n", "no output 'y'; the model gave z"),
        (
            "def after(rows):\n    rows['y'][0] = 1\n    return rows\n",
            "ValueError: assignment destination is read-only",
        ),
    ],
)
def test_what_a_transform_may_not_do(source: str, text: str, tmp_path: Path) -> None:
    live = transformed(tmp_path / "p", source)
    live._bisect = False  # the whole call's own words
    assert text in ask(live, [1.0, 2.0]).problems[0].message


def test_a_transform_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"transform\.py defines neither before\(rows\) nor after\(rows\)"):
        transformed(tmp_path / "p", "x = 1\n")
    with pytest.raises(PackageError, match=r"transform\.py cannot be loaded: NameError"):
        transformed(tmp_path / "q", "x = y\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 5))
def test_a_result_has_as_many_rows_as_it_was_asked(unlucky: tuple[Live, list[int]], n: int) -> None:
    live, _ = unlucky
    result = live.predict(Rows({"x": np.arange(float(n))}, n))
    assert result.n == n == len(result.outputs["y"])
