"""The reference pages say what the code says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tidemill import errors

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"


@pytest.mark.parametrize(
    "name",
    [
        "cli.md",
        "metrics.md",
        "model.schema.json",
        "profile.schema.json",
        "run-manifest.schema.json",
        "server.schema.json",
    ],
)
def test_a_reference_page_is_current(name: str) -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == module.pages()[name], "run `make docs`"


def test_the_errors_that_can_be_caught_are_drawn() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    kinds = [name for name in errors.__all__ if name != "Problem"]
    assert [name for name in kinds if f" {name} " not in page and f"\n{name}\n" not in page] == []
