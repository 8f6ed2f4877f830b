"""The parts of one request's time, told in its own answer if that is asked for."""

from __future__ import annotations

from typing import Any

from tidemill.errors import InputError
from tidemill.realtime.inference import Inference
from tidemill.realtime.request import Header, Request

__all__ = ["TIMING_HEADER", "server_timing", "timing_parameters", "wants_timing"]

TIMING_HEADER = b"x-request-timing"


def wants_timing(request: Request) -> bool:
    """Whether the header asks for it. Raises InputError for a value that says neither."""
    value = request.header(TIMING_HEADER)
    if value is None or value == b"0":
        return False
    if value != b"1":
        raise InputError(f"header x-request-timing: got {value.decode('latin-1')!r:.40}, expected 1 or 0")
    return True


def timing_parameters(call: Inference[Any], encoded: float) -> dict[str, int]:
    """The parts in nanoseconds, as the `parameters` of an answer tell them, for an answer that is encoded now."""
    return {f"timing_{stage}_ns": round(seconds * 1e9) for stage, seconds in _parts(call, encoded)}


def server_timing(call: Inference[Any], encoded: float) -> Header:
    """The header of https://www.w3.org/TR/server-timing/: milliseconds."""
    parts = [f"{stage};dur={seconds * 1e3:.4f}" for stage, seconds in _parts(call, encoded)]
    return b"server-timing", ", ".join(parts).encode()


def _parts(call: Inference[Any], encoded: float) -> list[tuple[str, float]]:
    moments = (call.request.received_at, call.read, call.queued, call.started, call.finished, encoded)
    stages = ("read", "decode", "queue", "compute", "encode")
    return [(stage, end - begin) for stage, begin, end in zip(stages, moments, moments[1:], strict=False)]
