"""Ranges: the bytes are those of the object, and they come in few requests."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.batch.stores.reader import RangeReader

DATA = np.random.default_rng(7).bytes(1 << 20)


class Counted:
    """Serves ranges of bytes and keeps which were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self.data)
        self.asked.append((start, stop))
        return self.data[start:stop]

    @property
    def fetched(self) -> int:
        return sum(stop - start for start, stop in self.asked)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 1 << 20)),
            st.tuples(st.just("seek"), st.integers(0, (1 << 20) + 100)),
            st.tuples(st.just("skip"), st.integers(-5000, 5000)),
            st.tuples(st.just("back"), st.integers(0, 1 << 20)),
        ),
        max_size=30,
    ),
    size=st.sampled_from([0, 1, 1000, 1 << 20]),
)
def test_reads_as_a_file_does(steps: list[tuple[str, int]], size: int) -> None:
    served, file = Counted(DATA[:size]), io.BytesIO(DATA[:size])
    reader = RangeReader(size, served)
    for what, number in steps:
        if what == "read":
            assert reader.read(number) == file.read(number)
        elif what == "seek":
            assert reader.seek(number) == file.seek(number)
        elif what == "skip":
            at = max(0, file.tell() + number)
            assert reader.seek(number, io.SEEK_CUR) == file.seek(at) if at == 0 else reader.seek(at) == file.seek(at)
        else:
            at = max(0, size - number)
            assert reader.seek(at - size, io.SEEK_END) == file.seek(at)
        assert reader.tell() == file.tell()


def test_going_on_asks_for_more_each_time() -> None:
    size = 64 << 20
    served = Counted(bytes(size))
    reader = RangeReader(size, served)
    while reader.read(256 << 10):
        pass
    assert served.fetched == size
    assert len(served.asked) < 16
    assert max(stop - start for start, stop in served.asked) <= 8 << 20


@pytest.mark.parametrize("columns", [3, 30])
def test_columns_side_by_side_are_fetched_once_and_in_large_pieces(columns: int) -> None:
    rows = 6_000_000 // columns
    rng = np.random.default_rng(1)
    table = pa.table({f"c{i}": rng.random(rows, np.float32) for i in range(columns)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    served = Counted(data)
    with pq.ParquetFile(RangeReader(len(data), served), pre_buffer=False, buffer_size=1 << 18) as file:
        found = pa.Table.from_batches(file.iter_batches(16_384, use_threads=False))
    assert found.equals(table)
    assert served.fetched < 1.3 * len(data)
    assert len(served.asked) < 10 * columns + 10


def test_few_columns_of_many_cost_little() -> None:
    rng = np.random.default_rng(1)
    table = pa.table({f"c{i}": rng.random(100_000, np.float32) for i in range(50)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    served = Counted(data)
    with pq.ParquetFile(RangeReader(len(data), served), pre_buffer=False, buffer_size=1 << 18) as file:
        found = pa.Table.from_batches(file.iter_batches(16_384, columns=["c7"], use_threads=False))
    assert found["c7"].equals(table["c7"])
    assert served.fetched < 0.06 * len(data)
