"""Small real packages of every runtime, for the tests of runtimes and of the prediction path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.packages import make
from tidemill.model.package import Package
from tidemill.model.signature import Column, Input, Output

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


# -- ONNX ------------------------------------------------------------------------------------------------------


def graph(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[Any] | None]],
    outputs: Mapping[str, tuple[str, Sequence[Any] | None]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """An ONNX file from nodes, `name: (datatype, shape)` of inputs and outputs, and constants."""

    def infos(named: Mapping[str, tuple[str, Sequence[Any] | None]]) -> list[Any]:
        return [helper.make_tensor_value_info(n, ONNX_TYPES[d], s) for n, (d, s) in named.items()]

    made = helper.make_graph(
        list(nodes),
        "tiny",
        infos(inputs),
        infos(outputs),
        [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()],
    )
    model: ModelProto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def doubling(datatype: str = "FP32", shape: Sequence[Any] = ("n",)) -> bytes:
    """y = x + x, of any datatype that ONNX Runtime adds."""
    return graph([helper.make_node("Add", ["x", "x"], ["y"])], {"x": (datatype, shape)}, {"y": (datatype, shape)})


def gathering(size: int = 4) -> bytes:
    """y = table[index]: ONNX Runtime raises on an index outside the table."""
    return graph(
        [helper.make_node("Gather", ["table", "index"], ["y"], axis=0)],
        {"index": ("INT64", ["n"])},
        {"y": ("FP32", ["n"])},
        {"table": np.arange(size, dtype=np.float32) / 8},
    )


def network(features: int = 5, classes: int = 3) -> bytes:
    """Two dense layers and a softmax."""
    rng = np.random.default_rng(7)
    return graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
            helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
        ],
        {"x": ("FP32", ["n", features])},
        {"probabilities": ("FP32", ["n", classes])},
        {
            "w1": rng.normal(size=(features, 16)).astype(np.float32),
            "b1": rng.normal(size=16).astype(np.float32),
            "w2": rng.normal(size=(16, classes)).astype(np.float32),
            "b2": rng.normal(size=classes).astype(np.float32),
        },
    )


def network_package(directory: Path, **manifest: Any) -> Package:
    columns = tuple(Column(name=f"f{i}", minimum=-10, maximum=10) for i in range(5))
    return make(
        directory,
        "onnx",
        network(),
        [Input(name="x", datatype="FP32", shape=(-1, 5), columns=columns)],
        [
            Output(name="probabilities", datatype="FP32", shape=(-1, 3), labels=("low", "middle", "high")),
            Output(name="label", datatype="BYTES", source="probabilities"),
            Output(name="best", datatype="BYTES", shape=(-1, 2), source="probabilities", top_k=2),
        ],
        **manifest,
    )


def trees_package(directory: Path) -> Package:
    from skl2onnx import to_onnx

    features, target = make_classification(200, 6, random_state=0)
    features = features.astype(np.float32)
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(features, target)
    return make(
        directory,
        "onnx",
        to_onnx(model, features[:1], options={"zipmap": False}).SerializeToString(),
        [Input(name="X", datatype="FP32", shape=(-1, 6))],
        [
            Output(name="label", datatype="INT64"),
            Output(name="probabilities", datatype="FP32", shape=(-1, 2), labels=("bad", "good")),
            Output(name="verdict", datatype="BYTES", source="probabilities", threshold=0.4),
        ],
    )


def boosted_text(trees: int = 12) -> str:
    """A LightGBM text file: two classes, six columns."""
    import lightgbm

    features, target = make_classification(300, 6, random_state=0)
    model = lightgbm.LGBMClassifier(n_estimators=trees, num_leaves=7, verbose=-1, n_jobs=1).fit(features, target)
    return model.booster_.model_to_string()


def compiled_package(directory: Path, **manifest: Any) -> Package:
    return make(
        directory,
        "lleaves",
        boosted_text(),
        [Input(name="X", datatype="FP32", shape=(-1, 6), minimum=-10, maximum=10)],
        [
            Output(name="label", datatype="BYTES"),
            Output(name="probabilities", datatype="FP32", shape=(-1, 2), labels=("bad", "good")),
            Output(name="verdict", datatype="BYTES", source="probabilities", threshold=0.4),
        ],
        **manifest,
    )


# -- scikit-learn ----------------------------------------------------------------------------------------------


def people(n: int = 120, seed: int = 0) -> Any:
    """A data frame with an integer, a float with missing cells and a text with missing cells, and its target."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n),
            "income": rng.normal(30_000, 8_000, n),
            "city": rng.choice(np.array(["Bergen", "Oslo", "Tromsø"], object), n),
        }
    )
    target = np.where(frame["age"] + frame["income"] / 1_000 > 75, "yes", "no")
    frame.loc[::7, "income"] = np.nan
    frame.loc[::5, "city"] = np.nan
    return frame, target


