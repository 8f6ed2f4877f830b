"""The loop one writes by hand: Parquet → ONNX Runtime → Parquet with threads, and no ledger, checks or dead letters.

python benchmarks/batch_handwritten.py MODEL.onnx IN.parquet OUT.parquet [--threads N --chunk-rows N --call-rows N]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq

# Gathered before they are written: a row group a chunk would make a slow file to read.
GROUP_ROWS = 1 << 17


def score(model: Path, source: Path, target: Path, threads: int, chunk_rows: int, call_rows: int) -> dict[str, float]:
    """Score every row; returns rows, seconds, rows per second and the peak RSS in MB."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [o.name for o in session.get_outputs()]

    def predict(batch: pa.RecordBatch) -> pa.RecordBatch:
        features = np.empty((batch.num_rows, batch.num_columns), np.float32)
        for j, column in enumerate(batch.columns):
            features[:, j] = column.to_numpy()
        calls = [session.run(None, {name: features[i : i + call_rows]}) for i in range(0, len(features), call_rows)]
        arrays = []
        for parts in zip(*calls, strict=True):
            values = np.concatenate(parts)
            flat = pa.array(values.reshape(-1))
            arrays.append(flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
        return pa.RecordBatch.from_arrays(arrays, outputs)

    started = time.perf_counter()
    rows = 0
    held: list[pa.RecordBatch] = []
    writer: pq.ParquetWriter | None = None

    def write(batch: pa.RecordBatch | None) -> None:
        nonlocal writer, held
        if batch is not None:
            held.append(batch)
        if held and (batch is None or sum(b.num_rows for b in held) >= GROUP_ROWS):
            table = pa.Table.from_batches(held)
            writer = writer or pq.ParquetWriter(target, table.schema)
            writer.write_table(table)
            held = []

    waiting: deque[Future[pa.RecordBatch]] = deque()
    with pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 18) as file, ThreadPoolExecutor(threads) as pool:
        for batch in file.iter_batches(chunk_rows, use_threads=False):
            rows += batch.num_rows
            waiting.append(pool.submit(predict, batch))
            if len(waiting) > 2 * threads:
                write(waiting.popleft().result())
        while waiting:
            write(waiting.popleft().result())
    write(None)
    if writer is not None:
        writer.close()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "seconds": seconds, "rows_per_second": rows / seconds, "peak_rss_mb": peak}


def main() -> None:
    """Run once and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk-rows", type=int, default=16_384)
    parser.add_argument("--call-rows", type=int, default=1_024)
    a = parser.parse_args()
    print(json.dumps(score(a.model, a.source, a.target, a.threads, a.chunk_rows, a.call_rows)))


if __name__ == "__main__":
    main()
