"""YAML of plain data, in block style. Written here because it is a page: nothing is read, and no library is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["dump"]

# What is a string in YAML 1.1 and 1.2 alike, without quotes: not a number, not a date, not yes, no, on, off, null …
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*( [A-Za-z][A-Za-z0-9_./-]*)*\Z")
ASTRAL = re.compile("([\U00010000-\U0010ffff])")
OTHERWISE = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def dump(document: Mapping[str, Any], comment: str = "") -> str:
    """Dicts, lists, strings, whole numbers, booleans and None as a document, the comment's lines above it."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "".join(f"{line}\n" for line in _lines(document))


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _after(f"{_scalar(key)}:", inner, "  " if isinstance(inner, Mapping) else "")
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for inner in value:
            lines = list(_lines(inner))
            yield f"- {lines[0]}"
            yield from (f"  {line}" if line else "" for line in lines[1:])
    else:
        yield _scalar(value)


def _after(key: str, value: Any, indent: str) -> Iterator[str]:
    """A key and its value: on its line if that is a scalar, below it otherwise."""
    if isinstance(value, str) and "\n" in value and _literal(value):
        yield f"{key} |"
        yield from (f"  {line}" if line else "" for line in value[:-1].split("\n"))
    elif isinstance(value, Mapping | list | tuple) and value:
        yield key
        yield from (f"{indent}{line}" if line else "" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _literal(text: str) -> bool:
    """Whether a literal block says it exactly: printable lines, one line break at the end, none indented first."""
    printable = all(line.isprintable() and line.isascii() for line in text.split("\n"))
    return printable and text.endswith("\n") and not text.endswith("\n\n") and text[0] not in " \n"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and PLAIN.match(value) and value.lower() not in OTHERWISE:
        return value
    if isinstance(value, str):
        # YAML's double quotes know JSON's escapes, but no pairs of surrogates.
        parts = ASTRAL.split(value)
        return '"' + "".join(f"\\U{ord(p):08x}" if i % 2 else json.dumps(p)[1:-1] for i, p in enumerate(parts)) + '"'
    return json.dumps(value)
