"""The one protocol every runtime implements."""

from __future__ import annotations

from typing import Protocol

from tidemill.rows import Rows

__all__ = ["Runtime"]


class Runtime(Protocol):
    """Executes a package's artefact.

    `version` names the library and its version: it is part of the fingerprint. `run` takes and returns columns
    with the same first axis, may be called from several threads at once, and raises whatever the model raises.
    `releases_gil` tells whether threads run it in parallel.
    """

    version: str
    releases_gil: bool

    def run(self, rows: Rows) -> Rows:
        """Outputs for n ≥ 1 rows: named arrays of shape (n, …), in the dtypes the model gives."""
        ...
