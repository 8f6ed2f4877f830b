"""Sinks: one format of output each. A new one is a file here and a line in `sink`."""

from __future__ import annotations

from tidemill.batch.places import SourceFormat
from tidemill.batch.sinks.arrow import ArrowSink
from tidemill.batch.sinks.base import UNHELD, Joiner, PartWriter, Sink
from tidemill.batch.sinks.csv import CsvSink
from tidemill.batch.sinks.jsonl import JsonlSink
from tidemill.batch.sinks.parquet import ParquetSink

__all__ = ["UNHELD", "Joiner", "PartWriter", "Sink", "sink"]


def sink(format_: SourceFormat) -> Sink:
    """The sink that writes a format."""
    sinks: dict[SourceFormat, Sink] = {
        "parquet": ParquetSink(),
        "arrow": ArrowSink(),
        "csv": CsvSink(),
        "jsonl": JsonlSink(),
    }
    return sinks[format_]
