"""Answers compared as promised: bit for bit, or within the tolerance that a float output declares."""

from __future__ import annotations

import numpy as np

from tidemill.model.signature import Output
from tidemill.prediction.result import Result


def assert_same(found: Result, expected: Result, outputs: tuple[Output, ...]) -> None:
    """Same values, statuses and reasons, row by row. Fillers of rows without an answer count as values."""
    assert found.statuses() == expected.statuses()
    assert [(p.row, p.code, p.field, p.message) for p in found.problems] == [
        (p.row, p.code, p.field, p.message) for p in expected.problems
    ]
    tolerance = {o.name: o.tolerance for o in outputs}
    assert list(found.outputs.columns) == list(expected.outputs.columns)
    for name, want in expected.outputs.columns.items():
        array = found.outputs[name]
        assert array.dtype == want.dtype
        assert array.shape == want.shape
        if array.dtype.kind == "f" and tolerance[name]:
            np.testing.assert_allclose(array, want, rtol=0, atol=tolerance[name], err_msg=name)
        elif array.dtype.kind == "f":
            bits = f"u{array.dtype.itemsize}"
            assert np.array_equal(np.ascontiguousarray(array).view(bits), np.ascontiguousarray(want).view(bits)), name
        else:
            assert array.tolist() == want.tolist(), name
