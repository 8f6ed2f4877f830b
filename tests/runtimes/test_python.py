"""A Python class as the model: what it must declare, how it is loaded, and who may call it at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.runtimes import packages
from tests.runtimes.packages import SCORER, make, python_package, scorer_package
from tidemill.errors import ModelError, PackageError
from tidemill.model.package import open_package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.rows import Rows
from tidemill.runtimes.python import load

X = [Input(name="x", datatype="FP64")]
Y = [Output(name="y", datatype="FP64")]


def test_loads_its_files_and_answers(tmp_path: Path) -> None:
    live = Live.open(scorer_package(tmp_path / "p"))
    rows = live.intake.from_records(
        [{"amount": 4.0, "count": 0, "channel": "branch"}, {"amount": 4.0, "channel": "web"}]
    )
    result = live.predict(rows)
    assert result.outputs["score"].tolist() == [np.tanh(1.0), np.tanh(-3.0)]
    assert result.outputs["reason"].tolist() == ["branch", "none"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("class Model", "class Modell"), "model.py defines no class Model"),
        (("class Model:", "Model = 3\n\nclass _M:"), "model.py defines no class Model"),
        (("def predict", "def forecast"), "Model has no method predict"),
        (("    inputs =", "    features ="), r"Model.inputs must be {name: \(datatype, shape\)}"),
        (('"count": ("INT64", (-1,))', '"count": "INT64"'), "Model.inputs must be .* got"),
        (
            ('"count": ("INT64", (-1,)), ', ""),
            "Model.inputs names amount, channel; the manifest declares amount, count",
        ),
        (
            ('("INT64", (-1,))', '("INT32", (-1,))'),
            r"Model.inputs\['count'\] is INT32 \[-1\]; the manifest declares INT64",
        ),
        (('("INT64", (-1,))', '("INT64", (-1, 2))'), r"Model.inputs\['count'\] is INT64 \[-1, 2\]"),
        (('"reason": (', '"why": ('), "Model.outputs lacks reason"),
        (('{"score": ("FP64", (-1,))', '{"score": ("FP32", (-1,))'), r"Model.outputs\['score'\] is FP32"),
        (
            ("def load(self, directory):", "def load(self, directory):\n        raise OSError('no weights')"),
            "Model cannot be loaded: OSError: no weights",
        ),
        (
            ("def load(self, directory):", "def load(self, directory):\n        raise SystemExit(3)"),
            "Model cannot be loaded: SystemExit: 3",
        ),
        (
            ("import json", "import jason_not_there"),
            "model.py cannot be loaded: ModuleNotFoundError: .*jason_not_there",
        ),
        (("import json", "import json\nraise SystemExit(1)"), "model.py cannot be loaded: SystemExit: 1"),
        (("import json", "import json\nraise BaseException(1)"), "model.py cannot be loaded: BaseException: 1"),
        (
            ("def load(self, directory):", "def load(self, directory):\n        raise GeneratorExit"),
            "Model cannot be loaded: GeneratorExit: ",
        ),
        (("import json", "import json\nimport ("), "model.py cannot be loaded: SyntaxError"),
    ],
)
def test_what_is_missing_or_differs_is_refused_by_name(change: tuple[str, str], text: str, tmp_path: Path) -> None:
    assert change[0] in SCORER
    package = scorer_package(tmp_path / "p", SCORER.replace(*change))
    with pytest.raises(PackageError, match=text):
        load(package)


def test_exceptions_of_predict_pass_through(tmp_path: Path) -> None:
    runtime = load(python_package(tmp_path / "p", "raise LookupError('no such customer')", X, Y))
    with pytest.raises(LookupError, match="no such customer"):
        runtime.run(Rows({"x": np.zeros(2)}, 2))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return None", "Model.predict returned NoneType, expected a dict of arrays"),
        ("return {'y': rows['x'][:1]}", r"Model.predict returned y of shape \[1\] for 2 rows"),
        ("return {'y': 1.0}", "Model.predict returned y as float, expected an array of 2 rows"),
        ("return {'y': (v for v in rows['x'])}", "Model.predict returned y as generator, expected an array of 2 rows"),
        ("return {1: rows['x'], 'y': rows['x']}", "Model.predict returned a column named 1, expected a string"),
        (
            "import numpy as np\nreturn {'y': np.ma.masked_array(rows['x'], [True, False])}",
            "Model.predict returned y with masked cells: put a value there, or NaN",
        ),
        (
            "return {'y': rows['x'], 'y.valid': rows['x']}",
            r"returned y.valid as float64 \[2\], expected BOOL of shape \[2\]",
        ),
    ],
)
def test_what_is_no_dict_of_columns_is_refused(body: str, text: str, tmp_path: Path) -> None:
    runtime = load(python_package(tmp_path / "p", body, X, Y))
    with pytest.raises(ModelError, match=text):
        runtime.run(Rows({"x": np.zeros(2)}, 2))


def test_what_it_is_given_is_read_only(tmp_path: Path) -> None:
    """What it wrote would reach its neighbours' answers when a failed call is asked again by halves."""
    live = Live.open(python_package(tmp_path / "p", "rows['x'] += 1\nreturn {'y': rows['x']}", X, Y))
    rows = live.intake.from_arrays({"x": np.array([1.0, 2.0])})
    result = live.predict(rows)
    assert all("read-only" in p.message for p in result.problems)
    assert rows["x"].tolist() == [1.0, 2.0]


