"""The conformance kit: any server, clause by clause of the Open Inference Protocol."""

from tidemill.assurance.conformance.case import Level, Outcome, Result
from tidemill.assurance.conformance.report import as_json, as_junit
from tidemill.assurance.conformance.run import CHAPTERS, Report, run

__all__ = ["CHAPTERS", "Level", "Outcome", "Report", "Result", "as_json", "as_junit", "run"]
