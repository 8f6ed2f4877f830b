"""The batch input: any number of rows of 30 floats as Parquet, synthetic, the same for the same seed.

Rows of the breast cancer data drawn at random, each cell moved by noise of a tenth of its column's standard deviation,
so that trees branch and no two rows are equal. `python -m benchmarks.data FILE ROWS` writes it in its own process: a
large parent would be counted as memory of what it starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SEED = 20261124
NOISE = 0.1
GROUP_ROWS = 250_000


def write(path: Path, rows: int) -> None:
    """Write the file, whole or not at all, in row groups of 250,000 (30 MB of floats)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    base = data.data.astype(np.float32)
    spread = (NOISE * base.std(axis=0)).astype(np.float32)
    schema = pa.schema([(str(name).replace(" ", "_"), pa.float32()) for name in data.feature_names])
    random = np.random.default_rng(SEED)
    part = path.with_suffix(".part")
    # A dictionary of values that hardly repeat would only make the file larger.
    with pq.ParquetWriter(part, schema, use_dictionary=False) as writer:
        for start in range(0, rows, GROUP_ROWS):
            drawn = _draw(random, base, spread, min(GROUP_ROWS, rows - start))
            columns = [pa.array(np.ascontiguousarray(drawn[:, i])) for i in range(drawn.shape[1])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    os.replace(part, path)


def _draw(
    random: np.random.Generator, base: NDArray[np.float32], spread: NDArray[np.float32], n: int
) -> NDArray[np.float32]:
    noise = random.standard_normal((n, base.shape[1]), np.float32)
    return base[random.integers(0, len(base), n)] + noise * spread


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
