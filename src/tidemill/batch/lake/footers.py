"""What the footers of a table's data files tell."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.batch.blobs import blob
from tidemill.batch.places import InputFile
from tidemill.errors import SourceError, first_line

__all__ = ["have_columns"]


def have_columns(root: str, files: Sequence[InputFile], columns: Sequence[str]) -> bool:
    """Whether each file, or its partition, has every column: files that are older than a column have it not.

    Raises SourceError for a file that cannot be read.
    """

    def has_all(file: InputFile) -> bool:
        one = blob(root, file.name)
        try:
            names = pq.read_schema(one.path or one.open()).names
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file.name}: cannot be read: {first_line(error)}") from None
        return all(c in names or c in file.partition for c in columns)

    with ThreadPoolExecutor(8) as pool:
        return all(pool.map(has_all, files))
