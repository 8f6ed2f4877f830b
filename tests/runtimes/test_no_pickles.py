"""No pickle is ever loaded, whatever it is called: the file's code must not have run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from tests.runtimes import packages
from tidemill.errors import PackageError
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live

INPUTS = [Input(name="x", datatype="FP64", shape=(-1, 1))]
OUTPUTS = [Output(name="label", datatype="INT64")]


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def joblib_dump(value: object) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file)
    return file.getvalue()


@pytest.mark.parametrize("runtime", ["onnx", "sklearn", "python"])
@pytest.mark.parametrize("dump", [pickle.dumps, joblib_dump], ids=["pickle", "joblib"])
def test_a_renamed_pickle_is_refused_unread(runtime: str, dump, tmp_path: Path) -> None:
    package = packages.make(tmp_path / "p", runtime, dump(Evil(tmp_path / "ran")), INPUTS, OUTPUTS)
    with pytest.raises(PackageError, match=r"cannot be loaded|cannot load"):
        Live.open(package)
    assert not (tmp_path / "ran").exists()
    pickle.loads(dump(Evil(tmp_path / "ran")))  # it would have run
    assert (tmp_path / "ran").exists()


def _skops(schema: dict[str, object], **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _header(data: bytes) -> dict[str, object]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read("schema.json"))
    return {k: schema[k] for k in ("protocol", "_skops_version")}


def test_a_skops_file_that_would_call_a_function_is_refused(tmp_path: Path) -> None:
    """A FunctionTransformer around os.mkdir, its type not trusted by the manifest."""
    data = skops.io.dumps(FunctionTransformer(os.mkdir))
    package = packages.make(tmp_path / "p", "sklearn", data, INPUTS, [Output(name="transformed", datatype="FP64")])
    with pytest.raises(PackageError, match=r"not trusted: posix\.mkdir.*runtime\.trusted"):
        Live.open(package)


def test_a_skops_file_with_a_malicious_reduce_is_refused(tmp_path: Path) -> None:
    """A hand-made schema whose root is rebuilt by calling os.mkdir, as `__reduce__` would."""
    ran = tmp_path / "ran"
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "__id__": 3, "is_json": True}
    arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "__id__": 2}
    data = _skops(
        {
            "__class__": "mkdir",
            "__module__": "posix",
            "__loader__": "ConstructorFromReduceNode",
            "__id__": 1,
            "content": arguments | {"content": [text | {"content": json.dumps(str(ran))}]},
        }
        | _header(skops.io.dumps(LogisticRegression()))
    )
    package = packages.make(tmp_path / "p", "sklearn", data, INPUTS, OUTPUTS)
    with pytest.raises(PackageError, match=r"not trusted: posix\.mkdir"):
        Live.open(package)
    assert not ran.exists()
    skops.io.loads(data, trusted=["posix.mkdir"])  # it would have run
    assert ran.exists()


def test_an_object_array_in_a_skops_file_is_not_unpickled(tmp_path: Path) -> None:
    """NumPy's own format pickles object arrays; a skops file that carries one is refused."""
    file = io.BytesIO()
    evil = np.empty(1, np.object_)
    evil[0] = Evil(tmp_path / "ran")
    np.save(file, evil, allow_pickle=True)
    root = {
        "__class__": "ndarray",
        "__module__": "numpy",
        "__loader__": "NdArrayNode",
        "__id__": 1,
        "type": "numpy",
        "file": "array.npy",
    } | _header(skops.io.dumps(LogisticRegression()))
    package = packages.make(tmp_path / "p", "sklearn", _skops(root, **{"array.npy": file.getvalue()}), INPUTS, OUTPUTS)
    with pytest.raises(PackageError, match=r"model\.skops.*allow_pickle"):
        Live.open(package)
    assert not (tmp_path / "ran").exists()


def test_cached_byte_code_is_not_run(tmp_path: Path) -> None:
    """Byte code beside the source is covered by no digest that anybody reads: the source is what runs."""
    import importlib.util
    import py_compile

    outputs = [Output(name="y", datatype="FP64")]
    inputs = [Input(name="x", datatype="FP64")]
    package = packages.python_package(tmp_path / "p", "return {'y': rows['x']}", inputs, outputs)
    source = package.path("model.py")
    forged = tmp_path / "forged.py"
    forged.write_text(source.read_text().replace("rows['x']", "rows['y']"))
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir()
    py_compile.compile(
        str(forged), cfile=str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, doraise=True
    )
    live = Live.open(package)
    assert live.predict(live.intake.from_arrays({"x": np.array([2.0])})).outputs["y"].tolist() == [2.0]
