"""Memory is bounded whatever the input: ten times the rows take no more, be they wide, huge or all in one row group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.batch.support import child, table
from tests.packages import make
from tidemill.batch.paging import CHUNK_BYTES, paged
from tidemill.model.signature import Input, Output

# What a run may differ from another in: allocators keep some of what they gave back.
NOISE = 96 << 20
WIDTH = 8192

# What ru_maxrss tells of a process begins with what its parent had; the kernel's own mark is of the program alone.
RUN = """
import json, re, sys, threading
from pathlib import Path
from tidemill.batch import ScoreOptions, paging, score
from tidemill.batch.sinks import parquet

# So that little data is much.
paging.CHUNK_BYTES = parquet._GROUP_BYTES = 4 << 20

def peak(pid):
    try:
        return int(re.search("VmHWM:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10
    except (OSError, TypeError):
        return 0

worker, over = 0, threading.Event()

def watch():
    global worker
    while not over.wait(0.02):
        for task in Path("/proc/self/task").iterdir():
            worker = max([worker, *map(peak, (task / "children").read_text().split())])

thread = threading.Thread(target=watch)
thread.start()
report = score(*sys.argv[1:4], ScoreOptions(pass_through=tuple(sys.argv[4:]), workers=2))
over.set()
thread.join()
found = {"driver": peak("self"), "worker": worker, "rows": report.written, "chunk_rows": report.chunk_rows}
print(json.dumps(found))
"""

WIDE = f"""
import numpy as np

class Model:
    inputs = {{"v": ("FP32", [-1, {WIDTH}])}}
    outputs = {{"w": ("FP32", [-1, {WIDTH}])}}

    def predict(self, rows):
        return {{"w": rows["v"] + 1}}
"""


def peaks(package: Path, source: Path, *pass_through: str) -> dict[str, int]:
    out = source.with_suffix(".out.parquet" if pass_through else "")
    process = child(RUN, package, source, out, *pass_through)
    stdout, stderr = process.communicate(timeout=110)
    assert process.returncode == 0, stderr
    found: dict[str, int] = json.loads(stdout)
    return found


def check_flat(once: dict[str, int], ten_times: dict[str, int], most: int) -> None:
    assert ten_times["rows"] == 10 * once["rows"]
    for who in ("driver", "worker"):
        assert ten_times[who] - once[who] < NOISE, (once, ten_times)
        assert ten_times[who] < most, ten_times


def vectors(n: int, path: Path) -> Path:
    """Zeros, which take no room in the file, in one row group."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(n * WIDTH, "f4")), WIDTH)
    pq.write_table(pa.table({"v": values}), path, row_group_size=n)
    return path


def test_wide_rows_in_and_out(tmp_path: Path) -> None:
    inputs = [Input(name="v", datatype="FP32", shape=(-1, WIDTH))]
    outputs = [Output(name="w", datatype="FP32", shape=(-1, WIDTH))]
    package = make(tmp_path / "package", "python", WIDE, inputs, outputs).directory
    once, ten_times = (peaks(package, vectors(n, tmp_path / f"{n}.parquet")) for n in (400, 4000))
    assert once["chunk_rows"] == CHUNK_BYTES // (4 * WIDTH)
    check_flat(once, ten_times, 600 << 20)


def texts(n: int, path: Path) -> Path:
    """Every row holds the same 100,000 characters, which the file holds once."""
    same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, "i4")), pa.array(["x" * 100_000])).cast(pa.string())
    pq.write_table(table(n).set_column(4, "label", same), path, row_group_size=n)
    return path


def test_huge_texts_that_repeat(package: Path, tmp_path: Path) -> None:
    once, ten_times = (peaks(package, texts(n, tmp_path / f"{n}.parquet"), "label") for n in (400, 4000))
    check_flat(once, ten_times, 500 << 20)


@pytest.mark.parametrize("kind", ["alike", "apart", "few"])
def test_batches_are_cut_by_what_they_become(tmp_path: Path, kind: str) -> None:
    """`few`: wide rows stand together behind many that are not, which an average does not tell."""
    n = 3000
    lengths = {"alike": [50_000] * n, "apart": range(n), "few": [10] * (n - 100) + [500_000] * 100}[kind]
    values = ["x" * k for k in lengths]
    rows = pa.table({"id": np.arange(n), "text": values, "vector": pa.array([[0] * 200] * n, pa.list_(pa.int64()))})
    pq.write_table(rows, tmp_path / "t.parquet", row_group_size=n)

    def open_(alike: list[str]) -> pq.ParquetFile:
        return pq.ParquetFile(tmp_path / "t.parquet", read_dictionary=alike, pre_buffer=False)

    batches = list(paged(open_, None, None, 16_384))
    assert pa.Table.from_batches(batches).equals(rows)
    assert max(b.nbytes for b in batches) <= 2 * CHUNK_BYTES
    (few,) = {b.num_rows for b in paged(open_, None, ["id"], 1000)}
    assert few == 1000
