"""Equal means the same bits, the same text, or a difference within the declared tolerance."""

import numpy as np
import pytest

from tidemill.assurance.compare import compare
from tidemill.model.signature import Output

EXACT = Output(name="s", datatype="FP32")
LOOSE = Output(name="s", datatype="FP32", tolerance=1e-3)


def floats(*values: float) -> dict[str, np.ndarray]:
    return {"s": np.array(values, np.float32)}


def test_one_bit_is_a_difference_and_its_size_is_told() -> None:
    near = float(np.nextafter(np.float32(1), np.float32(2)))
    found = compare([EXACT], floats(1, 2), floats(near, 2))
    assert found.rows.tolist() == [False, True]
    assert found.worst == pytest.approx(near - 1)
    assert found.example.startswith("s[0]: 1.0000001")


def test_a_difference_within_the_tolerance_is_equal_and_still_told() -> None:
    found = compare([LOOSE], floats(1, 2), floats(1.0005, 2))
    assert found.equal
    assert found.worst == pytest.approx(0.0005, rel=1e-3)
    assert not compare([LOOSE], floats(1), floats(1.002)).equal


def test_nan_equals_nan_whatever_its_bits_but_not_a_number() -> None:
    other = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert compare([EXACT], floats(np.nan), {"s": other}).equal
    assert not compare([EXACT], floats(np.nan), floats(0)).equal
    assert not compare([LOOSE], floats(np.inf), floats(-np.inf)).equal


def test_json_carries_nan_for_an_infinity_but_not_for_a_number() -> None:
    assert compare([EXACT], floats(np.inf, -np.inf), floats(np.nan, np.nan), over_json=True).equal
    assert not compare([EXACT], floats(np.inf), floats(np.nan)).equal
    assert not compare([EXACT], floats(1), floats(np.nan), over_json=True).equal
    assert not compare([EXACT], floats(np.nan), floats(np.inf), over_json=True).equal


def test_text_tensors_differ_by_the_row() -> None:
    words = Output(name="s", datatype="BYTES", shape=(-1, 2))
    a = np.array([["a", "b"], ["c", "d"]], object)
    b = np.array([["a", "b"], ["c", "e"]], object)
    found = compare([words], {"s": a}, {"s": b})
    assert found.rows.tolist() == [True, False]
    assert found.example == "s[1, 1]: e, expected d"


def test_another_shape_or_dtype_is_no_answer_at_all() -> None:
    found = compare([EXACT], floats(1, 2), {"s": np.array([1, 2], np.float64)})
    assert not found.rows.any()
    assert "float64" in found.example
