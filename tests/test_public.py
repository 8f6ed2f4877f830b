"""What is public can be imported, and importing the package loads nothing heavy."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import tidemill


@pytest.mark.parametrize("name", tidemill.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(tidemill, name) is not None
    assert name in dir(tidemill)


def test_what_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tidemill' has no attribute 'lood'"):
        tidemill.lood  # noqa: B018


def modules() -> list[str]:
    return [m.name for m in pkgutil.walk_packages(tidemill.__path__, "tidemill.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("numpy", "pyarrow", "onnxruntime", "sklearn", "pandas", "uvloop", "typer", "rich", "msgspec")
    code = f"import sys, tidemill; print(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
