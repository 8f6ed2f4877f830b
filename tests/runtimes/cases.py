"""The cases of the conformance suite: a package of each kind, and random rows for it. A new runtime adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.runtimes import packages
from tidemill.model.package import Package
from tidemill.prediction.intake import Intake
from tidemill.rows import Rows


@dataclass(frozen=True)
class Case:
    """`build` writes the package; `rows(intake, n, seed)` draws n rows that it accepts; `spoil` says the input and
    the value that make a row one that it does not.
    """

    name: str
    build: Callable[[Path], Package]
    rows: Callable[[Intake, int, int], Rows]
    spoil: tuple[str, object]

    def spoiled(self, rows: Rows, bad: list[int]) -> Rows:
        """The rows, those at the given places no longer acceptable."""
        name, value = self.spoil
        array = rows[name].copy()
        array[bad] = value
        return Rows({**rows.columns, name: array}, rows.n, rows.valid)


def _floats(name: str, width: int) -> Callable[[Intake, int, int], Rows]:
    def rows(intake: Intake, n: int, seed: int) -> Rows:
        values = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
        return intake.from_arrays({name: values})

    return rows


def _people(intake: Intake, n: int, seed: int) -> Rows:
    frame, _ = packages.people(n, seed)
    frame["city"] = frame["city"].where(frame["city"].notna(), None)
    return intake.from_arrays({k: frame[k].to_numpy() for k in frame}, cast=True)


def _scored(intake: Intake, n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return intake.from_arrays(
        {
            "amount": rng.uniform(-100, 100, n),
            "count": rng.integers(-3, 3, n),
            "count.valid": rng.random(n) < 0.7,
            "channel": rng.choice(np.array(["branch", "web", "phone"], object), n),
        }
    )


CASES = (
    Case("onnx-network", packages.network_package, _floats("x", 5), ("x", 11)),
    Case("onnx-trees", packages.trees_package, _floats("X", 6), ("X", np.nan)),
    Case("sklearn-forest", packages.forest_package, _people, ("age", 200)),
    Case("sklearn-logistic", packages.logistic_package, _people, ("age", -1)),
    Case("lleaves-trees", packages.compiled_package, _floats("X", 6), ("X", 11)),
    Case("python", packages.scorer_package, _scored, ("channel", "fax")),
)
