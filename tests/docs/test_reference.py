"""The reference pages say what the code says today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", ["cli.md", "model.schema.json", "profile.schema.json", "run-manifest.schema.json"])
def test_a_reference_page_is_current(name: str) -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == module.pages()[name], "run `make docs`"
