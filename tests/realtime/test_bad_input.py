"""Bad input: a 4xx with one clear error, a server that lives, and others that are answered."""

import base64
import gc
import gzip
import json
import struct
import threading
import zlib
from contextlib import suppress
from typing import Any

import pytest

from tests.realtime.serving import Served, served
from tidemill.errors import InputError
from tidemill.realtime import RequestLimits, ServeOptions
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.protocols.oip_request import LARGE, load_json

X = {"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
GOOD = {"inputs": [X]}


def x(**changes: Any) -> bytes:
    return json.dumps({"inputs": [{**X, **changes}]}).encode()


def row(**changes: Any) -> bytes:
    return json.dumps({"rows": [{"age": 4, "city": "Bern", "income": 1.5, **changes}]}).encode()


def binary(size: int, data: bytes, name: str = "X", shape: str = "[1,3]", datatype: str = "FP32") -> tuple[bytes, int]:
    header = b'{"inputs":[{"name":"%b","shape":%b,"datatype":"%b","parameters":{"binary_data_size":%d}}]}' % (
        name.encode(),
        shape.encode(),
        datatype.encode(),
        size,
    )
    return header + data, len(header)


MATRIX, TABULAR, EVERY = (f"/v2/models/{m}/infer" for m in ("matrix", "tabular", "every"))
V1 = "/v1/models/tabular:predict"
# name → (path, body, status, what the error says)
CASES: dict[str, tuple[str, bytes, int, str]] = {
    "empty body": (MATRIX, b"", 400, "malformed JSON"),
    "cut JSON": (MATRIX, b'{"inputs":[', 400, "malformed JSON"),
    "not UTF-8": (MATRIX, b'{"inputs":"\xff"}', 400, "malformed JSON"),
    "NaN literal": (MATRIX, x().replace(b"1, 2", b"NaN, 2"), 400, "malformed JSON"),
    "NaN as Python writes it": (MATRIX, x(data=[1, float("nan"), 3]), 400, "JSON has no NaN: write null"),
    "-Infinity": (MATRIX, x(data=[1, -float("inf"), 3]), 400, "JSON has no Infinity: write null"),
    "NaN behind text": (V1, '{"é":"😀","instances":NaN}'.encode(), 400, "JSON has no NaN: write null"),
    "cut in a NaN": (V1, b"Na", 400, "malformed JSON"),
    "trailing JSON": (MATRIX, x() + b"{}", 400, "malformed JSON"),
    "an array": (MATRIX, b"[]", 400, "the request is a JSON array, expected an object"),
    "no inputs": (MATRIX, b"{}", 400, "inputs is missing"),
    "inputs an object": (MATRIX, b'{"inputs":{}}', 400, "inputs is a JSON object, expected an array"),
    "a number for an input": (MATRIX, b'{"inputs":[1]}', 400, "inputs[0] is a JSON number"),
    "an input without a name": (MATRIX, b'{"inputs":[{}]}', 400, "inputs[0]: name is missing"),
    "no shape": (MATRIX, b'{"inputs":[{"name":"X","datatype":"FP32","data":[1,2,3]}]}', 400, "X: shape is None"),
    "no datatype": (MATRIX, b'{"inputs":[{"name":"X","shape":[1,3],"data":[1,2,3]}]}', 400, "X: datatype is missing"),
    "no data": (MATRIX, b'{"inputs":[{"name":"X","shape":[1,3],"datatype":"FP32"}]}', 400, "X: data is missing"),
    "data a string": (MATRIX, x(data="123"), 400, "X: data is a JSON string, expected an array"),
    "wrong name": (MATRIX, x(name="Y"), 400, "unknown input 'Y'"),
    "wrong datatype": (MATRIX, x(datatype="FP64"), 400, "X: got datatype FP64, expected FP32"),
    "unknown datatype": (MATRIX, x(datatype="FP8"), 400, "unknown datatype 'FP8'"),
    "BF16": (MATRIX, x(datatype="BF16"), 400, "BF16 is not carried"),
    "wrong width": (MATRIX, x(shape=[1, 2], data=[1, 2]), 400, "X: got shape [1, 2], expected [-1, 3]"),
    "wrong rank": (MATRIX, x(shape=[3]), 400, "X: got shape [3], expected [-1, 3]"),
    "a scalar": (MATRIX, x(shape=[]), 400, "X: shape is []"),
    "shape and data disagree": (MATRIX, x(shape=[2, 3]), 400, "data has 3 elements, shape [2, 3] needs 6"),
    "ragged": (MATRIX, x(shape=[2, 3], data=[[1, 2, 3], [4, 5]]), 400, "nested data is ragged: element 1 on axis 0"),
    "mixed nesting": (MATRIX, x(data=[1, [2], 3]), 400, "array"),
    "text among numbers": (MATRIX, x(data=[1, "2", 3]), 400, "element 1 is string '2': FP32 needs a JSON number"),
    "true among numbers": (MATRIX, x(data=[1, True, 3]), 400, "element 1 is boolean"),
    "an object among numbers": (MATRIX, x(data=[1, {}, 3]), 400, "element 1 is object"),
    "negative dimension": (MATRIX, x(shape=[-1, 3]), 400, "expected an array of integers ≥ 0"),
    "fractional dimension": (MATRIX, x(shape=[1.0, 3]), 400, "expected an array of integers ≥ 0"),
    "boolean dimension": (MATRIX, x(shape=[True, 3]), 400, "expected an array of integers ≥ 0"),
    "a tensor twice": (MATRIX, json.dumps({"inputs": [X, X]}).encode(), 400, "input 'X' is sent twice"),
    "a column beside its tensor": (
        MATRIX,
        json.dumps({"inputs": [X, {"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode(),
        400,
        "a is a column of X; send one or the other",
    ),
    "a column is missing": (
        MATRIX,
        json.dumps({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode(),
        400,
        "missing columns of X: 'b', 'c'",
    ),
    "null where none may be": (MATRIX, x(data=[1, 2, None]), 400, "row 0: c: is missing"),
    "out of range": (MATRIX, x(data=[-1, 2, 3]), 400, "row 0: a: got -1.0, expected ≥ 0"),
    "number that no FP32 holds": (
        MATRIX,
        x(shape=[2, 3], data=[[1, 2, 3], [4, 5, 1e39]]),
        400,
        "X: element 5 (row 1) is 1e+39, outside FP32",
    ),
    "the same, flat": (
        MATRIX,
        x(shape=[2, 3], data=[1, 2, 3, 4, 5, -1e39]),
        400,
        "X: element 5 (row 1) is -1e+39, outside FP32",
    ),
    "a large number that FP32 holds": (MATRIX, x(data=[1e37, 2, 3]), 200, ""),
    "number that no double holds": (MATRIX, x().replace(b"[1, 2, 3]", b"[1e999, 2, 3]"), 400, "malformed JSON"),
    "unknown output": (MATRIX, json.dumps({**GOOD, "outputs": [{"name": "z"}]}).encode(), 400, "unknown output 'z'"),
    "an output twice": (
        MATRIX,
        json.dumps({**GOOD, "outputs": [{"name": "sum"}, {"name": "sum"}]}).encode(),
        400,
        "output 'sum' is asked for twice",
    ),
    "outputs a string": (MATRIX, json.dumps({**GOOD, "outputs": "sum"}).encode(), 400, "outputs is a JSON string"),
    "classification": (
        MATRIX,
        json.dumps({**GOOD, "outputs": [{"name": "sum", "parameters": {"classification": 2}}]}).encode(),
        400,
        "classification is not offered",
    ),
    "parameters a list": (MATRIX, json.dumps({**GOOD, "parameters": []}).encode(), 400, "expected an object"),
    "timeout a string": (MATRIX, json.dumps({**GOOD, "parameters": {"timeout": "1"}}).encode(), 400, "microseconds"),
    "timeout negative": (MATRIX, json.dumps({**GOOD, "parameters": {"timeout": -1}}).encode(), 400, "microseconds"),
    "binary_data_output a number": (
        MATRIX,
        json.dumps({**GOOD, "parameters": {"binary_data_output": 1}}).encode(),
        400,
        "parameter binary_data_output of the request: got 1, expected true or false",
    ),
    "unknown on_bad_row": (
        MATRIX,
        json.dumps({**GOOD, "parameters": {"on_bad_row": "skip"}}).encode(),
        400,
        "parameter on_bad_row: got 'skip', expected 'reject' or 'partial'",
    ),
    "unknown model": ("/v2/models/nothing/infer", x(), 404, "unknown model 'nothing'"),
    "V1 unknown model": ("/v1/models/nothing:predict", b"{}", 404, "unknown model 'nothing'"),
    "V1 unknown version": ("/v1/models/matrix/versions/9:predict", b"{}", 404, "unknown version '9'"),
    "V1 unknown verb": ("/v1/models/matrix:classify", b"{}", 404, "no such path: /v1/models/matrix:classify"),
    "a long wrong name": (MATRIX, x(name="n" * 10_000), 400, "unknown input 'nnn"),
    "a long name of a mask": (MATRIX, x(name="n" * 10_000 + ".valid"), 400, "unknown input 'nnn"),
    "a long wrong output": (MATRIX, json.dumps({**GOOD, "outputs": [{"name": "n" * 10_000}]}).encode(), 400, "'nnn"),
    "unknown version": ("/v2/models/matrix/versions/9/infer", x(), 404, "unknown version '9'"),
    "unknown category": (TABULAR, row(city="Paris"), 400, "row 0: city: got 'Paris', expected one of Bern, Zürich"),
    "integer out of its datatype": (TABULAR, row(age=2**31), 400, "element 0 (row 0) is 2147483648, outside INT32"),
    "huge integer": (TABULAR, row(age=10**30), 400, "age"),
    "a fraction for an integer": (
        TABULAR,
        row(age=1.5),
        400,
        "age: element 0 is float 1.5: INT32 needs a JSON integer",
    ),
    "unknown column": (TABULAR, row(shoe=43), 400, "unknown input 'shoe'"),
    "a number for a row": (TABULAR, b'{"rows":[1]}', 400, "row 0 is int, expected an object"),
    "rows an object": (TABULAR, b'{"rows":{}}', 400, "rows is a JSON object"),
    "rows and inputs": (TABULAR, b'{"rows":[],"inputs":[]}', 400, "not both"),
    "a list for a cell": (TABULAR, row(age=[1, 2]), 400, "age: got shape [1, 2], expected [-1]"),
    "mask without its column": (
        TABULAR,
        b'{"inputs":[{"name":"age.valid","shape":[1],"datatype":"BOOL","data":[true]}]}',
        400,
        "marks the cells of age, which was not sent",
    ),
    "V1 neither": (V1, b"{}", 400, "send either instances (row format) or inputs (columnar format)"),
    "V1 both": (V1, b'{"instances":[],"inputs":{}}', 400, "send either"),
    "V1 signature": (V1, b'{"signature_name":"other","instances":[]}', 400, "signature_name 'other' is not known"),
    "V1 bare values": (V1, b'{"instances":[1,2]}', 400, "the model has 3 inputs (age, city, income); name them"),
    "V1 scalar column": (V1, b'{"inputs":{"age":1}}', 400, "age: a JSON number, expected an array"),
    "V1 broken base64": (
        V1,
        b'{"instances":[{"age":1,"city":{"b64":"@"},"income":1}]}',
        400,
        "city: a b64 value is not base64",
    ),
    "V1 base64 of no text": (
        V1,
        b'{"instances":[{"age":1,"city":{"b64":"%b"},"income":1}]}' % base64.b64encode(b"\xff"),
        400,
        "city: a b64 value is not UTF-8 text",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error_and_the_server_lives(shared: Served, name: str) -> None:
    path, body, status, text = CASES[name]
    answer = shared.post(path, body)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert list(answer.json()) == ["error"]
        assert text in answer.json()["error"]
        assert len(answer.json()["error"]) < 1000
    assert shared.post(MATRIX, GOOD).status_code == 200


def _binary_cases() -> dict[str, tuple[str, bytes, int | str, str]]:
    three = struct.pack("<3f", 1, 2, 3)
    return {
        "too few bytes": (MATRIX, *binary(12, three[:8]), "binary_data_size is 12; 8 bytes follow"),
        "too many bytes": (MATRIX, *binary(12, three + b"!"), "1 bytes follow that no input's binary_data_size"),
        "size of another shape": (MATRIX, *binary(8, three[:8]), "binary_data_size is 8, FP32 of shape [1, 3] has 12"),
        "negative size": (MATRIX, *binary(-1, three), "binary_data_size is -1"),
        "header beyond the body": (MATRIX, binary(12, three)[0], 10**6, "Inference-Header-Content-Length is 1000000"),
        "header length no number": (MATRIX, binary(12, three)[0], "abc", "expected an integer ≥ 0"),
        "header length negative": (MATRIX, binary(12, three)[0], "-5", "expected an integer ≥ 0"),
        "header cuts the JSON": (MATRIX, binary(12, three)[0], 20, "malformed JSON"),
        "BOOL of 2": (EVERY, *binary(2, b"\x02\x01", "bool", "[1,2]", "BOOL"), "a BOOL element is a byte 0 or 1"),
        "BYTES cut in a length": (
            EVERY,
            *binary(6, b"\1\0\0\0a\0", "text", "[2]", "BYTES"),
            "2 BYTES elements need at least 8 bytes",
        ),
        "BYTES cut in a value": (
            EVERY,
            *binary(6, b"\x09\0\0\0ab", "text", "[1]", "BYTES"),
            "element 0 states 9 bytes, 2 are left",
        ),
        "BYTES left over": (EVERY, *binary(6, b"\1\0\0\0ab", "text", "[1]", "BYTES"), "1 bytes are left after 1 BYTES"),
        "BYTES length of 4 GiB": (
            EVERY,
            *binary(8, b"\xff\xff\xff\xff\0\0\0\0", "text", "[2]", "BYTES"),
            "element 0 states 4294967295 bytes",
        ),
        "text that is no UTF-8": (EVERY, *binary(5, b"\1\0\0\0\xff", "text", "[1]", "BYTES"), "is not UTF-8 text"),
        "a shape of 0 elements that no array has": (
            MATRIX,
            *binary(0, b"", shape="[65536,16777216,16777216,0]"),
            "is over 16777216 elements, the limit",
        ),
        "more elements than bytes": (
            EVERY,
            *binary(4, b"\0\0\0\0", "text", "[60000]", "BYTES"),
            "60000 BYTES elements need at least",
        ),
    }


@pytest.mark.parametrize("name", _binary_cases())
def test_binary_that_does_not_add_up(shared: Served, name: str) -> None:
    path, body, json_size, text = _binary_cases()[name]
    answer = shared.post(path, body, headers={"Inference-Header-Content-Length": str(json_size)})
    assert answer.status_code == (413 if "the limit" in text else 400), answer.text
    assert text in answer.json()["error"]
    assert shared.post(MATRIX, GOOD).status_code == 200


HOSTILE = {
    "2**62 rows": (x(shape=[2**62, 3]), 413),
    "2**62 wide": (x(shape=[1, 2**62]), 413),
    "2**64 rows": (x(shape=[2**64, 3]), 400),
    "a product that wraps to 3": (x(shape=[2**62, 2**2, 3], data=[]), 413),
    "a product that is 0": (x(shape=[2**40, 0], data=[]), 413),
    "no width": (x(shape=[5, 0], data=[]), 400),
    "1,000 dimensions": (x(shape=[1] * 1000, data=[1]), 400),
    "a digit string as dimension": (x(shape=["1", 3]), 400),
    "a shape of 0 elements that no array has": (x(shape=[65536, 1 << 24, 1 << 24, 0], data=[]), 413),
    "a name of its own for each of 60,000 rows": (
        b'{"rows":[' + b",".join([b'{"n%d":1}' % i for i in range(60_000)]) + b"]}",
        400,
    ),
    "nesting in data": (x().replace(b"[1, 2, 3]", b"[" * 1000 + b"1" + b"]" * 1000), 400),
    "nesting over what JSON takes": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "nesting never closed": (b'{"inputs":' + b'{"a":' * 100_000, 400),
    "nesting in rows": (b'{"rows":[{"a":' + b"[" * 900 + b"]" * 900 + b"}]}", 400),
    "100,000 rows": (b'{"rows":[' + b",".join([b'{"a":1,"b":1,"c":1}'] * 100_000) + b"]}", 413),
    "a million rows": (x(shape=[10**6, 3], data=[0] * 3_000_000), 413),
    "10,000 unknown inputs": (
        json.dumps({"inputs": [{**X, "name": f"n{i}"} for i in range(10_000)]}).encode(),
        400,
    ),
    "a name of a megabyte": (x(name="x" * 1_000_000), 400),
    "zip bomb": (gzip.compress(b" " * (1 << 28)), 413),
    "lone surrogate": (x(name="X").replace(b'"X"', b'"\\ud800"'), 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_cost_nothing(shared: Served, name: str) -> None:
    body, status = HOSTILE[name]
    headers = {"content-encoding": "gzip"} if body[:2] == b"\x1f\x8b" else {}
    answer = shared.post(MATRIX, body, headers=headers)
    assert answer.status_code == status, answer.text[:1000]
    assert answer.json()["error"]
    assert shared.post(MATRIX, GOOD).status_code == 200


def test_the_last_of_duplicate_keys_counts_on_both_ways_in(shared: Served) -> None:
    """RFC 8259 4 leaves it open; what must not be is that one way in takes the first and another the last."""
    tensor = b'{"name":"X","shape":[9,9],"shape":[1,3],"datatype":"FP32","data":[],"data":[1,2,3]}'
    twice = b'{"inputs":[],"inputs":[' + tensor + b"]%b}"
    quick, general = shared.post(MATRIX, twice % b""), shared.post(MATRIX, twice % b',"parameters":{}')
    assert quick.json() == general.json() == shared.post(MATRIX, GOOD).json()


def test_unknown_and_broken_content_codings(shared: Served) -> None:
    for coding, body, status in (
        ("br", x(), 415),
        ("gzip, gzip", gzip.compress(x()), 415),
        ("gzip", x(), 400),
        ("gzip", gzip.compress(x())[:-9], 400),
        ("deflate", b"\x78\x9c\x01", 400),
        ("gzip", gzip.compress(x()), 200),
        ("deflate", zlib.compress(x()), 200),
        ("identity", x(), 200),
    ):
        answer = shared.post(MATRIX, body, headers={"content-encoding": coding})
        assert answer.status_code == status, (coding, answer.text)


def test_no_rows_are_an_empty_answer(shared: Served) -> None:
    for body in ({"inputs": [{**X, "shape": [0, 3], "data": []}]}, {"rows": []}):
        answer = shared.infer("matrix", **body)
        assert answer.status_code == 200
        assert [(o["shape"], o["data"]) for o in answer.json()["outputs"]] == [([0], []), ([0, 3], []), ([0], [])]
    answer = shared.post("/v1/models/matrix:predict", {"instances": []})
    assert answer.json() == {"predictions": []}


def test_limits_are_configured(small_packages) -> None:
    options = ServeOptions(
        port=0,
        lame_duck=0.0,
        requests=RequestLimits(max_rows=2, max_elements=5),
        http=HttpLimits(max_body_bytes=1000),
    )
    with served([p for p in small_packages if p.name == "matrix-1"], options) as server:
        assert server.infer("matrix", **GOOD).status_code == 200
        two = server.infer("matrix", inputs=[{**X, "shape": [2, 3], "data": [1] * 6}])
        assert (two.status_code, two.json()["error"]) == (413, "X: shape [2, 3] is over 5 elements, the limit")
        three = server.infer("matrix", rows=[{}] * 3)
        assert three.status_code == 413
        assert "3 rows in one request; at most 2 are taken" in three.json()["error"]
        assert server.post(MATRIX, b" " * 1001).status_code == 413
        bomb = server.post(MATRIX, gzip.compress(b" " * 1001), headers={"content-encoding": "gzip"})
        assert bomb.status_code == 413


def test_batch_mates_of_bad_requests_are_answered(shared: Served) -> None:
    """Good, rejected and raising requests that wait together while the model is busy: each gets its own answer."""
    answers: dict[int, Any] = {}

    def ask(i: int) -> None:
        value = [-1.0, -11.0, float(i)][i % 3]
        tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [value]}
        answers[i] = shared.infer("fragile", inputs=[tensor])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, answer in answers.items():
        assert answer.status_code == [500, 400, 200][i % 3], answer.text
        if i % 3 == 2:
            assert answer.json()["outputs"][0]["data"] == [float(i) ** 0.5]
        else:
            assert "row 0" in answer.json()["error"]


@pytest.mark.parametrize("text", [b"[" + b"[]," * LARGE + b"[]]", b"[" + b"[]," * LARGE])
def test_a_large_document_is_not_collected_while_it_is_made(text: bytes) -> None:
    collected: list[str] = []

    def note(phase: str, _: object) -> None:
        collected.append(phase)

    gc.callbacks.append(note)
    try:
        with suppress(InputError):
            load_json(text)
        during = len(collected)
    finally:
        gc.callbacks.remove(note)
    assert during <= 2  # one collection begins and ends once it is made: the first that is due then
    assert gc.isenabled()
