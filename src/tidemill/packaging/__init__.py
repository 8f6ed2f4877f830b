"""Packaging: a model file becomes a package. Importing converts, then runs the path to see that nothing was lost."""

from tidemill.packaging.build import package_model
from tidemill.packaging.describe import describe
from tidemill.packaging.options import PackageOptions, PackageReport, parse_bound, parse_fill

__all__ = ["PackageOptions", "PackageReport", "describe", "package_model", "parse_bound", "parse_fill"]
