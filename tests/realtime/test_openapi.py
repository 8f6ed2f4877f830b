"""`/openapi.json` says what is true: its examples are answered, and answers and errors have the shape it gives."""

from typing import Any

import jsonschema_rs
import pytest

from tests.realtime.serving import Served


def resolved(document: dict[str, Any], name: str) -> jsonschema_rs.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def document(shared: Served) -> dict[str, Any]:
    return shared.get("/openapi.json").json()


def posts(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, item["post"]) for path, item in document["paths"].items() if "post" in item and path.startswith("/v")
    ]


def test_every_path_that_it_names_is_there(shared: Served, document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method in item:
            assert shared.client.request(method, path).status_code not in (404, 405, 500), (method, path)


def test_its_examples_are_answered_as_it_says(shared: Served, document: dict[str, Any]) -> None:
    tried = 0
    for path, post in posts(document):
        content = post["requestBody"]["content"]["application/json"]
        if "example" not in content:
            continue
        tried += 1
        name = content["schema"]["$ref"].rpartition("/")[2]
        resolved(document, name).validate(content["example"])
        answer = shared.post(path, content["example"])
        assert answer.status_code == 200, (path, answer.text)
        answered = post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        resolved(document, answered).validate(answer.json())
    assert tried >= 10


def test_its_schema_knows_the_signature(document: dict[str, Any]) -> None:
    request = resolved(document, "tabular-1.Request")
    good = {"age": 30, "city": "Bern", "income": None}
    request.validate({"rows": [good]})
    for bad in ({**good, "age": 121}, {**good, "city": "Paris"}, {**good, "age": 1.5}, {**good, "shoe": 43}):
        assert not request.is_valid({"rows": [bad]}), bad
    tensor = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, None, 3]}
    matrix = resolved(document, "matrix-2.Request")
    matrix.validate({"inputs": [tensor]})
    for change in ({"shape": [1, 2]}, {"shape": [3]}, {"datatype": "FP64"}, {"name": "Y"}, {"data": ["1"]}):
        assert not matrix.is_valid({"inputs": [{**tensor, **change}]}), change
    assert not matrix.is_valid({"inputs": [tensor], "rows": []})


def test_errors_are_described(shared: Served, document: dict[str, Any]) -> None:
    for path, post in posts(document):
        if path.endswith(("infer", ":predict")):
            assert {"400", "404", "413", "415", "429", "500", "503", "504"} <= set(post["responses"])
            resolved(document, "Error").validate(shared.post(path, b"{").json())


def test_the_index_leads_there(shared: Served) -> None:
    found = shared.get("/").json()
    assert found["state"] == "serving"
    for path in found["documents"]:
        assert shared.get(path).status_code == 200
