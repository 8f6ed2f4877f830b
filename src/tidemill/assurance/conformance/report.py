"""A run as JSON and as JUnit XML."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any
from xml.etree import ElementTree as ET

from tidemill.assurance.conformance.case import Level, Outcome
from tidemill.assurance.conformance.run import Report

__all__ = ["as_json", "as_junit"]

NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: Report) -> dict[str, Any]:
    """The run for machines: who was asked, counts, and each case with its clause."""
    return {
        "url": report.url,
        "grpc": report.grpc,
        "server": report.server,
        "model": report.model,
        "passed": report.passed,
        "counts": {outcome.value: report.count(outcome) for outcome in Outcome},
        "cases": [
            {
                "chapter": r.chapter,
                "name": r.case.name,
                "level": r.case.level.value,
                "clause": r.case.clause,
                "outcome": r.outcome.value,
                "detail": r.detail,
                "seconds": round(r.seconds, 4),
            }
            for r in report.results
        ],
    }


def as_junit(report: Report) -> bytes:
    """The run for continuous integration: a suite a chapter. Only a required case that fails is a failure there; an
    optional one is skipped, with what was found.
    """
    suites = ET.Element("testsuites", name=f"Open Inference Protocol: {_clean(report.server)}")
    for chapter, group in groupby(report.results, lambda r: r.chapter):
        results = list(group)
        suite = ET.SubElement(suites, "testsuite", name=chapter, tests=str(len(results)))
        counts = {"failure": 0, "skipped": 0}
        for r in results:
            case = ET.SubElement(suite, "testcase", classname=chapter, name=r.case.name, time=f"{r.seconds:.4f}")
            kind = ""
            if r.outcome is Outcome.FAIL:
                kind = "failure" if r.case.level is Level.REQUIRED else "skipped"
            elif r.outcome is Outcome.SKIPPED:
                kind = "skipped"
            if kind:
                counts[kind] += 1
                said = "optional, fails: " if kind == "skipped" and r.outcome is Outcome.FAIL else ""
                ET.SubElement(case, kind, message=_clean(said + r.detail))
            ET.SubElement(case, "system-out").text = _clean(f"{r.case.level}: {r.case.clause}\n{r.detail}".strip())
        suite.set("failures", str(counts["failure"]))
        suite.set("skipped", str(counts["skipped"]))
    ET.indent(suites)
    text: bytes = ET.tostring(suites, "utf-8", xml_declaration=True)
    return text + b"\n"


def _clean(text: str) -> str:
    return NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
