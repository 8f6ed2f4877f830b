"""The Python interface: `load`, `score`, `serve` and `package`, with NumPy, Arrow, pandas and Polars in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from tidemill.batch import Progress, RunReport, ScoreOptions
from tidemill.batch import score as run
from tidemill.config import decode
from tidemill.errors import InputError, Problem
from tidemill.model.package import open_package
from tidemill.model.signature import Output
from tidemill.prediction.columns import output_arrays, output_schema
from tidemill.prediction.intake import Intake, Listed
from tidemill.prediction.live import Live
from tidemill.prediction.result import rows_error
from tidemill.rows import Array, Rows

if TYPE_CHECKING:
    from tidemill.packaging import PackageReport

__all__ = ["Model", "Prediction", "load", "package", "score", "serve"]

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers aligned one to one with the rows asked.

    `outputs`: name → array of shape (n, …) in the signature's dtype. `problems` names the rows without an answer,
    whose cells are fillers (NaN, 0, None); empty unless bad rows were allowed. `statuses`: ok, rejected, failed or
    late for each row. `signature` is the package's declaration of the outputs.
    """

    outputs: Mapping[str, Array]
    problems: tuple[Problem, ...]
    statuses: tuple[str, ...]
    signature: tuple[Output, ...]

    def __len__(self) -> int:
        return len(self.statuses)

    def __getitem__(self, output: str) -> Array:
        return self.outputs[output]

    def to_arrow(self) -> pa.Table:
        """One column an output (vectors as fixed-size lists), null where a row has no answer."""
        columns = output_arrays(self.signature, Rows(self.outputs, len(self)))
        if self.problems:
            index = pa.array(np.arange(len(self)), mask=np.array([s != "ok" for s in self.statuses], np.bool_))
            columns = [column.take(index) for column in columns]
        return pa.Table.from_arrays(columns, schema=output_schema(self.signature))


class Model:
    """A loaded package. Thread-safe; make one and keep it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __repr__(self) -> str:
        return f"Model({self.name!r}, version={self.version!r}, inputs={self._live.intake.table_columns})"

    @property
    def name(self) -> str:
        """The package's name."""
        return self._live.package.name

    @property
    def version(self) -> str:
        """The package's version."""
        return self._live.package.version

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that can change an answer, the runtime's version included."""
        return self._live.fingerprint

    def predict(self, data: Any, on_bad_row: Literal["raise", "partial"] = "raise") -> Prediction:
        """Answer n rows, through the same path as the server and the batch job.

        `data` is one of: a dict of columns (arrays (n, …), lists or series; the mask of a missing integer under
        `NAME.valid`); a list of dicts, one a row; an array whose first axis is the rows, for a model with one
        input, or (n, columns) in the order of the signature; an Arrow, pandas or Polars table, whose other columns
        are left alone. Numbers are brought to the signature's datatype where that keeps integers whole.

        Raises InputError for data that cannot be understood, RowsRejected for rows that break the signature and
        ModelError for rows that the model fails on, all named; with `on_bad_row="partial"` they are in `problems`.
        """
        if on_bad_row not in ("raise", "partial"):
            raise InputError(f"on_bad_row is {on_bad_row!r}, expected 'raise' or 'partial'")
        result = self._live.predict(to_rows(self._live.intake, data))
        if result.problems and on_bad_row == "raise":
            raise rows_error(result.problems, result.n)
        signature = self._live.package.manifest.outputs
        return Prediction(result.outputs.columns, tuple(result.problems), tuple(result.statuses()), signature)

    def inspect(self) -> dict[str, Any]:
        """What `tidemill inspect --json` shows."""
        from tidemill.packaging import describe

        found: dict[str, Any] = describe(self._live.package)
        return found


def load(directory: Path) -> Model:
    """Load a package, every file's digest checked. Raises PackageError (or IntegrityError, MissingExtra)."""
    return Model(Live.open(open_package(directory)))


def score(
    package: Path, source: Path, sink: Path, *, progress: Callable[[Progress], None] | None = None, **options: Any
) -> RunReport:
    """Score every row of a table (Parquet, CSV, JSON lines) into another; `options` are those of ScoreOptions.

    Returns the report, in which `read = written + dead`. Raises ConfigError for an option that is none, and what
    `tidemill.batch.score` raises; nothing is written then.
    """
    return run(package, source, sink, decode(_plain(options), ScoreOptions, "score"), progress)


def serve(*packages: Path, **options: Any) -> None:
    """Serve packages over HTTP until SIGTERM or Ctrl-C; `options` are those of ServeOptions (`host`, `port`, …)."""
    from tidemill import realtime

    realtime.serve(packages, decode(_plain(options), realtime.ServeOptions, "serve"))


def package(source: Path, out: Path, **options: Any) -> PackageReport:
    """Make a package `out` of a model file; `options` are those of PackageOptions (`like`, `drop`, `name`, …).

    Raises PackageError, ConfigError, InputError or MissingExtra; nothing is left at `out` then.
    """
    from tidemill.packaging import PackageOptions, package_model

    return package_model(source, out, decode(_plain(options), PackageOptions, "package"))


def to_rows(intake: Intake, data: Any) -> Rows:
    """Whatever a Python caller brings, as the signature's rows. Raises InputError."""
    if isinstance(data, Mapping):
        return intake.from_tensors({name: _tensor(values) for name, values in data.items()}, cast=True)
    if isinstance(data, np.ndarray):
        return intake.from_arrays(_of_array(intake, data), cast=True)
    if isinstance(data, list):
        return intake.from_records(data)
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        table = pa.table(data).combine_chunks()
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        return Rows.concat([intake.from_arrow(batch) for batch in batches])
    raise InputError(
        f"cannot read rows from {type(data).__name__}: expected a dict of columns, a list of dicts, an array, "
        "or a table (Arrow, pandas, Polars)"
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Paths as the strings that options hold."""
    return {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in options.items()}


def _tensor(values: Any) -> Array | Listed:
    """Lists are read as JSON is (None is a missing cell), everything else as the array it is."""
    return (None, _plain_list(values)) if isinstance(values, list | tuple) else np.asarray(values)


def _plain_list(values: Any) -> list[Any]:
    return [
        _plain_list(v) if isinstance(v, list | tuple) else v.tolist() if isinstance(v, np.generic | np.ndarray) else v
        for v in values
    ]


def _of_array(intake: Intake, data: Array) -> dict[str, Array]:
    if len(intake.inputs) == 1:
        return {intake.inputs[0].name: data}
    names = intake.table_columns
    if data.ndim != 2 or data.shape[1] != len(names):
        raise InputError(
            f"got an array of shape {list(data.shape)}; the model has {len(names)} columns: "
            f"expected [rows, {len(names)}], or a dict of columns"
        )
    return {name: data[:, j] for j, name in enumerate(names)}
