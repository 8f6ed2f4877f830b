"""A model that gives back what it gets, of every datatype that the protocol writes in JSON; for the conformance kit.

FP16 is left out: the protocol has no form for it in JSON, nor in gRPC's typed contents.
"""

from typing import Any

NUMBERS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64")
TENSORS = {name.lower(): (name, [-1, 2]) for name in NUMBERS} | {"text": ("BYTES", [-1, 1])}


class Model:
    """Two numbers of each datatype a row, and a text."""

    inputs = TENSORS
    outputs = {f"same_{name}": what for name, what in TENSORS.items()}  # noqa: RUF012 - read, never changed
    thread_safe = True

    def predict(self, rows: "dict[str, Any]") -> "dict[str, Any]":
        """One call."""
        return {f"same_{name}": rows[name] for name in TENSORS}
