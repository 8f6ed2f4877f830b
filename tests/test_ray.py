"""A Dataset of Ray through the path, on a real cluster: every row once, answered as the local engine answers it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tests.batch.support import answers, make_package, table
from tests.clusters import ONCE
from tests.packages import make
from tidemill.errors import ConfigError, InputError
from tidemill.model.signature import Input, Output
from tidemill.ray import score

if TYPE_CHECKING:
    from ray.data import Dataset

pytestmark = [
    pytest.mark.xdist_group("clusters"),
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.timeout(300),
    # Ray's own, about its own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

ROWS = 3_000
BAD = (7, 1_007, 2_007)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("package") / "sums")


def rows() -> pa.Table:
    """A row in every thousand breaks the signature, and the c of one is 77."""
    a, c = table(ROWS)["a"].to_pylist(), table(ROWS)["c"].to_pylist()
    for i in BAD:
        a[i] = -1.0
    c[1_500] = 77.0
    return table(ROWS).set_column(1, "a", pa.array(a, pa.float32())).set_column(3, "c", pa.array(c, pa.float32()))


def dataset() -> Dataset:
    import ray.data

    return ray.data.from_arrow([rows().slice(i, 500) for i in range(0, ROWS, 500)])


def taken(found: Dataset) -> pl.DataFrame:
    import ray

    blocks = [ray.get(ref) for ref in found.to_arrow_refs()]
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(blocks))).sort("id")


def check(found: pl.DataFrame) -> None:
    assert found["id"].to_list() == list(range(ROWS))
    good = answers(rows())
    for name in ("score", "pair", "verdict"):
        expected = [None if i in BAD else v for i, v in enumerate(good[name])]
        assert found[name].to_list() == expected
    assert found["_status"].to_list() == ["rejected" if i in BAD else "ok" for i in range(ROWS)]
    assert set(found["_message"].to_list()) == {None, "a: got -1.0, expected ≥ 0"}


def test_every_row_is_answered_as_the_local_engine_answers_it(package: Path) -> None:
    check(taken(score(dataset(), package)))


def test_an_actor_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    package = make_package(
        tmp_path / "package", transform=ONCE.format(flag=str(flag), what="os.kill(os.getpid(), signal.SIGKILL)")
    )
    check(taken(score(dataset(), package)))
    assert flag.exists()


def test_tensors_of_ray_are_tensors_of_the_signature(tmp_path: Path) -> None:
    """Ray keeps arrays of more dimensions than one in a type of its own."""
    import ray.data

    code = "class Model:\n    inputs = {'x': ('FP32', [-1, 2, 2])}\n    outputs = {'y': ('FP32', [-1])}\n\n"
    code += "    def predict(self, rows):\n        return {'y': rows['x'].sum(axis=(1, 2))}\n"
    one = Input(name="x", datatype="FP32", shape=(-1, 2, 2))
    package = make(tmp_path / "p", "python", code, [one], [Output(name="y", datatype="FP32")]).directory
    found = score(ray.data.from_numpy(np.ones((3, 2, 2), np.float32)).rename_columns({"data": "x"}), package)
    assert [row["y"] for row in found.take_all()] == [4.0, 4.0, 4.0]


def test_rows_of_pandas_are_rows_too(package: Path) -> None:
    import ray.data

    found = taken(score(ray.data.from_pandas([rows().slice(i, 1000).to_pandas() for i in (0, 1000)]), package))
    assert found.filter(pl.col("_status") == "ok")["id"].to_list() == [i for i in range(2000) if i not in BAD]
    assert found["score"].drop_nulls().len() == 1998


@pytest.mark.parametrize(
    ("change", "wishes", "message"),
    [
        (lambda d: d.drop_columns(["b"]), {}, "column 'b' is missing; the table has 'id', 'a', 'c', 'label'"),
        (lambda d: d, {"pass_through": ["nobody"]}, "pass_through: the table has no column 'nobody'"),
        (lambda d: d.rename_columns({"label": "score"}), {}, "column 'score' is both passed through and a model"),
    ],
)
def test_what_does_not_fit_is_said_at_once(package: Path, change: Any, wishes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InputError)) as caught:
        score(change(dataset()), package, **wishes)
    assert message in str(caught.value)


def test_without_ray_one_line_says_what_to_install(package: Path) -> None:
    code = (
        "import sys\nsys.modules['ray'] = None\n"
        "from tidemill.errors import MissingExtra\nfrom tidemill.ray import score\n"
        "try:\n    score(None, sys.argv[1])\nexcept MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tidemill.ray (module ray")
    assert done.stdout.endswith("needs the 'ray' extra: pip install 'tidemill[ray]'\n")
