"""Each extra suffices for its own importers: what only the others bring is hidden from a process of its own."""

import subprocess
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from tests.models import save_skops

X = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)

PACKAGE = """
import sys

class Hide:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[3].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide)
from tidemill.packaging import package_model
print(package_model(sys.argv[1], sys.argv[2]).package.manifest.runtime.name)
"""


def lightgbm_file(path: Path) -> None:
    params = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(params, lightgbm.Dataset(X, Y), 3).save_model(path)


def xgboost_file(path: Path) -> None:
    params = {"objective": "binary:logistic", "nthread": 1}
    xgboost.train(params, xgboost.DMatrix(X, Y), 3).save_model(path)


def skops_file(path: Path) -> None:
    save_skops(LogisticRegression().fit(X, Y), path)


@pytest.mark.parametrize(
    ("save", "name", "hidden"),
    [
        (lightgbm_file, "m.txt", "pandas,skops"),
        (xgboost_file, "m.json", "pandas,skops"),
        (skops_file, "m.skops", "lightgbm,onnxmltools,xgboost"),
    ],
    ids=["trees: LightGBM", "trees: XGBoost", "sklearn"],
)
def test_the_other_extra_is_not_needed(save, name: str, hidden: str, tmp_path: Path) -> None:
    save(tmp_path / name)
    command = [sys.executable, "-c", PACKAGE, str(tmp_path / name), str(tmp_path / "out"), hidden]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "onnx\n"
