"""ONNX Runtime: execution providers by name, one intra-op thread a call unless the package asks for more.

With one thread the same row gives the same bits at every call size; with two it did not (DESIGN, promise 1).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from tidemill.errors import PackageError
from tidemill.model.package import Package
from tidemill.rows import Rows

__all__ = ["OnnxRuntime", "load", "open_session"]


def open_session(path: Path, providers: tuple[str, ...], threads: int) -> ort.InferenceSession:
    """A session on a model file. Raises PackageError for an unknown provider or a file ONNX Runtime refuses."""
    absent = [p for p in providers if p not in ort.get_available_providers()]
    if absent:
        available = ", ".join(ort.get_available_providers())
        raise PackageError(f"execution provider {', '.join(absent)} is not available here: expected one of {available}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning would burn a core that another session or the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), sess_options=options, providers=list(providers))
    except Exception as error:
        raise PackageError(f"{path.name}: ONNX Runtime cannot load it: {error}") from error


class OnnxRuntime:
    """One session; `run` may be called from several threads at once."""

    releases_gil = True

    def __init__(self, session: ort.InferenceSession) -> None:
        self.version = f"onnxruntime {ort.__version__}"
        self._session = session
        self._inputs = [i.name for i in session.get_inputs()]
        self._outputs = [o.name for o in session.get_outputs()]
        # skl2onnx gives every scalar column of a pipeline the shape (n, 1).
        self._columnar = {i.name for i in session.get_inputs() if len(i.shape) == 2 and i.shape[1] == 1}

    def run(self, rows: Rows) -> Rows:
        feeds = {}
        for name in self._inputs:
            array = rows.columns[name]
            if array.ndim == 1 and name in self._columnar:
                array = array.reshape(-1, 1)
            feeds[name] = array
        found = self._session.run(self._outputs, feeds)
        return Rows({k: np.asarray(v) for k, v in zip(self._outputs, found, strict=True)}, rows.n)


def load(package: Package) -> OnnxRuntime:
    """Load the package's ONNX file, and see that the graph's inputs are those the model will be given."""
    spec = package.manifest.runtime
    return OnnxRuntime(open_session(package.path(spec.artifact), spec.providers, spec.threads))
