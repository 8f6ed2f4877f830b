"""Small packages that servers are tested with: real Python models whose every move a test can see."""

from pathlib import Path
from typing import Any

from tests.packages import make
from tidemill.datatypes import DATATYPES
from tidemill.model.manifest import Slo
from tidemill.model.signature import Column, Input, Output

NUMBERS = [name for name in DATATYPES if name != "BYTES"]

EVERY = """
class Model:
    inputs = {INPUTS}
    outputs = {OUTPUTS}
    thread_safe = True

    def predict(self, rows):
        return {"same_" + name: rows[name] for name in self.inputs}
"""

# Sleeps as long as its rows say, and tells how many rows it was called with and how often.
SLEEPER = """
import time
import numpy as np


class Model:
    inputs = {"seconds": ("FP32", [-1])}
    outputs = {"seconds": ("FP32", [-1]), "together": ("INT64", [-1]), "call": ("INT64", [-1])}

    def load(self, directory):
        self.calls = 0

    def predict(self, rows):
        seconds = rows["seconds"]
        self.calls += 1
        time.sleep(float(seconds.max()))
        n = len(seconds)
        return {"seconds": seconds, "together": np.full(n, n), "call": np.full(n, self.calls)}
"""

# Raises for every negative x that validation lets through, and answers its root otherwise.
FRAGILE = """
import numpy as np


class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"root": ("FP64", [-1])}

    def predict(self, rows):
        if (rows["x"] < 0).any():
            raise ValueError("the root of a negative number")
        return {"root": np.sqrt(rows["x"])}
"""

ECHO = """
class Model:
    inputs = {"x": ("FP64", [-1, 2])}
    outputs = {"y": ("FP64", [-1, 2])}

    def predict(self, rows):
        if (rows["x"][:, 0] < 0).any():
            raise ValueError("negative")
        return {"y": rows["x"]}
"""

TABULAR = """
import numpy as np


class Model:
    inputs = {"age": ("INT32", [-1]), "city": ("BYTES", [-1]), "income": ("FP64", [-1])}
    outputs = {"score": ("FP64", [-1])}

    def predict(self, rows):
        age = np.where(rows.get("age.valid", True), rows["age"], 40)
        income = np.nan_to_num(rows["income"], nan=1000.0)
        return {"score": age + income / 1000 + np.array([len(c) for c in rows["city"]])}
"""

MATRIX = """
class Model:
    inputs = {"X": ("FP32", [-1, 3])}
    outputs = {"sum": ("FP32", [-1]), "twice": ("FP32", [-1, 3]), "first": ("BYTES", [-1])}

    def predict(self, rows):
        x = rows["X"]
        names = ["\\u00e9, \\"%g\\"" % v for v in x[:, 0]]
        import numpy as np
        return {"sum": x.sum(axis=1), "twice": x * 2, "first": np.array(names, object)}
"""


def every_type(directory: Path) -> Path:
    """Gives back what it gets: an input of shape (-1, 2) for each datatype of numbers, `text` (-1) and `raw` (-1)."""
    inputs = [Input(name=n.lower(), datatype=n, shape=(-1, 2), nullable=True) for n in NUMBERS]
    inputs += [Input(name="text", datatype="BYTES"), Input(name="raw", datatype="BYTES", binary=True)]
    outputs = [Output(name=f"same_{i.name}", datatype=i.datatype, shape=i.shape, binary=i.binary) for i in inputs]
    source = EVERY.replace("{INPUTS}", repr({i.name: (i.datatype, list(i.shape)) for i in inputs}))
    source = source.replace("{OUTPUTS}", repr({o.name: (o.datatype, list(o.shape)) for o in outputs}))
    return _write(directory / "every", source, inputs, outputs)


def sleeper(directory: Path, timeout_ms: float = 30_000, name: str = "sleeper") -> Path:
    """`seconds` (-1): sleeps for the longest of them."""
    outputs = [Output(name="seconds", datatype="FP32"), Output(name="together", datatype="INT64")]
    outputs.append(Output(name="call", datatype="INT64"))
    inputs = [Input(name="seconds", datatype="FP32", minimum=0, maximum=60)]
    return _write(directory / name, SLEEPER, inputs, outputs, slo=Slo(timeout_ms=timeout_ms))


def fragile(directory: Path) -> Path:
    """`x` (-1), at least -10: raises below 0."""
    inputs = [Input(name="x", datatype="FP64", minimum=-10)]
    return _write(directory / "fragile", FRAGILE, inputs, [Output(name="root", datatype="FP64")])


def scalar(directory: Path, name: str, source: str) -> Path:
    """A model of the test's own: `y` of `x`, both FP64 (-1)."""
    return _write(directory / name, source, [Input(name="x", datatype="FP64")], [Output(name="y", datatype="FP64")])


def tabular(directory: Path) -> Path:
    """Named columns: `age` (nullable, 0 to 120), `city` (of three), `income` (nullable)."""
    inputs = [
        Input(name="age", datatype="INT32", nullable=True, minimum=0, maximum=120),
        Input(name="city", datatype="BYTES", categories=("Bern", "Zürich", "Genève")),
        Input(name="income", datatype="FP64", nullable=True),
    ]
    return _write(directory / "tabular", TABULAR, inputs, [Output(name="score", datatype="FP64")])


def matrix(directory: Path, version: str = "1") -> Path:
    """`X` (-1, 3) of the columns a (at least 0), b (nullable), c."""
    columns = (Column(name="a", minimum=0), Column(name="b", nullable=True), Column(name="c"))
    inputs = [Input(name="X", datatype="FP32", shape=(-1, 3), columns=columns)]
    outputs = [
        Output(name="sum", datatype="FP32"),
        Output(name="twice", datatype="FP32", shape=(-1, 3)),
        Output(name="first", datatype="BYTES"),
    ]
    return _write(directory / f"matrix-{version}", MATRIX, inputs, outputs, name="matrix", version=version)


def twice(directory: Path) -> Path:
    """An ONNX graph: `twice` is two times `x` (-1, 2). Quick enough to run on the event loop."""
    from onnx import TensorProto, helper

    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 2]) for n in ("x", "twice")]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "two"], ["twice"])], "g", tensors[:1], tensors[1:], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs, outputs = (
        (Input(name="x", datatype="FP32", shape=(-1, 2)),),
        (Output(name="twice", datatype="FP32", shape=(-1, 2)),),
    )
    return make(directory / "twice", "onnx", model.SerializeToString(), inputs, outputs, name="twice").directory


def echo(directory: Path) -> Path:
    """An ONNX graph: `y` is `x` (-1, 2), FP64. Quick enough to run on the event loop."""
    from onnx import TensorProto, helper

    tensors = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, [None, 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inputs = [Input(name="x", datatype="FP64", shape=(-1, 2))]
    outputs = [Output(name="y", datatype="FP64", shape=(-1, 2))]
    return make(directory / "echo", "onnx", model.SerializeToString(), inputs, outputs, name="echo").directory


def echo_python(directory: Path) -> Path:
    """`y` is `x` (-1, 2), FP64; raises where a row's first value is negative."""
    inputs = [Input(name="x", datatype="FP64", shape=(-1, 2))]
    outputs = [Output(name="y", datatype="FP64", shape=(-1, 2))]
    return _write(directory / "echo_python", ECHO, inputs, outputs)


def _write(target: Path, source: str, inputs: list[Input], outputs: list[Output], **manifest: Any) -> Path:
    return make(target, "python", source, inputs, outputs, **{"name": target.name, **manifest}).directory
