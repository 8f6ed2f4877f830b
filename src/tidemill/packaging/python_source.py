"""A Python file with `class Model`: taken as it is, with the files it needs and the versions it was made with."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tidemill.errors import PackageError
from tidemill.model.manifest import MANIFEST, RuntimeSpec
from tidemill.model.package import SIGNATURE_FILE
from tidemill.model.signature import Column, Input, Output
from tidemill.packaging.draft import Draft
from tidemill.packaging.options import PackageOptions
from tidemill.packaging.table import LikeTable
from tidemill.packaging.transform import declared
from tidemill.runtimes.source import load_source

__all__ = ["drafts", "pinned"]

MODEL_FILE = "model.py"
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(==\s*([^\s;,]+))?\s*(.*)")


def drafts(source: Path, options: PackageOptions, table: LikeTable | None) -> Iterator[Draft]:
    """The one way of a Python model. Raises PackageError for a class or requirement that is not as it should be."""
    found = getattr(load_source(source), "Model", None)
    if not isinstance(found, type):
        raise PackageError(f"{source.name} defines no class Model")
    own = declared(found, "inputs", f"{source.name}: Model")
    features = table.features if table is not None else ()
    spare = tuple(n for n in features if n not in {name for name, _, _ in own})
    inputs = tuple(_input(n, d, s, options, spare if n not in features else ()) for n, d, s in own)
    outputs = tuple(
        Output(name=n, datatype=d, shape=s) for n, d, s in declared(found, "outputs", f"{source.name}: Model")
    )
    yield Draft(
        runtime=RuntimeSpec(name="python", artifact=MODEL_FILE, threads=options.threads),
        inputs=inputs,
        outputs=outputs,
        task="other",
        fill=partial(_copy, source, tuple(Path(p) for p in options.include)),
        how="Python model as it is",
        requirements=pinned(_requirements(found, source), source.name),
    )


def pinned(requirements: Iterable[str], who: str) -> tuple[str, ...]:
    """Each requirement as `name==version` of what is installed.

    Raises PackageError for one that is not installed, or not in the version it asks for.
    """
    out = []
    for line in requirements:
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _REQUIREMENT.fullmatch(text)
        if match is None or text.startswith("-"):
            raise PackageError(f"{who}: requirement {text!r} is not a distribution's name, with or without ==version")
        name, wanted = match[1], match[4]
        try:
            found = version(name)
        except PackageNotFoundError:
            raise PackageError(f"{who}: requirement {name} is not installed; install it to package the model") from None
        if wanted is not None and wanted != found:
            raise PackageError(f"{who}: requirement {name} is {found} here, {wanted} is asked for")
        out.append(f"{name}=={found}")
    return tuple(out)


def _requirements(model: Any, source: Path) -> list[str]:
    own = getattr(model, "requirements", None)
    if isinstance(own, str):
        raise PackageError(f"{source.name}: Model.requirements must be a list of strings, as ['numpy']")
    if own is not None:
        return [str(line) for line in own]
    beside = source.with_name("requirements.txt")
    return beside.read_text(encoding="utf-8").splitlines() if beside.is_file() else []


def _input(name: str, datatype: Any, shape: tuple[int, ...], options: PackageOptions, spare: tuple[str, ...]) -> Input:
    """A tensor (rows, k) may be filled from k named columns: those of --columns, or those left over in the table."""
    columns = options.columns or spare
    if len(shape) != 2 or len(columns) != shape[1]:
        if len(shape) == 2 and options.columns:
            raise PackageError(f"--columns: {name} takes {shape[1]} columns, {len(columns)} are named")
        return Input(name=name, datatype=datatype, shape=shape)
    return Input(name=name, datatype=datatype, shape=shape, columns=tuple(Column(name=c) for c in columns))


def _copy(source: Path, include: tuple[Path, ...], stage: Path) -> None:
    shutil.copyfile(source, stage / MODEL_FILE)
    for path in include:
        name = path.resolve().name
        if (stage / name).exists() or name in (MANIFEST, SIGNATURE_FILE):
            raise PackageError(f"--include {path}: a package has its own {name}; rename the file")
        if path.is_dir():
            shutil.copytree(path, stage / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif path.is_file():
            shutil.copyfile(path, stage / name)
        else:
            raise PackageError(f"--include {path}: no such file or directory")
