"""Delta tables with what deltalake reads but does not write, by hand: the log is JSON lines."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def actions(table: Path) -> list[dict[str, Any]]:
    """All actions of the log, in order."""
    logs = sorted((table / "_delta_log").glob("*.json"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def commit(table: Path, *found: dict[str, Any]) -> None:
    """One more version."""
    version = len(list((table / "_delta_log").glob("*.json")))
    lines = "\n".join(json.dumps(a) for a in ({"commitInfo": {"timestamp": 0, "operation": "TEST"}}, *found))
    (table / "_delta_log" / f"{version:020d}.json").write_text(lines + "\n")


def upgrade(table: Path, *features: str, configuration: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The actions that give a table reader features, and its metadata a configuration."""
    [metadata] = [a["metaData"] for a in actions(table) if "metaData" in a][-1:]
    metadata["configuration"] |= configuration or {}
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": list(features),
        "writerFeatures": list(features),
    }
    return [{"protocol": protocol}, {"metaData": metadata}]


def delete_rows(table: Path, rows: Sequence[int]) -> None:
    """Mark rows of the only data file as deleted, by an inline deletion vector."""
    [add] = [a["add"] for a in actions(table) if "add" in a]
    bitmap = struct.pack("<IQIIIHHI", 1681511377, 1, 0, 12346, 1, 0, len(rows) - 1, 16)
    bitmap += struct.pack(f"<{len(rows)}H", *rows)
    padded = bitmap + bytes(-len(bitmap) % 4)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": base64.b85encode(padded).translate(bytes.maketrans(_B85, _Z85)).decode(),
        "sizeInBytes": len(padded),
        "cardinality": len(rows),
    }
    remove = {"path": add["path"], "deletionTimestamp": 1, "dataChange": True}
    commit(table, *upgrade(table, "deletionVectors"), {"remove": remove}, {"add": add | {"deletionVector": vector}})
