"""Lower precision by ONNX Runtime's own tools: int8 calibrated on real rows, int8 scaled in each call, FP16."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tidemill.errors import PackageError
from tidemill.optimise import cpu
from tidemill.optimise.options import Quantisation
from tidemill.rows import Array

__all__ = ["QUANTISERS", "quantisable", "quantised"]

_PRODUCTS = {"Gemm", "MatMul", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN", "Attention", "EmbedLayerNormalization"}
_CALIBRATION_ROWS = 128

Quantiser = Callable[[Path, Mapping[str, Array], Path], None]


def quantisable(model: onnx.ModelProto, kind: Quantisation) -> str:
    """Why a model cannot be quantised so, or ""."""
    operators = {n.op_type for n in model.graph.node}
    if operators & {"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul"}:
        return "it is quantised already"
    if not operators & _PRODUCTS:
        return "it has no products of matrices (Gemm, MatMul, Conv) to compute in lower precision"
    inner = {t.data_type for t in model.graph.initializer}
    if onnx.TensorProto.DOUBLE in inner and onnx.TensorProto.FLOAT not in inner:
        return f"it computes in FP64, which {'FP16' if kind == 'fp16' else 'int8'} tools do not take"
    return ""


def _static(source: Path, feeds: Mapping[str, Array], target: Path) -> None:
    """QDQ: bytes between layers, on scales that the calibration rows gave. Without dot products of bytes, weights
    have seven bits, as sums of products would overflow.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            n = len(next(iter(feeds.values())))
            self._at = iter(range(0, n, _CALIBRATION_ROWS))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._at, None)
            return None if start is None else {k: v[start : start + _CALIBRATION_ROWS] for k, v in feeds.items()}

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=not cpu.int8_dot_products(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _dynamic(source: Path, feeds: Mapping[str, Array], target: Path) -> None:
    """Weights are bytes; what a layer reads is scaled to bytes in each call, by the call's own range."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, reduce_range=not cpu.int8_dot_products(), weight_type=QuantType.QInt8)


def _fp16(source: Path, feeds: Mapping[str, Array], target: Path) -> None:
    """Weights and what lies between are FP16; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


QUANTISERS: Mapping[Quantisation, tuple[str, Quantiser]] = {
    "static": ("int8, calibrated", _static),
    "fp16": ("FP16", _fp16),
    "dynamic": ("int8, scaled in each call", _dynamic),
}


def quantised(source: Path, kind: Quantisation, feeds: Mapping[str, Array], target: Path) -> None:
    """Write the quantised form of a model file. Raises PackageError where ONNX Runtime's tool cannot."""
    root = logging.getLogger()
    level = root.level
    # The tools advise on the root logger to run a preparation that has been made.
    root.setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"):
            QUANTISERS[kind][1](source, feeds, target)
    except Exception as error:
        raise PackageError(f"ONNX Runtime cannot make it: {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        root.setLevel(level)
