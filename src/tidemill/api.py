"""The Python interface: `load`, `score`, `serve` and `package`, with NumPy, Arrow, pandas and Polars in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from tidemill.batch import Progress, RunReport, ScoreOptions
from tidemill.batch import score as run
from tidemill.config import decode
from tidemill.errors import InputError
from tidemill.model.package import open_package
from tidemill.prediction.exchange import Prediction, to_rows
from tidemill.prediction.live import Live
from tidemill.prediction.result import rows_error

if TYPE_CHECKING:
    from tidemill.packaging import PackageReport

__all__ = ["Model", "Prediction", "load", "package", "score", "serve"]

Path = str | os.PathLike[str]


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
    """Score every row of `source` into `sink`, paths or URIs; `options` are those of ScoreOptions.

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


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Paths as the strings that options hold."""
    return {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in options.items()}
