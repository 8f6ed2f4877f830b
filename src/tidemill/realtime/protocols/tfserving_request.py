"""Requests of TensorFlow Serving's REST form, which is also KServe's V1: body to rows.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from tidemill.errors import InputError, TooLarge
from tidemill.model.signature import Input
from tidemill.prediction.cells import MAX_DIMENSIONS
from tidemill.prediction.intake import Intake
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.protocols.oip_request import kind, load_json, on_bad_row, parameters_of
from tidemill.rows import Rows

__all__ = ["SIGNATURE", "PredictReader"]

SIGNATURE = "serving_default"


class PredictReader:
    """Reads any `:predict` request for one model."""

    def __init__(self, intake: Intake, limits: RequestLimits) -> None:
        self._intake = intake
        self._limits = limits
        self._raw = [i for i in intake.inputs if i.datatype == "BYTES"]

    def read(self, body: bytes) -> tuple[Rows, bool, bool]:
        """The rows, whether the answer is to be by row, and whether good rows are answered though others are bad.

        Raises InputError where it cannot be understood, TooLarge where it is over a limit.
        """
        doc = load_json(body)
        if not isinstance(doc, dict):
            raise InputError(f"the request is a JSON {kind(doc)}, expected an object")
        signature = doc.get("signature_name", SIGNATURE)
        if signature not in (SIGNATURE, ""):
            raise InputError(f"signature_name {signature!r:.80} is not known: the only one is {SIGNATURE!r}")
        if ("instances" in doc) == ("inputs" in doc):
            raise InputError("send either instances (row format) or inputs (columnar format)")
        by_row = "instances" in doc
        rows = self._instances(doc["instances"]) if by_row else self._inputs(doc["inputs"])
        return rows, by_row, on_bad_row(parameters_of(doc, "the request"))

    def _instances(self, instances: Any) -> Rows:
        """Row format: an object of named values each, or bare values for a model with one input."""
        if not isinstance(instances, list):
            raise InputError(f"instances is a JSON {kind(instances)}, expected an array", field="instances")
        self._check_rows(len(instances))
        if not instances or (isinstance(instances[0], dict) and instances[0].keys() != {"b64"}):
            for one in self._raw:
                for record in instances:
                    if isinstance(record, dict) and one.name in record:
                        record[one.name] = _plain(record[one.name], one, MAX_DIMENSIONS)
            return self._intake.from_records(instances)
        return self._column(instances, "instances")

    def _inputs(self, inputs: Any) -> Rows:
        """Columnar format: an object of named tensors, or the bare tensor of a model with one input."""
        if isinstance(inputs, list):
            self._check_rows(len(inputs))
            return self._column(inputs, "inputs")
        if not isinstance(inputs, dict):
            raise InputError(f"inputs is a JSON {kind(inputs)}, expected an object of tensors", field="inputs")
        for name, values in inputs.items():
            if not isinstance(values, list):
                raise InputError(f"{name}: a JSON {kind(values)}, expected an array whose first axis is the rows", name)
            self._check_rows(len(values))
        for one in self._raw:
            if one.name in inputs:
                inputs[one.name] = _plain(inputs[one.name], one, MAX_DIMENSIONS)
        return self._intake.from_lists({name: (None, values) for name, values in inputs.items()})

    def _column(self, values: list[Any], where: str) -> Rows:
        inputs = self._intake.inputs
        if len(inputs) > 1:
            names = ", ".join(i.name for i in inputs)
            raise InputError(f"{where}: the model has {len(inputs)} inputs ({names}); name them", field=where)
        one = inputs[0]
        if one.datatype == "BYTES":
            values = _plain(values, one, MAX_DIMENSIONS)
        return self._intake.from_lists({one.name: (None, values)})

    def _check_rows(self, n: int) -> None:
        most = self._limits.max_rows
        if n > most:
            raise TooLarge(f"{n} rows in one request; at most {most} are taken: send them in parts")


def _plain(value: Any, one: Input, depth: int) -> Any:
    """A value of a BYTES input with {"b64": …} decoded. Raises InputError for what is not base64, or not text."""
    if isinstance(value, list):
        return [_plain(v, one, depth - 1) for v in value] if depth else value
    if not isinstance(value, dict) or value.keys() != {"b64"} or not isinstance(value["b64"], str):
        return value
    try:
        raw = base64.b64decode(value["b64"], validate=True)
        return raw if one.binary else raw.decode()
    except (binascii.Error, ValueError) as error:
        what = "base64" if isinstance(error, binascii.Error) else "UTF-8 text in base64"
        raise InputError(f"{one.name}: a b64 value is not {what}", field=one.name) from None
