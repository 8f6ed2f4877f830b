"""The same rows through Spark and Ray, by Tidemill and by hand. `PROGRAM MODEL.onnx PACKAGE IN OUT SECONDS`.

spark_hand     read.parquet → mapInArrow with ONNX Runtime → write.parquet
spark_score    the same with tidemill.spark.score
spark_engine   tidemill.score with engine "spark"
ray_hand       read_parquet → map_batches with ONNX Runtime in actors → write_parquet
ray_plain      the same as Ray's own settings have it: dicts of NumPy arrays, batches and actors as they come
ray_score      the same with tidemill.ray.score
ray_engine     tidemill.score with engine "ray"
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa

import tidemill
import tidemill.ray
import tidemill.spark

CORES = 2
SECONDS = "BENCHMARK_SECONDS"
# As large as Tidemill's own chunks, for all; a call of the model is smaller, for all too.
BATCH_ROWS, CALL_ROWS = 16_384, 1_024
SPARK = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "4g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
}


class Trees:
    """ONNX Runtime on one core, as one would write it."""

    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]

    def answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The outputs alone, vectors as lists."""
        features = np.empty((batch.num_rows, batch.num_columns), np.float32)
        for j, column in enumerate(batch.columns):
            features[:, j] = column.to_numpy()
        arrays = []
        for values in self.values(features).values():
            flat = pa.array(values.reshape(-1))
            if values.ndim == 1:
                arrays.append(flat)
            else:
                offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * np.int32(values.shape[1]))
                arrays.append(pa.ListArray.from_arrays(offsets, flat))
        return pa.RecordBatch.from_arrays(arrays, self._names)

    def values(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of rows, by name."""
        starts = range(0, len(features), CALL_ROWS)
        calls = [self._session.run(None, {self._input: features[i : i + CALL_ROWS]}) for i in starts]
        return {n: np.concatenate(parts) for n, parts in zip(self._names, zip(*calls, strict=True), strict=True)}

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_batches([self.answer(batch) for batch in table.combine_chunks().to_batches()])


class PlainTrees(Trees):
    """The same for Ray's own format of batches."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.values(np.column_stack(list(batch.values())))


@contextmanager
def spark_session() -> Iterator[Any]:
    """A session of this machine."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{CORES}]")
    for name, value in SPARK.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    with timed():
        yield session
    session.stop()


@contextmanager
def ray_cluster() -> Iterator[None]:
    """A cluster of this machine."""
    import ray

    ray.init(address="local", num_cpus=CORES, include_dashboard=False, _node_ip_address="127.0.0.1")
    with timed():
        yield
    ray.shutdown()


@contextmanager
def timed() -> Iterator[None]:
    """Writes the seconds from when the cluster is there until the output is."""
    began = time.perf_counter()
    yield
    Path(os.environ[SECONDS]).write_text(str(time.perf_counter() - began), encoding="utf-8")


def spark_hand(model: str, source: str, target: str) -> None:
    """One session a partition: a model of 100 trees loads in milliseconds."""
    outputs = Trees(model).answer(pa.table({str(j): pa.array([0], pa.float32()) for j in range(30)}).to_batches()[0])

    def answers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        trees = Trees(model)
        return map(trees.answer, batches)

    from pyspark.sql.pandas.types import from_arrow_schema

    with spark_session() as session:
        found = session.read.parquet(f"file:{source}").mapInArrow(answers, from_arrow_schema(outputs.schema))
        found.write.parquet(f"file:{target}")


def spark_score(package: str, source: str, target: str) -> None:
    """With reasons beside each row, which are written too."""
    with spark_session() as session:
        found = tidemill.spark.score(session.read.parquet(f"file:{source}"), package, pass_through=())
        found.write.parquet(f"file:{target}")


def ray_hand(model: str, source: str, target: str) -> None:
    """Actors that keep the model."""
    import ray.data

    with ray_cluster():
        # Half a core each: actors that held every core would leave none to read with.
        found = ray.data.read_parquet(source).map_batches(
            Trees,
            fn_constructor_args=(model,),
            batch_size=BATCH_ROWS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=CORES),
            num_cpus=0.5,
        )
        found.write_parquet(target)


def ray_plain(model: str, source: str, target: str) -> None:
    """One actor of one core, so that the other is left to read with; the rest as Ray has it."""
    import ray.data

    with ray_cluster():
        found = ray.data.read_parquet(source).map_batches(
            PlainTrees, fn_constructor_args=(model,), compute=ray.data.ActorPoolStrategy(size=CORES - 1)
        )
        found.write_parquet(target)


def ray_score(package: str, source: str, target: str) -> None:
    """With reasons beside each row, which are written too."""
    import ray.data

    with ray_cluster():
        tidemill.ray.score(ray.data.read_parquet(source), package, pass_through=()).write_parquet(target)


def spark_engine(package: str, source: str, target: str) -> None:
    """In the session that is there."""
    with spark_session():
        tidemill.score(package, source, target, engine={"name": "spark"})


def ray_engine(package: str, source: str, target: str) -> None:
    """On the cluster that is there."""
    with ray_cluster():
        tidemill.score(package, source, target, engine={"name": "ray"})


PROGRAMS = {f.__name__: f for f in (spark_hand, spark_score, spark_engine, ray_hand, ray_plain, ray_score, ray_engine)}


def main(program: str, model: str, package: str, source: str, target: str, seconds: str) -> None:
    """Run one of them; `seconds` is the file for the time that it took without the start of its cluster."""
    # Before Ray is imported: it then keeps to the loopback address.
    os.environ |= {SECONDS: seconds, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    PROGRAMS[program](model if program.endswith(("_hand", "_plain")) else package, source, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
