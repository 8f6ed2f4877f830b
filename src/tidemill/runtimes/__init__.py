"""Runtimes execute artefacts. `load_runtime` picks the one a package names; a new one is a file and a line here."""

from __future__ import annotations

from importlib import import_module

from tidemill.errors import MissingExtra
from tidemill.model.package import Package
from tidemill.runtimes.base import Runtime

__all__ = ["Runtime", "load_runtime"]

# name → (module, the extra its library lives in)
_RUNTIMES = {
    "onnx": ("tidemill.runtimes.onnx", ""),
    "sklearn": ("tidemill.runtimes.sklearn", "sklearn"),
    "python": ("tidemill.runtimes.python", ""),
    "lleaves": ("tidemill.runtimes.lleaves", "optimise"),
}


def load_runtime(package: Package) -> Runtime:
    """Load the package's artefact. Raises PackageError if it cannot, MissingExtra if its library is absent."""
    name = package.manifest.runtime.name
    module, extra = _RUNTIMES[name]
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise MissingExtra(f"the {name} runtime (module {error.name})", extra) from None
    runtime: Runtime = loaded.load(package)
    return runtime
