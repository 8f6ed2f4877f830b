"""TensorFlow Serving's REST form and KServe's V1, as their documents say.

`TF`: tensorflow/serving, g3doc/api_rest.md. `KServe`: its V1 protocol page.
"""

import base64
from typing import Any

import pytest

from tests.realtime.serving import Served

ROW = {"age": 30, "city": "Bern", "income": 2000.0}


def predict(server: Served, model: str, version: str = "", **body: Any) -> Any:
    answer = server.post(f"/v1/models/{model}{version}:predict", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_input_in_row_format(shared: Served) -> None:
    """TF: "When there is only one named input, specify the value of instances key to be the value of the input"."""
    assert predict(shared, "fragile", instances=[4.0, 9.0]) == {"predictions": [2.0, 3.0]}


def test_one_output_is_bare(shared: Served) -> None:
    """TF: "If the output of the model contains only one named tensor, we omit the name and predictions key maps to a
    list of scalar or list values."
    """
    assert predict(shared, "tabular", instances=[ROW, ROW]) == {"predictions": [36.0, 36.0]}


def test_several_outputs_are_objects(shared: Served) -> None:
    """TF: "If the model outputs multiple named tensors, we output a list of objects instead"."""
    assert predict(shared, "matrix", instances=[[1, 2, 3], [4, 5, 6]]) == {
        "predictions": [
            {"sum": 6.0, "twice": [2.0, 4.0, 6.0], "first": 'é, "1"'},
            {"sum": 15.0, "twice": [8.0, 10.0, 12.0], "first": 'é, "4"'},
        ]
    }


def test_several_outputs_in_columns(shared: Served) -> None:
    """TF: "Each key of this object corresponds to a named output tensor."."""
    expected = {"outputs": {"sum": [6.0], "twice": [[2.0, 4.0, 6.0]], "first": ['é, "1"']}}
    assert predict(shared, "matrix", inputs=[[1, 2, 3]]) == expected
    assert predict(shared, "matrix", inputs={"X": [[1, 2, 3]]}) == expected
    assert predict(shared, "matrix", inputs={"a": [1], "b": [2], "c": [3]}) == expected


def test_one_output_in_columns_is_bare(shared: Served) -> None:
    """TF: "outputs key maps to a list of scalar or list values"."""
    assert predict(shared, "fragile", inputs=[4.0]) == {"outputs": [2.0]}


def test_named_inputs_in_rows(shared: Served) -> None:
    """TF: "each item is expected to be an object containing input name/tensor value pair"."""
    assert predict(shared, "matrix", instances=[{"X": [1, 2, 3]}])["predictions"][0]["sum"] == 6.0
    assert predict(shared, "matrix", instances=[{"c": 3, "a": 1, "b": 2}])["predictions"][0]["sum"] == 6.0


@pytest.mark.parametrize("signature", ["serving_default", ""])
def test_signature_name(shared: Served, signature: str) -> None:
    """TF: "If unspecifed default serving signature is used."."""
    assert predict(shared, "fragile", instances=[4.0], signature_name=signature) == {"predictions": [2.0]}


def test_version(shared: Served) -> None:
    """TF: "/versions/${MODEL_VERSION} is optional. If omitted the latest version is used."."""
    one = predict(shared, "matrix", "/versions/1", instances=[[1, 2, 3]])
    assert one == predict(shared, "matrix", instances=[[1, 2, 3]])
    assert shared.post("/v1/models/matrix/versions/9:predict", {"instances": []}).status_code == 404
    assert shared.post("/v1/models/nothing:predict", {"instances": []}).status_code == 404


def test_binary_values(shared: Served) -> None:
    """TF: "you must Base64 encode the data and encapsulate it in a JSON object having b64 as the key … The same
    format is used to encode output response as well."
    """
    raw = bytes(range(256))
    encoded = {"b64": base64.b64encode(raw).decode()}
    shapes = [("bool", False), ("fp16", 1.5), ("fp32", 1.5), ("fp64", 1.5)]
    shapes += [(f"{sign}int{bits}", 1) for sign in ("", "u") for bits in (8, 16, 32, 64)]
    row = {name: [value, value] for name, value in shapes}
    answer = predict(shared, "every", instances=[{**row, "text": {"b64": "w7w="}, "raw": encoded}])
    assert answer["predictions"][0] == {f"same_{k}": v for k, v in {**row, "text": "ü", "raw": encoded}.items()}
    columns = {name: [values] for name, values in row.items()}
    answer = predict(shared, "every", inputs={**columns, "text": ["ü"], "raw": [encoded]})
    assert answer["outputs"]["same_raw"] == [encoded]


def test_status_has_the_fields_of_both(shared: Served) -> None:
    """TF: "returns a JSON representation of GetModelStatusResponse"; KServe: {"name": …, "ready": $bool}."""
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert shared.get("/v1/models/matrix").json() == {
        "name": "matrix",
        "ready": True,
        "model_version_status": [{"version": "1", **available}, {"version": "2", **available}],
    }
    assert shared.get("/v1/models/matrix/versions/1").json()["model_version_status"] == [{"version": "1", **available}]
    assert shared.get("/v1/models/nothing").status_code == 404


def test_list_of_models(shared: Served) -> None:
    """KServe: GET /v1/models gives {"models": [<model_name>]}."""
    assert shared.get("/v1/models").json() == {"models": ["every", "fragile", "matrix", "sleeper", "tabular"]}


def test_metadata(shared: Served) -> None:
    """TF: the JSON representation of GetModelMetadataResponse."""
    found = shared.get("/v1/models/matrix/versions/1/metadata").json()
    assert found["model_spec"] == {"name": "matrix", "signature_name": "", "version": "1"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["X"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "3", "name": ""}], "unknown_rank": False},
        "name": "X:0",
    }
    assert signature["outputs"]["first"]["dtype"] == "DT_STRING"
