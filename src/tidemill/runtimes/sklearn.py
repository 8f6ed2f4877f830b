"""scikit-learn through skops: an estimator or Pipeline, loaded only if each of its types is trusted by name.

A model output's name says which method gives it: `label` and `value` predict, `probabilities` predict_proba,
`decision` decision_function, `transformed` transform. An estimator fitted on a data frame gets one, its columns
in their own dtypes; one fitted on arrays gets an array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import skops
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException
from threadpoolctl import ThreadpoolController

from tidemill.errors import ModelError, PackageError
from tidemill.model.manifest import Manifest
from tidemill.model.package import Package
from tidemill.rows import Array, Rows
from tidemill.runtimes.requirements import check_requirements

__all__ = ["METHODS", "SklearnRuntime", "knows_none", "load", "parts"]

# model output → the estimator's method that gives it
METHODS = {
    "label": "predict",
    "value": "predict",
    "probabilities": "predict_proba",
    "decision": "decision_function",
    "transformed": "transform",
}


class SklearnRuntime:
    """One fitted estimator; `run` may be called from several threads at once, prediction changes nothing in it."""

    releases_gil = False

    def __init__(self, estimator: Any, manifest: Manifest) -> None:
        self.version = f"scikit-learn {sklearn.__version__}, skops {skops.__version__}"
        who = type(estimator).__name__
        raw = [o.name for o in manifest.outputs if o.source is None]
        if manifest.transform is not None and not set(raw) <= METHODS.keys():
            # `after` gives outputs of other names, from any of these.
            raw = [name for name, method in METHODS.items() if hasattr(estimator, method)]
        self._methods = [(name, _method(estimator, name, who)) for name in raw]
        self._frame = _framing(estimator, manifest, who)
        self._threads = manifest.runtime.threads
        _limit_threads(estimator, self._threads)
        self._pools = ThreadpoolController()

    def run(self, rows: Rows) -> Rows:
        frame = self._frame(rows)
        called: dict[Any, Array] = {}
        columns: dict[str, Array] = {}
        # Histogram gradient boosting asks OpenMP for every core, and OpenMP keeps the number for each thread: on a busy
        # machine a call of 6 ms took 100 ms.
        with self._pools.limit(limits=self._threads, user_api="openmp"):
            for name, method in self._methods:
                if method not in called:
                    called[method] = _array(method(frame), name)
                columns[name] = called[method]
        return Rows(columns, rows.n)


def load(package: Package) -> SklearnRuntime:
    """Load the package's skops file. Raises PackageError for a type that the manifest does not trust, for
    requirements that are not met, and for an estimator that cannot take the inputs or give the outputs.
    """
    manifest = package.manifest
    check_requirements(manifest.requirements, manifest.name)
    path = package.path(manifest.runtime.artifact)
    trusted = list(manifest.runtime.trusted)
    try:
        estimator = skops.io.load(path, trusted=trusted)
    except UntrustedTypesFoundException:
        names = ", ".join(sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted)))
        raise PackageError(
            f"{path.name}: holds types that are not trusted: {names}; "
            "if you know where the file is from, name them in runtime.trusted"
        ) from None
    except Exception as error:
        raise PackageError(f"{path.name}: skops cannot load it: {type(error).__name__}: {error}") from error
    return SklearnRuntime(estimator, manifest)


def _method(estimator: Any, output: str, who: str) -> Callable[[Any], Any]:
    name = METHODS.get(output)
    if name is None:
        raise PackageError(f"output {output!r}: a scikit-learn model's outputs are named {', '.join(METHODS)}")
    method: Callable[[Any], Any] | None = getattr(estimator, name, None)
    if method is None:
        raise PackageError(f"output {output!r}: {who} has no {name}")
    return method


def _array(found: Any, name: str) -> Array:
    if isinstance(found, list):
        raise ModelError(f"output {name!r} is a list of {len(found)} arrays: models of several targets need one each")
    if hasattr(found, "toarray"):  # encoders and vectorisers give sparse matrices
        found = found.toarray()
    array = np.asarray(found)
    return array.astype(np.object_) if array.dtype.kind == "U" else array


# -- what the estimator is given -------------------------------------------------------------------------------


def _framing(estimator: Any, manifest: Manifest, who: str) -> Callable[[Rows], Any]:
    """The function from rows to what the estimator was fitted on: a data frame or an array."""
    inputs = manifest.inputs
    nullable = frozenset(i.name for i in inputs if i.nullable and i.fill is None)
    absent = None if knows_none(estimator) else np.nan
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return lambda rows: _matrix(rows, absent, nullable)
    names = [str(n) for n in names]
    packed = len(inputs) == 1 and bool(inputs[0].columns)
    declared = [c.name for c in inputs[0].columns] if packed else [i.name for i in inputs]
    if manifest.transform is None and sorted(declared) != sorted(names):
        raise PackageError(
            f"{who} was fitted on the columns {', '.join(names)}; the signature declares {', '.join(declared)}"
        )
    if packed and manifest.transform is None:
        tensor = inputs[0].name
        order = [declared.index(n) for n in names]
        return lambda rows: pd.DataFrame(_column(tensor, rows, absent, nullable)[:, order], columns=names)
    return lambda rows: pd.DataFrame({n: _column(n, rows, absent, nullable) for n in names})


def _matrix(rows: Rows, absent: Any, nullable: frozenset[str]) -> Array:
    """The columns side by side, (n, features). Text alone stays (n,): what a vectoriser reads."""
    columns = [_column(n, rows, absent, nullable) for n in rows.columns]
    if len(columns) == 1 and (columns[0].ndim > 1 or columns[0].dtype.kind == "O"):
        return columns[0]
    return np.column_stack(columns)


def _column(name: str, rows: Rows, absent: Any, nullable: frozenset[str]) -> Array:
    """A column as pandas keeps it: integers that may be missing are float64 with NaN, booleans are objects."""
    array = rows.columns.get(name)
    if array is None:
        raise ModelError(f"no column {name!r} for the model; transform.before gave {', '.join(rows.columns)}")
    kind = array.dtype.kind
    if kind == "O":
        if absent is None:
            return array
        missing = np.array([v is None for v in array.reshape(-1).tolist()], np.bool_).reshape(array.shape)
    else:
        mask = rows.valid.get(name)
        if kind == "f" or (mask is None and name not in nullable):
            return array
        array = array.astype(np.object_ if kind == "b" else np.float64)
        if mask is None:
            return array
        missing = ~mask
    if missing.any():
        array = array.copy()
        array[missing] = absent if array.dtype.kind == "O" else np.nan
    return array


def knows_none(estimator: Any) -> bool:
    """Whether missing text was None when it was fitted (Parquet, SQL) rather than NaN (CSV): encoders remember."""
    for part in parts(estimator):
        if "missing_values" in vars(part) and part.missing_values is None:
            return True
        for known in getattr(part, "categories_", ()):
            if np.asarray(known).dtype.kind == "O" and any(v is None for v in known):
                return True
    return False


def _limit_threads(estimator: Any, threads: int) -> None:
    """Calls run side by side, not inside themselves; and a forest's threads add up in an order that varies."""
    for part in parts(estimator):
        if "n_jobs" in vars(part):
            part.n_jobs = threads


def parts(value: Any) -> Iterator[Any]:
    """An estimator and the fitted estimators in it, however deep."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield value
        for inner in vars(value).values():
            yield from parts(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from parts(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in value:
            yield from parts(inner)
