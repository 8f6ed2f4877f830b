"""Ray Data: a Dataset through the path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from tidemill.batch.engines.ray_parcel import RayParcel, ship
from tidemill.batch.frames import FrameScorer, Layout, lay_out, open_for_frames
from tidemill.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["score"]

_BATCH_ROWS = 16_384


def score(
    dataset: Dataset,
    package: str | os.PathLike[str],
    *,
    pass_through: Sequence[str] = ("*",),
    select: Sequence[str] = (),
) -> Dataset:
    """The rows of `dataset` with the package's answers: the columns of `pass_through` ("*": every one), the outputs
    (`select`: only these; null where a row has no answer), and `_status` (ok, rejected, failed), `_code`, `_field` and
    `_message`, the last three null where all is well. Lazy, as every Dataset is.

    The package goes to each machine once and is loaded once by each actor; Tidemill has to be installed there.

    Raises, before anything runs: InputError for a column that is missing or that the model cannot read, ConfigError
    for names that do not fit, PackageError for a package that cannot be loaded here, MissingExtra without Ray.
    """
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"tidemill.ray (module {error.name})", "ray") from None
    live = open_for_frames(package)
    layout = lay_out(live, _arrow_schema(dataset), pass_through, select)
    return dataset.map_batches(
        _Scorer, batch_size=_BATCH_ROWS, batch_format="pyarrow", fn_constructor_args=(ship(live), layout), num_cpus=1
    )


class _Scorer:
    """What an actor of Ray Data does with the batches it is given."""

    def __init__(self, shipped: RayParcel, layout: Layout) -> None:
        self._scorer = FrameScorer(shipped.arrived(), layout)

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_batches([self._scorer.score(b) for b in table.combine_chunks().to_batches()])


def _arrow_schema(dataset: Dataset) -> pa.Schema:
    """The columns and types of a dataset, as far as Ray can tell without running it."""
    schema = dataset.schema()
    if schema is None:
        raise InputError("the dataset has no columns: it is empty, or Ray cannot tell them")
    return pa.schema([(name, _arrow_type(t)) for name, t in zip(schema.names, schema.types, strict=True)])


def _arrow_type(type_: object) -> pa.DataType:
    """Of a dataset of pandas, Ray tells NumPy's types; what those do not tell is known with the first batch only."""
    if isinstance(type_, pa.DataType):
        return type_
    try:
        return pa.from_numpy_dtype(type_)
    except (TypeError, pa.ArrowException):
        return pa.null()
