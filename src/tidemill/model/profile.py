"""The profile: what the columns of the table a package was made with held. For people and drift, never a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import PackageError
from tidemill.model.package import Package

__all__ = ["PROFILE_FILE", "ColumnProfile", "TableProfile", "read_profile", "write_profile"]

PROFILE_FILE = "profile.json"


class ColumnProfile(Config, frozen=True, kw_only=True):
    """One column: its Arrow type, missing cells (NaN included), finite range, and its strings where they were few."""

    name: str
    type: str
    missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] | None = None


class TableProfile(Config, frozen=True, kw_only=True):
    """The whole of `profile.json`: the table's file name, its number of rows and its feature columns."""

    format: Literal[1]
    table: str
    rows: int
    columns: tuple[ColumnProfile, ...]


def write_profile(path: Path, profile: TableProfile) -> None:
    """Write a profile as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")


def read_profile(package: Package) -> TableProfile | None:
    """The package's profile, or None where it was made without a table. Raises PackageError for a damaged one."""
    name = package.manifest.profile
    if name is None:
        return None
    try:
        return msgspec.json.decode(package.path(name).read_bytes(), type=TableProfile)
    except msgspec.DecodeError as error:
        raise PackageError(f"{package.name}/{name}: {error}") from None
