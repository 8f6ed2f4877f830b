"""What this CPU has for low precision, in words; and its name."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["describe", "fp16", "int8", "int8_dot_products"]

# x86: dot products of bytes; arm64: the same, and products of matrices.
_DOT = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX INT8",
    "asimddp": "dot products",
    "i8mm": "I8MM",
}
_WIDE = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
_HALF = {"avx512_fp16": "AVX-512 FP16", "amx_fp16": "AMX FP16", "asimdhp": "FP16 arithmetic"}


def int8_dot_products() -> bool:
    """Whether one instruction multiplies and adds up bytes."""
    return bool(_flags() & _DOT.keys())


def int8() -> str:
    """As "AVX2 without VNNI" or "AVX-512 VNNI, AMX INT8"."""
    have = [name for flag, name in _DOT.items() if flag in _flags()]
    if have:
        return ", ".join(have)
    wide = next((name for flag, name in _WIDE.items() if flag in _flags()), platform.machine())
    return f"{wide} without {'VNNI' if wide.startswith('AVX') else 'dot products of bytes'}"


def fp16() -> str:
    """The instructions that compute in FP16, or ""."""
    return ", ".join(name for flag, name in _HALF.items() if flag in _flags())


def describe() -> str:
    """The CPU's own name, and what it has for bytes."""
    return f"{_field('model name') or platform.processor() or platform.machine()} ({int8()})"


def _flags() -> frozenset[str]:
    return frozenset((_field("flags") or _field("Features")).split())


@cache
def _field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
