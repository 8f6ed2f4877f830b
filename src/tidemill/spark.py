"""Spark: a DataFrame through the path (`score`), and then its answered rows and its dead ones apart (`split`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from tidemill.batch.engines.spark_parcel import arrived, ship
from tidemill.batch.frames import WHY, FrameScorer, Layout, lay_out, open_for_frames
from tidemill.batch.parcel import Parcel
from tidemill.errors import ConfigError, InputError, MissingExtra

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

__all__ = ["score", "split"]

# Marks the columns that the model made, so that `split` knows them.
_OUTPUT = {"tidemill": "output"}


def score(
    df: DataFrame,
    package: str | os.PathLike[str],
    *,
    pass_through: Sequence[str] = ("*",),
    select: Sequence[str] = (),
) -> DataFrame:
    """The rows of `df` with the package's answers, as one frame: the columns of `pass_through` ("*": every one), the
    outputs (`select`: only these; null where a row has no answer), and `_status` (ok, rejected, failed), `_code`,
    `_field` and `_message`, the last three null where all is well. Lazy, as every DataFrame is.

    The package goes to each executor once and is loaded once by each Python worker; Tidemill has to be installed
    there. Unsigned integers and half floats, which Spark lacks, become the next wider type. Classic and Connect
    sessions of Spark 4 alike.

    Raises, before anything runs: InputError for a column that is missing or that the model cannot read, ConfigError
    for names that do not fit, PackageError for a package that cannot be loaded here, MissingExtra without PySpark.
    """
    table = _arrow_schema(df)
    live = open_for_frames(package)
    layout = lay_out(live, table, pass_through, select)
    answers = pa.schema([f.with_type(_sparkable(f.type)) for f in FrameScorer(live, layout).answers])
    _check_names(df, [*layout.copied, *answers.names, *WHY.names], len(layout.copied))
    # Under names that mean nothing: Spark reads a dot in a name, for one, as something else.
    places = {f"c{i}": name for i, name in enumerate(df.columns) if name in {*layout.reads, *layout.copied}}
    taken = df.toDF(*(f"c{i}" for i in range(len(df.columns)))).select(*places)
    task = partial(_answered, ship(df.sparkSession, live), layout, tuple(places.values()), answers)
    return taken.mapInArrow(task, _frame_schema(df, layout, answers))


def split(frame: DataFrame) -> tuple[DataFrame, DataFrame]:
    """The rows of a scored frame that have an answer, without the four columns of reasons, and those that have none,
    with them and without the outputs: as they came, and why.

    `frame` is persisted first, so that looking at both asks the model once; `frame.unpersist()` when done.

    Raises InputError for a frame that was not scored.
    """
    absent = [n for n in WHY.names if n not in frame.columns]
    if absent:
        raise InputError(f"the frame has no column {absent[0]!r}: split what tidemill.spark.score gave")
    frame.persist()
    status = frame["_status"]
    made = [f.name for f in frame.schema.fields if f.metadata == _OUTPUT]
    return frame.filter(status == "ok").drop(*WHY.names), frame.filter(status != "ok").drop(*made)


def _answered(
    parcel: Parcel, layout: Layout, names: Sequence[str], answers: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """What a Python worker does with a partition."""
    scorer = FrameScorer(arrived(parcel), layout)
    for batch in batches:
        scored = scorer.score(batch.rename_columns(names))
        if scorer.answers != answers:
            fields = [answers.field(f.name) if f.name in answers.names else f for f in scored.schema]
            scored = scored.cast(pa.schema(fields))
        yield scored


def _arrow_schema(df: DataFrame) -> pa.Schema:
    """The types in which workers get the columns."""
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql.pandas.types import to_arrow_schema
    except ImportError as error:
        raise MissingExtra(f"tidemill.spark (module {error.name})", "spark") from None
    try:
        return to_arrow_schema(df.schema, timezone=df.sparkSession.conf.get("spark.sql.session.timeZone"))
    except PySparkException as error:
        raise InputError(f"Spark cannot hand this frame to Python as Arrow: {error}") from None


def _check_names(df: DataFrame, names: Sequence[str], copied: int) -> None:
    """Where Spark sees no case, nobody could ask for one of two columns. Raises ConfigError for a column of the frame
    that has the name of one that is made.
    """
    if df.sparkSession.conf.get("spark.sql.caseSensitive") == "true":
        return
    made = {name.lower(): name for name in names[copied:]}
    both = next((name for name in names[:copied] if name.lower() in made), None)
    if both is not None:
        raise ConfigError(
            f"column {both!r} is, for Spark, the same as {made[both.lower()]!r}, which is made: leave it out of "
            "pass_through, or rename it"
        )


def _frame_schema(df: DataFrame, layout: Layout, answers: pa.Schema) -> StructType:
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField, StructType

    copied = {f.name: f for f in df.schema.fields}
    made = [StructField(f.name, from_arrow_type(f.type), True, _OUTPUT) for f in answers]
    why = [StructField(f.name, from_arrow_type(f.type), f.name != "_status") for f in WHY]
    return StructType([*(copied[name] for name in layout.copied), *made, *why])


_WIDER = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}
_WIDER[pa.float16()] = pa.float32()


def _sparkable(type_: pa.DataType) -> pa.DataType:
    """The type that holds every value of this one in Spark, whose lists have no fixed size."""
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return pa.list_(_sparkable(type_.value_type))
    return _WIDER.get(type_, type_)
