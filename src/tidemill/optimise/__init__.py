"""Optimising: smaller and faster forms of a package, each measured on the user's data, the worthless ones refused."""

from tidemill.errors import MissingExtra
from tidemill.optimise.options import OptimiseOptions, Report

try:
    from tidemill.optimise.run import optimise
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tidemill"):
        raise
    raise MissingExtra(f"optimising (module {error.name})", "optimise") from None

__all__ = ["OptimiseOptions", "Report", "optimise"]
