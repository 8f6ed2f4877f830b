"""Whether versions of a model may answer the same calls: what a caller sends and gets must look the same."""

from __future__ import annotations

from tidemill.model.manifest import Manifest
from tidemill.model.signature import Input, Output

__all__ = ["difference"]


def difference(one: Manifest, other: Manifest) -> str:
    """What differs in how the two are called, in words; empty if nothing does. Bounds and categories may differ."""
    for what, mine, theirs in (
        ("inputs", [*map(_input, one.inputs)], [*map(_input, other.inputs)]),
        ("outputs", [*map(_output, one.outputs)], [*map(_output, other.outputs)]),
    ):
        if mine != theirs:
            return (
                f"version {other.version} has the {what} {'; '.join(theirs)}, version {one.version} has "
                f"{'; '.join(mine)}"
            )
    return ""


def _input(one: Input) -> str:
    columns = f" of {', '.join(c.name for c in one.columns)}" if one.columns else ""
    return f"{one.name} {'binary ' if one.binary else ''}{one.datatype} {list(one.shape)}{columns}"


def _output(one: Output) -> str:
    return f"{one.name} {'binary ' if one.binary else ''}{one.datatype} {list(one.shape)}"
