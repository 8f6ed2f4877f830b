"""Without the extra: one line that names the command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.batch.support import table, write
from tidemill.batch import score
from tidemill.errors import MissingExtra


@pytest.mark.parametrize(("source", "library"), [("delta:{}/t", "deltalake"), ("iceberg:ns.t", "pyiceberg")])
def test_a_source_without_its_library(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, library: str
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == library] or [library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"needs the 'lake' extra: pip install 'tidemill\[lake\]'"):
        score(package, source.format(tmp_path), tmp_path / "out")


def test_a_target_without_its_library(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "deltalake"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    write(table(10), tmp_path / "in.parquet")
    with pytest.raises(MissingExtra, match=r"delta: needs the 'lake' extra"):
        score(package, tmp_path / "in.parquet", f"delta:{tmp_path}/t")
