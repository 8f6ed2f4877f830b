"""The forms that a model may take: each a way to rebuild its package, or the reason why it is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec
import onnx
import onnxruntime as ort

from tidemill.errors import MissingExtra, PackageError
from tidemill.model.manifest import RuntimeSpec
from tidemill.model.package import Package
from tidemill.optimise.compiled import lightgbm_text
from tidemill.optimise.dense import Cut, prune_units
from tidemill.optimise.ensemble import ensemble_nodes
from tidemill.optimise.graph import feeds_of, simplified
from tidemill.optimise.options import OptimiseOptions, Quantisation
from tidemill.optimise.quantise import QUANTISERS, quantisable, quantised
from tidemill.optimise.trees import prune_trees
from tidemill.packaging.onnx_file import read_onnx_file
from tidemill.packaging.onnx_source import MODEL_FILE
from tidemill.packaging.rebuilt import Rebuilt
from tidemill.rows import Array, Rows

__all__ = ["candidates"]

_TEXT_FILE = "model.txt"
_ALL: tuple[Quantisation, ...] = ("static", "fp16", "dynamic")


def candidates(
    parent: Package, reached: Rows, options: OptimiseOptions, work: Path
) -> Iterator[tuple[str, Rebuilt | str]]:
    """Each form by name, or why there is none of that name. `reached` are rows as they reach the graph, to calibrate
    and judge by. Files are made in the directory `work`.

    Raises PackageError where ONNX Runtime cannot read the model.
    """
    model = simplified(parent.path(parent.manifest.runtime.artifact))
    feeds = feeds_of(model, reached)
    # Pruned models are quantised only in ways that were asked for.
    kinds = options.quantise or (() if options.prune else _ALL)
    yield from _forms(parent, model, feeds, "", "", kinds, work)
    for share in options.prune:
        name = f"prune{share:g}"
        try:
            pruned, cuts = prune_units(model, feeds, share)
            pruned, more = prune_trees(pruned, feeds, share)
        except PackageError as error:
            yield name, str(error)
            continue
        if not cuts and not more:
            yield name, f"no hidden dense layer and no tree ensemble loses anything at a share of {share:g}"
            continue
        yield from _forms(parent, pruned, feeds, name, _told(cuts, more), kinds, work)


def _forms(
    parent: Package,
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    name: str,
    how: str,
    kinds: tuple[Quantisation, ...],
    work: Path,
) -> Iterator[tuple[str, Rebuilt | str]]:
    """The model itself, quantised, and compiled. `name` and `how` are those of its pruning, if it was pruned."""
    plain = name or "graph"
    source = work / f"{plain}.onnx"
    onnx.save(model, source)
    yield plain, _rebuilt(parent, source, how or "graph simplified")
    for kind in kinds:
        called = f"{name}-{kind}" if name else kind
        why = quantisable(model, kind)
        if why:
            yield called, why
            continue
        path = work / f"{called}.onnx"
        try:
            quantised(source, kind, feeds, path)
        except PackageError as error:
            yield called, str(error)
            continue
        yield called, _rebuilt(parent, path, ", ".join(filter(None, (how, QUANTISERS[kind][0]))))
    if ensemble_nodes(model):
        form = _compiled(parent, model, how)
        # What stands against it stands against all, and is told once.
        if not name or isinstance(form, Rebuilt):
            yield f"{name}-compiled" if name else "compiled", form


def _rebuilt(parent: Package, path: Path, how: str) -> Rebuilt:
    dynamic = "DynamicQuantizeLinear" in read_onnx_file(path).operators
    return Rebuilt(
        runtime=msgspec.structs.replace(parent.manifest.runtime, artifact=MODEL_FILE),
        fill=partial(_copied, path),
        how=how,
        tools={"onnx": onnx.__version__, "onnxruntime": ort.__version__},
        rows_dependent="it quantises dynamically: the scale is that of the whole call" if dynamic else "",
    )


def _compiled(parent: Package, model: onnx.ModelProto, how: str) -> Rebuilt | str:
    if find_spec("lleaves") is None:
        return str(MissingExtra("compiling trees (module lleaves)", "optimise"))
    try:
        text = lightgbm_text(model)
    except PackageError as error:
        return str(error)
    return Rebuilt(
        runtime=RuntimeSpec(name="lleaves", artifact=_TEXT_FILE, max_call_rows=parent.manifest.runtime.max_call_rows),
        fill=partial(_written, text),
        how=", ".join(filter(None, (how, "trees compiled to machine code"))),
    )


def _copied(path: Path, stage: Path) -> None:
    shutil.copyfile(path, stage / MODEL_FILE)


def _written(text: str, stage: Path) -> None:
    (stage / _TEXT_FILE).write_text(text, "utf-8")


def _told(units: list[Cut], trees: list[Cut]) -> str:
    told = []
    if units:
        told.append(f"hidden units {', '.join(f'{c.before} → {c.after}' for c in units)}")
    if trees:
        told.append(f"trees {', '.join(f'{c.before} → {c.after}' for c in trees)}")
    return "; ".join(told)
