"""Packages of a few lines of Python that keep their word, or break it in one chosen way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.model.manifest import Manifest, RuntimeSpec
from tidemill.model.package import Package, write_package
from tidemill.model.samples import write_samples
from tidemill.model.signature import Column, Input, Output

X = Input(name="x", datatype="FP32", minimum=0, maximum=100)
SCORE = Output(name="score", datatype="FP32")


def python_package(
    directory: Path,
    predict: str,
    *,
    inputs: Sequence[Input] = (X,),
    outputs: Sequence[Output] = (SCORE,),
    head: str = "",
    thread_safe: bool = True,
    samples: tuple[dict[str, Any], dict[str, Any]] | None = None,
    **manifest: Any,
) -> Package:
    """A package whose model is `predict`, the body of a function of `rows` after the lines of `head`."""
    declared = {i.name: (i.datatype, list(i.shape)) for i in inputs}
    answered = {o.name: (o.datatype, list(o.shape)) for o in outputs if o.source is None}
    lines = [
        "import numpy as np", *head.splitlines(), "class Model:",
        f"    inputs = {declared!r}", f"    outputs = {answered!r}", f"    thread_safe = {thread_safe}",
        "    def predict(self, rows):", *(f"        {line}" for line in predict.splitlines()), "",
    ]  # fmt: skip

    def fill(stage: Path) -> None:
        (stage / "model.py").write_text("\n".join(lines))
        if samples is not None:
            given, expected = (pa.RecordBatch.from_pydict(part) for part in samples)
            write_samples(stage / "samples.arrow", given, expected)

    whole = Manifest(
        format=1,
        name="tiny",
        version="1",
        runtime=RuntimeSpec(name="python", artifact="model.py"),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        samples=None if samples is None else "samples.arrow",
        **manifest,
    )
    return write_package(directory / "tiny", whole, fill)


def twice(directory: Path) -> Package:
    """score = 2 x, with four samples."""
    x = pa.array([1, 2, 3, 50], pa.float32())
    score = pa.array([2, 4, 6, 100], pa.float32())
    return python_package(
        directory, "return {'score': rows['x'] * np.float32(2)}", samples=({"x": x}, {"score": score})
    )


def every_datatype(directory: Path) -> Package:
    """An input and an output of every datatype, with limits, categories, missing cells, tensors and raw bytes."""
    numbers = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
    inputs = [Input(name=f"in_{n}", datatype=n, minimum=1, maximum=100, nullable=n[:2] == "FP") for n in numbers]
    inputs += [
        Input(name="in_flag", datatype="BOOL"),
        Input(name="in_maybe", datatype="BOOL", nullable=True),
        Input(name="in_count", datatype="INT64", nullable=True, fill=-1),
        Input(name="in_kind", datatype="INT32", categories=(3, 5, 7)),
        Input(name="in_text", datatype="BYTES"),
        Input(name="in_plan", datatype="BYTES", categories=("a", "b"), nullable=True, fill="a"),
        Input(name="in_raw", datatype="BYTES", binary=True),
        Input(name="in_grid", datatype="FP32", shape=(-1, 2, 3)),
        Input(
            name="in_matrix",
            datatype="INT32",
            shape=(-1, 2),
            columns=(Column(name="m0", minimum=-5, maximum=5), Column(name="m1", nullable=True)),
        ),
    ]
    outputs = [Output(name=f"out_{n}", datatype=n) for n in numbers]
    outputs += [
        Output(name="out_flag", datatype="BOOL"),
        Output(name="out_text", datatype="BYTES"),
        Output(name="out_raw", datatype="BYTES", binary=True),
        Output(name="out_grid", datatype="FP32", shape=(-1, 2, 3)),
        Output(name="out_kind", datatype="INT32", shape=(-1, 2)),
        Output(name="out_words", datatype="BYTES", shape=(-1, 2)),
    ]
    predict = """\
out = {k.replace('in_', 'out_'): v for k, v in rows.items() if k[3:5] in ('UI', 'IN', 'FP') and '.' not in k}
for name in ('out_FP16', 'out_FP32', 'out_FP64'):
    out[name] = np.where(np.isnan(out[name]), 0, out[name] / 3).astype(out[name].dtype)
maybe = np.where(rows.get('in_maybe.valid', True), rows['in_maybe'], False)
out['out_flag'] = rows['in_flag'] ^ maybe
texts = zip(rows['in_text'], rows['in_plan'], rows['in_count'])
out['out_text'] = np.array([f'{t}|{p}|{c}' for t, p, c in texts], object)
out['out_raw'] = np.array([r + b'!' for r in rows['in_raw']], object)
out['out_grid'] = rows['in_grid'] * np.float32(0.1)
out['out_kind'] = rows['in_matrix'] * 0 + rows['in_kind'].reshape(-1, 1)
out['out_words'] = np.stack([rows['in_plan'], rows['in_text']], axis=1)
return out"""
    return python_package(directory, predict, inputs=inputs, outputs=outputs)
