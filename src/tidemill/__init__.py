"""Tidemill: package a model once, then serve it, score with it, or precompute: one prediction path.

Names are loaded when they are first used, so that importing this costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill import errors
    from tidemill.api import Model, Prediction, load, package, score, serve
    from tidemill.client import AsyncClient, Client
    from tidemill.errors import Problem, RowsRejected, TidemillError
    from tidemill.rows import Rows

__all__ = [
    "AsyncClient",
    "Client",
    "Model",
    "Prediction",
    "Problem",
    "Rows",
    "RowsRejected",
    "TidemillError",
    "__version__",
    "errors",
    "load",
    "package",
    "score",
    "serve",
]

__version__ = "0.1.0"

_HOMES = dict.fromkeys(("Model", "Prediction", "load", "package", "score", "serve"), "tidemill.api") | {
    "AsyncClient": "tidemill.client",
    "Client": "tidemill.client",
    "Problem": "tidemill.errors",
    "Rows": "tidemill.rows",
    "RowsRejected": "tidemill.errors",
    "TidemillError": "tidemill.errors",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("tidemill.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
