"""One package and one table for every command."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.assurance.support import twice


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """score = 2 x, for x from 0 to 100."""
    return twice(tmp_path).directory


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A thousand rows, of which x is out of range in ten."""
    path = tmp_path / "rows.parquet"
    x = np.arange(1000) % 100
    x[::100] = -1
    pq.write_table(pa.table({"id": np.arange(1000), "x": x.astype(np.float32)}), path)
    return path
