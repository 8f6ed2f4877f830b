"""The loop one writes by hand: COPY out of PostgreSQL → ONNX Runtime → COPY into PostgreSQL, over two connections that
pass binary rows as Arrow, and no snapshot, ledger, checks or dead letters.

python benchmarks/postgres_handwritten.py MODEL.onnx URI SOURCE TARGET [--call-rows N]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import onnxruntime as ort
import pyarrow as pa

THREADS = 2


def score(model: Path, uri: str, source: str, target: str, call_rows: int) -> dict[str, float]:
    """Score every row; returns rows, seconds and rows per second."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [o.name for o in session.get_outputs()]

    def predict(batch: pa.RecordBatch) -> pa.RecordBatch:
        features = np.empty((batch.num_rows, batch.num_columns), np.float32)
        for j, column in enumerate(batch.columns):
            features[:, j] = column.to_numpy(zero_copy_only=False)
        calls = [session.run(None, {name: features[i : i + call_rows]}) for i in range(0, len(features), call_rows)]
        arrays = []
        for parts in zip(*calls, strict=True):
            values = np.concatenate(parts)
            flat = pa.array(values.reshape(-1))
            if values.ndim == 1:
                arrays.append(flat)
            else:
                offsets = np.arange(0, len(flat) + 1, values.shape[1], dtype=np.int32)
                arrays.append(pa.ListArray.from_arrays(pa.array(offsets), flat))
        return pa.RecordBatch.from_arrays(arrays, outputs)

    started = time.perf_counter()
    with adbc.connect(uri) as there, adbc.connect(uri) as back, there.cursor() as reading, back.cursor() as writing:
        reading.execute(f'SELECT * FROM "{source}"')
        batches = reading.fetch_record_batch()
        first = predict(next(batches))

        def answers() -> Iterator[pa.RecordBatch]:
            yield first
            waiting: deque[Future[pa.RecordBatch]] = deque()
            for batch in batches:
                waiting.append(pool.submit(predict, batch))
                if len(waiting) > THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        with ThreadPoolExecutor(THREADS) as pool:
            rows = writing.adbc_ingest(
                target, pa.RecordBatchReader.from_batches(first.schema, answers()), mode="create"
            )
        back.commit()
    seconds = time.perf_counter() - started
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("uri")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--call-rows", type=int, default=1024)
    asked = parser.parse_args()
    print(json.dumps(score(asked.model, asked.uri, asked.source, asked.target, asked.call_rows)))
