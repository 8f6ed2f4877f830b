"""Which importer reads a source. What would be unpickled is refused here, before anything opens it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

from tidemill.errors import MissingExtra, PackageError
from tidemill.packaging.draft import Draft, Unused
from tidemill.packaging.onnx_source import onnx_draft
from tidemill.packaging.options import Kind, PackageOptions
from tidemill.packaging.table import LikeTable

__all__ = ["detect", "drafts"]

_SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".skops": "sklearn", ".py": "python", ".ubj": "xgboost"}
_PICKLES = {".pkl", ".pickle", ".joblib", ".sav", ".pt", ".pth"}
_EXTRAS = {"sklearn": "sklearn", "lightgbm": "trees", "xgboost": "trees"}


def detect(source: Path, kind: Kind | None) -> Kind:
    """The kind of a model file, by content where it tells and by suffix otherwise.

    Raises PackageError for a pickle (whatever `kind` says) and for what is not known.
    """
    if not source.is_file():
        what = "is a directory" if source.is_dir() else "no such file"
        raise PackageError(f"{source}: {what}; expected a model file (.onnx, .skops, .txt, .json, .ubj or .py)")
    with open(source, "rb") as file:
        head = file.read(4096)
    # PROTO of protocol 2 and later; joblib's own file begins the same way or is a compressed one.
    if source.suffix.lower() in _PICKLES or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1):
        raise PackageError(
            f"{source.name}: a pickle runs code when it is read, and is never loaded; save the model with "
            "skops.io.dump(model, 'model.skops') or export it to ONNX"
        )
    if kind is not None:
        return kind
    if source.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[source.suffix.lower()]
    if head.startswith(b"tree\n") and b"\nversion=" in head:
        return "lightgbm"
    if source.suffix.lower() == ".json" and head.lstrip()[:1] == b"{":
        return "xgboost"
    if zipfile.is_zipfile(source) and "schema.json" in zipfile.ZipFile(source).namelist():
        return "sklearn"
    raise PackageError(f"{source.name}: not recognised as a model; say which with --kind {'|'.join(get_args(Kind))}")


def drafts(kind: Kind, source: Path, options: PackageOptions, table: LikeTable | None) -> Iterator[Draft | Unused]:
    """The ways of running a source, best first; the next is taken where one does not agree with the original."""
    if kind == "onnx":
        yield onnx_draft(source, options, table)
        return
    try:
        module = import_module(f"tidemill.packaging.{kind}_source")
    except ModuleNotFoundError as error:
        if kind not in _EXTRAS or (error.name or "").startswith("tidemill"):
            raise
        raise MissingExtra(f"packaging a {kind} model (module {error.name})", _EXTRAS[kind]) from None
    yield from module.drafts(source, options, table)
