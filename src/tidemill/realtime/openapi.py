"""`/openapi.json`: what this process serves, with each model's own names, types, bounds and a real example."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tidemill.errors import Late, NotFound, Overloaded, TidemillError, TooLarge, Unavailable, UnsupportedEncoding
from tidemill.model.signature import Column, Input, Output
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.rows import Rows

__all__ = ["openapi"]

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
INTEGER_BITS = {"INT8": 7, "INT16": 15, "INT32": 31, "INT64": 63, "UINT8": 8, "UINT16": 16, "UINT32": 32, "UINT64": 64}
# status → the error class whose docstring says when it is given
REFUSALS: dict[int, type[TidemillError]] = {
    404: NotFound,
    413: TooLarge,
    415: UnsupportedEncoding,
    429: Overloaded,
    503: Unavailable,
    504: Late,
}


def openapi(endpoints: Endpoints) -> Schema:
    """The OpenAPI 3.1 document of these endpoints."""
    paths: Schema = {
        "/v2": {"get": _get("Server metadata", _object(name=STRING, version=STRING, extensions=_array(STRING)))},
        "/v2/health/live": {"get": _get("Whether the process lives", _object(live={"const": True}))},
        "/v2/health/ready": {"get": _ready("Whether every model can answer", _object(live=_BOOL, ready=_BOOL))},
        "/v2/models/stats": {"get": _get("Statistics of all models", _STATS)},
        "/v2/repository/index": {"post": _index()},
        "/v1/models": {"get": _get("The models' names", _object(models=_array(STRING)))},
    }
    schemas: Schema = {"Error": _object(error=STRING)}
    for name in endpoints.names:
        latest = endpoints.find(name)
        for one in endpoints.versions(name):
            _describe(
                one, f"/v2/models/{name}/versions/{one.version}", f"/v1/models/{name}/versions/{one.version}", paths
            )
            schemas |= _schemas(one)
        _describe(latest, f"/v2/models/{name}", f"/v1/models/{name}", paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemill",
            "version": version("tidemill"),
            "description": "Open Inference Protocol V2 and TensorFlow Serving's REST form. "
            "JSON has no NaN: floats that are not finite are null.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {
                "Timeout": {
                    "name": "x-request-timeout-ms",
                    "in": "header",
                    "description": "The answer is due so many milliseconds after the request; late is 504.",
                    "schema": {"type": "number", "exclusiveMinimum": 0},
                },
                "Priority": {
                    "name": "x-request-priority",
                    "in": "header",
                    "description": "1 is the highest; 0, or none, the default.",
                    "schema": {"type": "integer", "minimum": 0},
                },
                "Timing": {
                    "name": "x-request-timing",
                    "in": "header",
                    "description": "1: the answer's Server-Timing header tells where its time went.",
                    "schema": {"enum": ["0", "1"]},
                },
            },
        },
    }


_BOOL: Schema = {"type": "boolean"}
_DURATION: Schema = {"type": "object", "properties": {"count": COUNT, "ns": COUNT}, "required": ["count", "ns"]}
_STATS: Schema = {
    "type": "object",
    "required": ["model_stats"],
    "properties": {
        "model_stats": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "version", "inference_count", "execution_count", "inference_stats"],
                "properties": {
                    "name": STRING,
                    "version": STRING,
                    "inference_count": COUNT,
                    "execution_count": COUNT,
                    "inference_stats": {"type": "object", "additionalProperties": _DURATION},
                },
            },
        }
    },
}


def _describe(one: Endpoint, v2: str, v1: str, paths: Schema) -> None:
    what = f"{one.name} {one.version}"
    key = _key(one)
    paths[v2] = {"get": _get(f"Metadata of {what}", _ref(f"{key}.Metadata"))}
    paths[f"{v2}/ready"] = {"get": _ready(f"Whether {what} can answer", _object(name=STRING, ready=_BOOL))}
    paths[f"{v2}/config"] = {"get": _get(f"Triton's configuration of {what}", {"type": "object"})}
    paths[f"{v2}/stats"] = {"get": _get(f"Statistics of {what}", _STATS)}
    paths[f"{v2}/infer"] = {"post": _post(f"Ask {what}", f"{key}.Request", f"{key}.Response", _example(one))}
    status = _object(name=STRING, ready=_BOOL, model_version_status=_array({"type": "object"}))
    paths[v1] = {"get": _get(f"Status of {what}", status)}
    paths[f"{v1}/metadata"] = {"get": _get(f"TensorFlow Serving's metadata of {what}", {"type": "object"})}
    raw = any(i.binary for i in one.manifest.inputs)
    example = None if one.example is None or raw else {"instances": _records(one, one.example)}
    paths[f"{v1}:predict"] = {"post": _post(f"Ask {what}", f"{key}.Predict", f"{key}.Predictions", example)}


def _schemas(one: Endpoint) -> Schema:
    key = _key(one)
    record = {"type": "object", "additionalProperties": False, "properties": _record(one.manifest.inputs)}
    records: Schema = {**_array(record), "maxItems": one.limits.max_rows}
    row_errors = _array(
        _object(row=COUNT, status={"enum": ["rejected", "failed", "late"]}, code=STRING, field=STRING, message=STRING)
    )
    told: Schema = {"bad_rows": COUNT, "row_errors": row_errors}
    return {
        f"{key}.Request": _request(one, records),
        f"{key}.Response": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "model_name": {"const": one.name},
                "model_version": {"const": one.version},
                "id": STRING,
                "parameters": {"type": "object", "properties": told},
                "outputs": _array({"oneOf": [_answer(o) for o in one.manifest.outputs]}),
            },
        },
        f"{key}.Metadata": {
            "type": "object",
            "required": ["name", "versions", "platform", "inputs", "outputs"],
            "properties": {"name": {"const": one.name}, "versions": _array(STRING), "platform": STRING},
        },
        f"{key}.Predict": {
            "type": "object",
            "properties": {
                "signature_name": {"const": "serving_default"},
                "instances": records,
                "inputs": {"type": "object"},
                "parameters": {"type": "object", "properties": {"on_bad_row": {"enum": ["reject", "partial"]}}},
            },
            "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
        },
        f"{key}.Predictions": {
            "type": "object",
            "properties": {
                "predictions": {"type": "array"},
                "outputs": {"type": ["object", "array"]},
                **told,
            },
            "oneOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
        },
    }


def _request(one: Endpoint, records: Schema) -> Schema:
    """The body of `POST …/infer`."""
    inputs = one.manifest.inputs
    parameters = {
        "type": "object",
        "properties": {
            "timeout": {**COUNT, "maximum": 2**63 - 1, "description": "Microseconds until the answer is due; 0: none."},
            "priority": {**COUNT, "description": "1 is the highest; 0: the default."},
            "on_bad_row": {"enum": ["reject", "partial"], "default": "reject"},
            "binary_data_output": {"type": "boolean", "default": False},
            "timing": {"type": "boolean", "description": "The answer's parameters tell where its time went, in ns."},
        },
    }
    wanted = _object(name={"enum": [o.name for o in one.manifest.outputs]})
    wanted["properties"]["parameters"] = {"type": "object", "properties": {"binary_data": _BOOL}}
    tensors = [_tensor(i, c, one.limits.max_rows) for i in inputs for c in (None, *i.columns)]
    return {
        "type": "object",
        "properties": {
            "id": STRING,
            "parameters": parameters,
            "outputs": _array(wanted),
            "inputs": _array({"oneOf": tensors}),
            "rows": records,
        },
        "oneOf": [{"required": ["inputs"]}, {"required": ["rows"]}],
    }


# -- tensors and cells --------------------------------------------------------------------------------------


def _tensor(one: Input, column: Column | None, most: int) -> Schema:
    """An input tensor, or one scalar column of it."""
    shape = one.shape if column is None else (-1,)
    rows: Schema = {**COUNT, "maximum": most}
    dims = [rows, *({"const": d} if d > 0 else COUNT for d in shape[1:])]
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": one.name if column is None else column.name},
            "shape": {"type": "array", "prefixItems": dims, "minItems": len(dims), "maxItems": len(dims)},
            "datatype": {"const": one.datatype},
            "data": _array(_cell(one, column)),
        },
    }


def _answer(output: Output) -> Schema:
    described = _object(name={"const": output.name}, datatype={"const": output.datatype}, shape=_array(COUNT))
    described["properties"]["data"] = _array({"type": [output.type.json, "null"]})
    return described


def _record(inputs: tuple[Input, ...]) -> Schema:
    """The properties of a row object."""
    found: Schema = {}
    for one in inputs:
        if one.columns:
            found |= {c.name: _cell(one, c) for c in one.columns}
        else:
            cell = _cell(one, None)
            for d in reversed(one.shape[1:]):
                cell = {"type": "array", "items": cell, **({"minItems": d, "maxItems": d} if d > 0 else {})}
            found[one.name] = cell
    return found


def _cell(one: Input, column: Column | None) -> Schema:
    at = one if column is None else column
    nullable = at.nullable or (column is None and any(c.nullable for c in one.columns))
    kind = one.type.json
    cell: Schema = {"type": [kind, "null"] if nullable else kind}
    if one.categories:
        cell["enum"] = [*one.categories, *([None] if nullable else [])]
        return cell
    low, high = at.minimum, at.maximum
    if one.datatype in INTEGER_BITS:
        bits = INTEGER_BITS[one.datatype]
        least, most = (-(2**bits) if one.datatype.startswith("INT") else 0), 2**bits - 1
        low = least if low is None else max(least, int(low))
        high = most if high is None else min(most, int(high))
    if low is not None:
        cell["minimum"] = low
    if high is not None:
        cell["maximum"] = high
    return cell


def _example(one: Endpoint) -> Schema | None:
    """A request that this model answers, from its samples."""
    if one.example is None or any(i.binary for i in one.manifest.inputs):
        return None
    tensors = []
    for i in one.manifest.inputs:
        array = one.example.columns[i.name]
        shape, data = list(array.shape), _values(array.reshape(-1).tolist(), one.example, i.name)
        tensors.append({"name": i.name, "shape": shape, "datatype": i.datatype, "data": data})
    return {"inputs": tensors}


def _records(one: Endpoint, rows: Rows) -> list[Schema]:
    record: Schema = {}
    for i in one.manifest.inputs:
        values = rows.columns[i.name][0].tolist() if len(i.shape) > 1 else rows.columns[i.name].tolist()[0]
        if i.columns:
            cells = _values(values, rows, i.name)
            record |= {c.name: v for c, v in zip(i.columns, cells, strict=True)}
        else:
            record[i.name] = _values([values], rows, i.name)[0]
    return [record]


def _values(values: list[Any], rows: Rows, name: str) -> list[Any]:
    mask = rows.valid.get(name)
    if mask is not None:
        return [v if ok else None for v, ok in zip(values, mask.reshape(-1).tolist(), strict=True)]
    return [None if isinstance(v, float) and v != v else v for v in values]


# -- operations ---------------------------------------------------------------------------------------------


def _get(summary: str, schema: Schema) -> Schema:
    return {"summary": summary, "responses": {"200": _json("Answered.", schema), "503": _refusal(503)}}


def _ready(summary: str, schema: Schema) -> Schema:
    return {"summary": summary, "responses": {"200": _json("Yes.", schema), "503": _json("No.", {"type": "object"})}}


def _index() -> Schema:
    entry = _object(name=STRING, version=STRING, state=STRING, reason=STRING)
    body = {"content": {"application/json": {"schema": {"type": "object", "properties": {"ready": _BOOL}}}}}
    answers = {"200": _json("The models.", _array(entry)), "400": _bad_request(), "503": _refusal(503)}
    return {"summary": "The models and their states", "requestBody": body, "responses": answers}


def _post(summary: str, request: str, response: str, example: Schema | None) -> Schema:
    asked: Schema = {"schema": _ref(request), **({} if example is None else {"example": example})}
    failed = _json("The model failed; the rows are named.", _ref("Error"))
    answers = {"200": _json("Answered.", _ref(response)), "400": _bad_request(), "500": failed}
    answers["200"]["content"]["application/octet-stream"] = {"schema": {}}
    for status in REFUSALS:
        answers[str(status)] = _refusal(status)
    return {
        "summary": summary,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in ("Timeout", "Priority", "Timing")],
        "requestBody": {"required": True, "content": {"application/json": asked}},
        "responses": answers,
    }


def _bad_request() -> Schema:
    return _json("Not understood, or rows that break the signature: each is named.", _ref("Error"))


def _refusal(status: int) -> Schema:
    described = _json((REFUSALS[status].__doc__ or "").splitlines()[0], _ref("Error"))
    if status in (429, 503):
        described["headers"] = {"retry-after": {"description": "Seconds.", "schema": {"type": "string"}}}
    return described


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _key(one: Endpoint) -> str:
    return f"{one.name}-{one.version}"
