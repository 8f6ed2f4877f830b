"""What a run leaves: JUnit that continuous integration reads, JSON for programs, the command's table and exit codes."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.assurance.conformance.faulty import Fault, Message, faulty
from tests.cli.support import tidemill
from tests.realtime.serving import Served
from tidemill.assurance.conformance import Outcome, as_json, as_junit, run


def test_junit_has_each_case_once(right: Served) -> None:
    report = run(f"http://{right.address}", right.address, "matrix")
    root = ET.fromstring(as_junit(report))
    cases = root.findall("testsuite/testcase")
    assert [c.get("name") for c in cases] == [r.case.name for r in report.results]
    assert len(root.findall("testsuite/testcase/skipped")) == report.count(Outcome.SKIPPED)
    assert root.findall("testsuite/testcase/failure") == []
    assert sum(int(suite.get("tests", 0)) for suite in root) == len(cases)


def test_junit_fails_for_what_is_required_only(right: Served) -> None:
    def spoil(message: Message) -> None:
        message.headers.pop("allow", None)
        message.change(lambda doc: doc.pop("id", None))

    with faulty(right.port, Fault("two", "", answered=spoil)) as url:
        report = run(url, model="matrix")
    root = ET.fromstring(as_junit(report))
    assert [c.get("name") for c in root.iter("testcase") if c.find("failure") is not None] == ["id", "id beyond ASCII"]
    (allow,) = [c for c in root.iter("testcase") if c.get("name") == "405 says what is allowed"]
    skipped = allow.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "optional, fails: allow: none"
    inference = next(s for s in root if s.get("name") == "REST inference")
    assert inference.get("failures") == "2"


def test_text_that_xml_cannot_hold_is_replaced(right: Served) -> None:
    def spoil(message: Message) -> None:
        message.change(lambda doc: doc.update(id="\x00\x1b[31m") if "id" in doc else None)

    with faulty(right.port, Fault("control", "", answered=spoil)) as url:
        report = run(url, model="matrix")
    assert ET.fromstring(as_junit(report)) is not None
    assert not report.passed


def test_json_tells_all(right: Served) -> None:
    report = run(f"http://{right.address}", model="matrix")
    doc = as_json(report)
    assert doc["passed"] is True
    assert doc["model"] == "matrix"
    assert sum(doc["counts"].values()) == len(doc["cases"]) == len(report.results)
    assert {"chapter", "name", "level", "clause", "outcome", "detail", "seconds"} == set(doc["cases"][0])


def test_the_command(right: Served, tmp_path: Path) -> None:
    junit = tmp_path / "conformance.xml"
    done = tidemill(
        "conformance", f"http://{right.address}", "--grpc", right.address, "--model", "matrix", "--junit", junit
    )
    assert done.exit_code == 0, done.output
    assert "conforms: tidemill" in done.output
    assert "requested outputs" in done.output
    assert ET.parse(junit).getroot().tag == "testsuites"
    done = tidemill("conformance", f"http://{right.address}", "--model", "matrix", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["passed"]


def test_a_chapter_that_is_skipped_is_one_row(right: Served) -> None:
    done = tidemill("conformance", f"http://{right.address}", "--model", "matrix")
    (row,) = [line for line in done.output.splitlines() if "gRPC inference" in line]
    assert "no --grpc address was given" in row


def test_a_required_case_that_fails_is_told_with_its_clause(right: Served) -> None:
    def lost(message: Message) -> None:
        message.change(lambda doc: doc.pop("id", None))

    with faulty(right.port, Fault("lost id", "", answered=lost)) as url:
        done = tidemill("conformance", url, "--model", "matrix")
    assert done.exit_code == 1
    assert "2 required cases fail" in done.output
    assert "this identifier must be returned in the response" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["http://127.0.0.1:1"], "no answer"),
        (["127.0.0.1:port"], "expected http://HOST:PORT"),
    ],
)
def test_who_cannot_be_asked_is_exit_code_2(arguments: list[str], text: str) -> None:
    done = tidemill("conformance", *arguments)
    assert done.exit_code == 2
    assert text in done.output


def test_an_input_that_is_no_request(right: Served, tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    for text in ("[]", "{", '{"inputs": [{"name": "X"}]}'):
        path.write_text(text)
        done = tidemill("conformance", f"http://{right.address}", "--model", "matrix", "--input", path)
        assert done.exit_code == 2
        assert "expected an inference request" in done.output
