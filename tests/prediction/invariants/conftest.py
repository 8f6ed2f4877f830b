"""The packages of the conformance suite: what must hold, must hold for each kind of model."""

from tests.runtimes.conftest import case, live

__all__ = ["case", "live"]
