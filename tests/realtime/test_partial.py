"""Bad rows: refused whole, all of them named; or, when asked, answered in part."""

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.realtime.serving import Served

GOOD = {"age": 30, "city": "Bern", "income": 2000.0}
PARTIAL = {"on_bad_row": "partial"}


def rows(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**GOOD, **c} for c in changes]


def test_all_bad_rows_are_named(shared: Served) -> None:
    answer = shared.infer("tabular", rows=rows({}, {"age": -1}, {}, {"city": "Paris", "age": 200}))
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "2 of 4 rows rejected: row 1: age: got -1, expected ≥ 0; row 3: age: got 200, expected ≤ 120; "
        "row 3: city: got 'Paris', expected one of Bern, Zürich, Genève"
    )


def test_the_first_hundred_are_shown_and_the_rest_counted(shared: Served) -> None:
    answer = shared.infer("tabular", rows=rows(*[{"age": -1}] * 250))
    error = answer.json()["error"]
    assert error.startswith("250 of 250 rows rejected: row 0: ")
    assert "row 99: " in error
    assert "row 100: " not in error
    assert error.endswith("; and 150 more")


def test_good_rows_are_answered_and_bad_ones_say_why(shared: Served) -> None:
    answer = shared.infer("tabular", rows=rows({}, {"age": -1}, {"age": 1}, {"city": "Paris"}), parameters=PARTIAL)
    assert answer.status_code == 200
    body = answer.json()
    assert body["outputs"] == [{"name": "score", "datatype": "FP64", "shape": [4], "data": [36.0, None, 7.0, None]}]
    assert body["parameters"] == {
        "bad_rows": 2,
        "row_errors": [
            {
                "row": 1,
                "status": "rejected",
                "code": "below_minimum",
                "field": "age",
                "message": "age: got -1, expected ≥ 0",
            },
            {
                "row": 3,
                "status": "rejected",
                "code": "unknown_category",
                "field": "city",
                "message": "city: got 'Paris', expected one of Bern, Zürich, Genève",
            },
        ],
    }


def test_a_partial_answer_without_bad_rows_says_so(shared: Served) -> None:
    body = shared.infer("tabular", rows=rows({}), parameters=PARTIAL).json()
    assert body["parameters"] == {"bad_rows": 0, "row_errors": []}


def test_in_a_binary_answer_the_reasons_stand_in_its_json(shared: Served) -> None:
    with triton.InferenceServerClient(shared.address) as client:
        x = triton.InferInput("X", [3, 3], "FP32")
        x.set_data_from_numpy(np.array([[1, 2, 3], [-1, 2, 3], [4, 5, 6]], np.float32))
        result = client.infer("matrix", [x], parameters=PARTIAL)
    found = result.as_numpy("sum")
    assert found[[0, 2]].tolist() == [6, 15]
    assert np.isnan(found[1])
    assert [e["row"] for e in result.get_response()["parameters"]["row_errors"]] == [1]


def test_v1_answers_in_part_too(shared: Served) -> None:
    body = {"instances": rows({}, {"age": -1}), "parameters": PARTIAL}
    answer = shared.post("/v1/models/tabular:predict", body).json()
    assert answer["predictions"] == [36.0, None]
    assert [(e["row"], e["code"]) for e in answer["row_errors"]] == [(1, "below_minimum")]
    whole = shared.post("/v1/models/tabular:predict", {"instances": rows({}, {"age": -1})})
    assert whole.status_code == 400
    assert "row 1: age: got -1" in whole.json()["error"]


def roots(*values: float) -> list[dict[str, Any]]:
    return [{"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}]


def test_a_model_that_fails_on_a_row_is_500_and_names_it(shared: Served) -> None:
    answer = shared.infer("fragile", inputs=roots(4.0, -1.0))
    assert answer.status_code == 500
    assert answer.json()["error"] == (
        "1 of 2 rows failed: row 1: the model failed: ValueError: the root of a negative number"
    )


def test_what_the_caller_did_wrong_comes_before_what_the_model_did(shared: Served) -> None:
    answer = shared.infer("fragile", inputs=roots(-1.0, -11.0))
    assert answer.status_code == 400
    assert "1 of 2 rows rejected: row 1" in answer.json()["error"]


def test_a_model_that_fails_on_a_row_answers_the_others_in_part(shared: Served) -> None:
    answer = shared.infer("fragile", inputs=roots(4.0, -1.0, 9.0, -11.0), parameters=PARTIAL).json()
    assert answer["outputs"][0]["data"] == [2.0, None, 3.0, None]
    assert [(e["row"], e["status"], e["code"]) for e in answer["parameters"]["row_errors"]] == [
        (1, "failed", "model_failed"),
        (3, "rejected", "below_minimum"),
    ]


@pytest.mark.parametrize("way", ["null", "mask", "left out", "binary mask"])
def test_missing_cells(shared: Served, way: str) -> None:
    """A missing age counts as 40 in this model, a missing income as 1000."""
    if way == "left out":
        answer = shared.infer("tabular", rows=[{"city": "Bern"}, GOOD])
    elif way == "binary mask":
        with triton.InferenceServerClient(shared.address) as client:
            columns = {"age": ("INT32", np.int32), "income": ("FP64", np.float64), "age.valid": ("BOOL", np.bool_)}
            values = {"age": [7, 30], "income": [np.nan, 2000.0], "age.valid": [False, True]}
            inputs = []
            for name, (datatype, dtype) in columns.items():
                inputs.append(triton.InferInput(name, [2], datatype))
                inputs[-1].set_data_from_numpy(np.array(values[name], dtype))
            inputs.append(triton.InferInput("city", [2], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array(["Bern", "Bern"], object))
            assert client.infer("tabular", inputs).as_numpy("score").tolist() == [45.0, 36.0]
        return
    else:
        age = [None, 30] if way == "null" else [7, 30]
        inputs = [
            {"name": "age", "shape": [2], "datatype": "INT32", "data": age},
            {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Bern", "Bern"]},
            {"name": "income", "shape": [2], "datatype": "FP64", "data": [None, 2000]},
        ]
        if way == "mask":
            inputs.append({"name": "age.valid", "shape": [2], "datatype": "BOOL", "data": [False, True]})
        answer = shared.infer("tabular", inputs=inputs)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == [45.0, 36.0]


def test_named_columns_fill_a_tensor(shared: Served) -> None:
    columns = [
        {"name": n, "shape": [2], "datatype": "FP32", "data": d}
        for n, d in (("c", [3, 6]), ("a", [1, 4]), ("b", [2, 5]))
    ]
    expected = [6.0, 15.0]
    by_columns = shared.infer("matrix", inputs=columns)
    by_rows = shared.infer("matrix", rows=[{"a": 1, "b": 2, "c": 3}, {"c": 6, "b": 5, "a": 4}])
    whole = shared.infer(
        "matrix", inputs=[{"name": "X", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]
    )
    assert by_columns.json() == by_rows.json() == whole.json()
    assert whole.json()["outputs"][0]["data"] == expected
