"""`load_runtime`: the runtime that a package names, or one line that says how to get it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tests.runtimes import packages
from tests.runtimes.cases import CASES
from tidemill.errors import MissingExtra
from tidemill.model.manifest import RuntimeSpec
from tidemill.runtimes import _RUNTIMES, load_runtime


def test_every_runtime_that_a_manifest_may_name_is_there_and_in_the_suite() -> None:
    names = set(get_args(get_type_hints(RuntimeSpec)["name"]))
    assert set(_RUNTIMES) == names
    assert {case.name.split("-")[0] for case in CASES} == names


@pytest.mark.parametrize("absent", ["skops", "sklearn", "pandas"])
def test_a_library_that_is_not_installed(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packages.logistic_package(tmp_path / "p")
    monkeypatch.delitem(sys.modules, "tidemill.runtimes.sklearn", raising=False)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtra) as error:
        load_runtime(package)
    assert str(error.value) == (
        f"the sklearn runtime (module {absent}) needs the 'sklearn' extra: pip install 'tidemill[sklearn]'"
    )


def test_compiled_trees_without_their_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packages.compiled_package(tmp_path / "p")
    monkeypatch.delitem(sys.modules, "tidemill.runtimes.lleaves", raising=False)
    monkeypatch.setitem(sys.modules, "lleaves", None)
    with pytest.raises(MissingExtra, match=r"module lleaves\) needs the 'optimise' extra: pip install"):
        load_runtime(package)
