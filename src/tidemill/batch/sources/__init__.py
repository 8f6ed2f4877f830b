"""Sources: one format of input files each. A new one is a file here and a line in `source`."""

from __future__ import annotations

from tidemill.batch.places import SourceFormat
from tidemill.batch.sources.arrow import ArrowSource
from tidemill.batch.sources.base import Examined, Piece, Source, Unit
from tidemill.batch.sources.csv import CsvSource
from tidemill.batch.sources.jsonl import JsonlSource
from tidemill.batch.sources.listing import ListingSource
from tidemill.batch.sources.parquet import ParquetSource

__all__ = ["Examined", "Piece", "Source", "Unit", "source"]


def source(format_: SourceFormat) -> Source:
    """The source that reads a format."""
    sources: dict[SourceFormat, Source] = {
        "parquet": ParquetSource(),
        "arrow": ArrowSource(),
        "csv": CsvSource(),
        "jsonl": JsonlSource(),
        "listing": ListingSource(),
    }
    return sources[format_]
