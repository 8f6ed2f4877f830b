"""One right server of packages that differ: a matrix in two versions, every datatype, a table with categories."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.realtime import packages
from tests.realtime.serving import Served, served

# Answers the same request differently each time, so that no two answers can be compared.
COUNTING = """
class Model:
    inputs = {"x": ("FP64", [-1])}
    outputs = {"y": ("FP64", [-1])}
    calls = 0

    def predict(self, rows):
        self.calls += 1
        return {"y": rows["x"] + self.calls}
"""


@pytest.fixture(scope="session")
def right(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("conformance")
    made = [
        packages.matrix(directory, "1"),
        packages.matrix(directory, "2"),
        packages.every_type(directory),
        packages.tabular(directory),
        packages.fragile(directory),
        packages.scalar(directory, "counting", COUNTING),
    ]
    with served(made) as found:
        yield found


@pytest.fixture(scope="session")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tabular` takes: its cities are categories, which no metadata tells."""
    path = tmp_path_factory.mktemp("input") / "customers.json"
    inputs = [
        {"name": "age", "shape": [2], "datatype": "INT32", "data": [40, 50]},
        {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Bern", "Zürich"]},
        {"name": "income", "shape": [2], "datatype": "FP64", "data": [1.5, 2.5]},
    ]
    path.write_text(json.dumps({"inputs": inputs}))
    return path
