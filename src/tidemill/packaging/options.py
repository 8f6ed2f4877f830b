"""What a user may say about the package to be made, and what is told of the one that was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError
from tidemill.model.manifest import Task
from tidemill.model.package import Package

__all__ = ["Kind", "PackageOptions", "PackageReport", "parse_bound", "parse_fill"]

Kind = Literal["onnx", "sklearn", "lightgbm", "xgboost", "python"]
Scalar = str | int | float | bool
Bound = tuple[float | None, float | None]


class PackageOptions(Config, frozen=True, kw_only=True):
    """What `package_model` may be told; what is left out is read from the model and from `like`.

    `like` is a table of real rows (Parquet, CSV, JSON lines): it gives feature columns (without `drop` and
    `entity_key`), nulls, categories and samples. `columns` names, in order, the scalar columns that fill a
    two-dimensional input. `bounds` are inclusive; `learn_bounds` takes them from `like`. `max_categories` is
    the number of different strings up to which a text column counts as categories (0: never). `tolerance`, by
    output, replaces the measured one. `rows_independent` None means: measure.
    """

    kind: Kind | None = None
    name: str | None = None
    version: str = "1"
    task: Task | None = None
    description: str = ""
    like: str | None = None
    drop: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    entity_key: tuple[str, ...] = ()
    transform: str | None = None
    include: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    bounds: dict[str, Bound] = msgspec.field(default_factory=dict)
    learn_bounds: bool = False
    fill: dict[str, Scalar] = msgspec.field(default_factory=dict)
    max_categories: Annotated[int, msgspec.Meta(ge=0)] = 100
    labels: tuple[str, ...] = ()
    threshold: float | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tolerance: dict[str, float] = msgspec.field(default_factory=dict)
    rows_independent: bool | None = None
    repeatable: bool = True
    p99_ms: float | None = None
    timeout_ms: float | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    samples: Annotated[int, msgspec.Meta(ge=0)] = 64
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class PackageReport:
    """The package, what happened on the way, and what was measured.

    `agreement` is the greatest absolute difference, by output, between the original and the packaged model, or
    None where there was nothing to compare. `invariance` is the greatest difference, by float output, that the
    call size made; empty where no rows were there to measure with.
    """

    package: Package
    notes: tuple[str, ...]
    agreement: dict[str, float] | None
    invariance: dict[str, float]


def parse_bound(text: str) -> tuple[str, Bound]:
    """`age=0:120`, `amount=0:` or `x=:1` as (column, (minimum, maximum)). Raises ConfigError."""
    name, equals, limits = text.rpartition("=")
    low, colon, high = limits.partition(":")
    try:
        if not (name and equals and colon):
            raise ValueError
        return name, (float(low) if low else None, float(high) if high else None)
    except ValueError:
        raise ConfigError(f"bound {text!r}: expected NAME=MINIMUM:MAXIMUM, either may be empty, as age=0:120") from None


def parse_fill(text: str) -> tuple[str, Scalar]:
    """`age=0` or `city=unknown` as (column, value): a number or `true`/`false` where it reads as one."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"fill {text!r}: expected NAME=VALUE, as age=0 or city=unknown")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