BUFFERED = """
import numpy as np


class Model:
    inputs = {"x": ("FP64", (-1,))}
    outputs = {"y": ("FP64", (-1,))}

    def load(self, directory):
        self.buffer = np.zeros(100)

    def predict(self, rows):
        if (rows["x"] == 13).any():
            raise ValueError("13")
        n = len(rows["x"])
        self.buffer[:n] = rows["x"]
        return {"y": self.buffer[:n]}
"""


def test_a_model_may_answer_every_call_from_one_buffer(tmp_path: Path) -> None:
    package = make(tmp_path / "p", "python", BUFFERED, X, Y)
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 13.0, 7.0, 8.0]
    for call_rows in (None, 3):
        live = Live.open(package, call_rows=call_rows)
        result = live.predict(live.intake.from_lists({"x": (None, values)}))
        assert [y for y in result.outputs["y"].tolist() if y == y] == [v for v in values if v != 13]


COUNTER = """
import threading
import time


class Model:
    inputs = {"x": ("FP64", (-1,))}
    outputs = {"y": ("FP64", (-1,))}
    at_once = 0
    most = 0
    gate = threading.Lock()

    def predict(self, rows):
        with self.gate:
            Model.at_once += 1
            Model.most = max(Model.most, Model.at_once)
        time.sleep(0.002)
        with self.gate:
            Model.at_once -= 1
        return {"y": rows["x"] * 0 + Model.most}
"""


@pytest.mark.parametrize("safe", [False, True])
def test_calls_are_serialised_unless_the_class_is_thread_safe(safe: bool, tmp_path: Path) -> None:
    source = COUNTER.replace("    at_once = 0", f"    thread_safe = {safe}\n    at_once = 0")
    runtime = load(make(tmp_path / "p", "python", source, X, Y))
    together = threading.Barrier(4)

    def work(_: int) -> float:
        together.wait()
        return max(float(runtime.run(Rows({"x": np.zeros(1)}, 1)).columns["y"][0]) for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        most = max(pool.map(work, range(4)))
    assert (most > 1) == safe


def test_a_failed_call_lets_the_next_in(tmp_path: Path) -> None:
    body = "if rows['x'][0] < 0:\n    raise ValueError('negative')\nreturn {'y': rows['x']}"
    runtime = load(python_package(tmp_path / "p", body, X, Y))
    with pytest.raises(ValueError, match="negative"):
        runtime.run(Rows({"x": np.array([-1.0])}, 1))
    assert runtime.run(Rows({"x": np.array([1.0])}, 1)).columns["y"].tolist() == [1.0]


# -- modules beside it -----------------------------------------------------------------------------------------


def _with_helper(directory: Path, factor: int):
    source = SCORER.replace(
        "import numpy as np", "import numpy as np\nfrom .features import scale\nfrom .deep import more"
    )
    source = source.replace("score = np.tanh(", "score = more.twice(scale(")
    source = source.replace("* weight + count)", "* weight))")
    files = {
        "features.py": f"def scale(x):\n    return x * {factor}\n",
        "deep/__init__.py": "",
        "deep/more.py": "from ..features import scale\n\n\ndef twice(x):\n    return x * 2\n",
    }
    return scorer_package(directory, source, files=files)


def test_two_packages_with_modules_of_one_name_do_not_meet(tmp_path: Path) -> None:
    paths = list(sys.path)
    one, two = (Live.open(_with_helper(tmp_path / str(k), k)) for k in (3, 5))
    for live, factor in ((one, 3), (two, 5)):
        rows = live.intake.from_records([{"amount": 4.0, "count": 0, "channel": "branch"}])
        assert live.predict(rows).outputs["score"].tolist() == [2.0 * factor]
    assert sys.path == paths
    assert "features" not in sys.modules
    assert "deep" not in sys.modules


def test_loading_leaves_the_directory_as_it_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    package = _with_helper(tmp_path / "p", 3)
    Live.open(package)
    open_package(package.directory)  # no __pycache__, no extra file


def test_a_failed_load_leaves_no_modules(tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(PackageError):
        load(scorer_package(tmp_path / "p", "from .features import x\n", files={"features.py": "x = 1 / 0\n"}))
    assert not [m for m in set(sys.modules) - before if m.startswith("tidemill_package_")]


def test_data_classes_with_future_annotations_work(tmp_path: Path) -> None:
    """They look for their module in sys.modules."""
    head = "from __future__ import annotations\nfrom dataclasses import dataclass, field\n"
    source = f"{head}{SCORER}\n\n@dataclass\nclass Options:\n    names: list[str] = field(default_factory=list)\n"
    load(scorer_package(tmp_path / "p", source))


def test_a_transform_stands_between_the_signature_and_the_model(tmp_path: Path) -> None:
    """The class declares its own inputs; those of the package are the transform's."""
    before = "def before(rows):\n    return {'x': rows['cents'] / 100}\n"
    after = "def after(rows):\n    return {'euros': rows['y'] * 2}\n"
    plain = python_package(tmp_path / "p", "return {'y': rows['x']}", X, Y)
    package = packages.make(
        tmp_path / "q",
        "python",
        plain.path("model.py").read_text(),
        [Input(name="cents", datatype="INT64")],
        [Output(name="euros", datatype="FP64")],
        files={"transform.py": before + after},
        transform="transform.py",
    )
    live = Live.open(package)
    assert live.predict(live.intake.from_lists({"cents": (None, [150, 200])})).outputs["euros"].tolist() == [3.0, 4.0]