def pipeline(final: Any, handle_unknown: str = "ignore") -> Any:
    text = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown=handle_unknown))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_pipeline(make_column_transformer((numbers, ["age", "income"]), (text, ["city"])), final)


PEOPLE_INPUTS = (
    Input(name="age", datatype="INT64", minimum=0, maximum=150),
    Input(name="income", datatype="FP64", nullable=True),
    Input(name="city", datatype="BYTES", nullable=True),
)


def sklearn_package(
    directory: Path, estimator: Any, inputs: Sequence[Input], outputs: Sequence[Output], **manifest: Any
) -> Package:
    """Saved with skops, each of its types trusted (the test wrote it)."""
    data = skops.io.dumps(estimator)
    spec = {"trusted": tuple(skops.io.get_untrusted_types(data=data))} | manifest.pop("spec", {})
    return make(directory, "sklearn", data, inputs, outputs, spec=spec, **manifest)


def forest_package(directory: Path) -> Package:
    frame, target = people()
    # Two jobs: threads that add up in any order, unless the runtime holds them back.
    model = pipeline(RandomForestClassifier(15, random_state=0, n_jobs=2)).fit(frame, target)
    outputs = [
        Output(name="label", datatype="BYTES"),
        Output(name="probabilities", datatype="FP64", shape=(-1, 2), labels=("no", "yes")),
    ]
    return sklearn_package(directory, model, PEOPLE_INPUTS, outputs)


def logistic_package(directory: Path) -> Package:
    frame, target = people()
    model = pipeline(LogisticRegression()).fit(frame, target)
    outputs = [
        Output(name="label", datatype="BYTES"),
        Output(name="probabilities", datatype="FP64", shape=(-1, 2), labels=("no", "yes"), tolerance=1e-12),
        Output(name="decision", datatype="FP64", tolerance=1e-9),
    ]
    return sklearn_package(directory, model, PEOPLE_INPUTS, outputs)


# -- Python ----------------------------------------------------------------------------------------------------

SCORER = """
import json
import numpy as np


class Model:
    inputs = {"amount": ("FP64", (-1,)), "count": ("INT64", (-1,)), "channel": ("BYTES", (-1,))}
    outputs = {"score": ("FP64", (-1,)), "reason": ("BYTES", (-1,))}

    def load(self, directory):
        self.weights = json.loads((directory / "weights.json").read_text())

    def predict(self, rows):
        weight = np.array([self.weights.get(c, 0.0) for c in rows["channel"]])
        count = rows["count"]
        if "count.valid" in rows:
            count = np.where(rows["count.valid"], count, -1)
        score = np.tanh(rows["amount"] * weight + count)
        return {"score": score, "reason": np.where(score > 0, rows["channel"], "none")}
"""

SCORER_INPUTS = (
    Input(name="amount", datatype="FP64", minimum=-100, maximum=100),
    Input(name="count", datatype="INT64", nullable=True),
    Input(name="channel", datatype="BYTES", categories=("branch", "web", "phone")),
)
SCORER_OUTPUTS = (Output(name="score", datatype="FP64"), Output(name="reason", datatype="BYTES"))
WEIGHTS = '{"branch": 0.25, "web": -0.5, "phone": 0.125}'


def scorer_package(directory: Path, source: str = SCORER, **manifest: Any) -> Package:
    files = {"weights.json": WEIGHTS} | manifest.pop("files", {})
    return make(directory, "python", source, SCORER_INPUTS, SCORER_OUTPUTS, files=files, **manifest)


def python_package(
    directory: Path, predict: str, inputs: Sequence[Input], outputs: Sequence[Output], **manifest: Any
) -> Package:
    """A Python model whose `predict(self, rows)` has the given body."""
    body = "\n".join(f"        {line}" for line in predict.strip("\n").splitlines())
    source = f"""
import numpy as np


class Model:
    inputs = {{{", ".join(f"{i.name!r}: ({i.datatype!r}, {i.shape!r})" for i in inputs)}}}
    outputs = {{{", ".join(f"{o.name!r}: ({o.datatype!r}, {o.shape!r})" for o in outputs if not o.source)}}}

    def predict(self, rows):
{body}
"""
    return make(directory, "python", source, inputs, outputs, **manifest)
