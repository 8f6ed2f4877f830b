"""Made-up rows to compare two forms of a model on, where the user gave no table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from tidemill.rows import Array

__all__ = ["PROBE_ROWS", "number_table", "threshold_table"]

PROBE_ROWS = 1000
_SEED = 11


def number_table(columns: Sequence[str]) -> pa.RecordBatch:
    """1,000 rows of normally distributed numbers, each row on a scale of its own between 0.1 and 1,000."""
    random = np.random.default_rng(_SEED)
    scale = 10.0 ** random.uniform(-1, 3, (PROBE_ROWS, 1))
    values = random.standard_normal((PROBE_ROWS, len(columns))) * scale
    return pa.RecordBatch.from_arrays([pa.array(values[:, j]) for j in range(len(columns))], names=list(columns))


def threshold_table(columns: Sequence[str], thresholds: Mapping[int, Array]) -> pa.RecordBatch:
    """1,000 rows around the values at which trees split, by column index: on them, and just beside. A column that
    no tree reads is normally distributed.
    """
    random = np.random.default_rng(_SEED)
    arrays = []
    for j in range(len(columns)):
        splits = thresholds.get(j, np.empty(0))
        if len(splits):
            values = random.choice(splits, PROBE_ROWS)
            spread = float(np.ptp(splits)) or max(1.0, abs(float(splits[0])))
            values = values + random.choice([0.0, -1e-2, 1e-2, -0.3, 0.3], PROBE_ROWS) * spread
        else:
            values = random.standard_normal(PROBE_ROWS)
        # LightGBM splits zeros off at ±1e-35, and takes what is that close to zero for zero.
        values[np.abs(values) < 1e-30] = 0.0
        arrays.append(pa.array(values.astype(np.float32)))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
