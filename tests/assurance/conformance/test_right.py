"""The kit on Tidemill itself: nothing fails, whatever the model, and nothing is skipped that applies."""

from pathlib import Path

import pytest

from tests.realtime.serving import Served
from tidemill.assurance.conformance import CHAPTERS, Level, Outcome, Report, run
from tidemill.errors import ConfigError


def failures(report: Report) -> list[str]:
    return [f"{r.chapter}: {r.case.name}: {r.detail}" for r in report.results if r.outcome is Outcome.FAIL]


def skipped(report: Report) -> set[str]:
    return {r.case.name for r in report.results if r.outcome is Outcome.SKIPPED}


@pytest.mark.parametrize("model", ["matrix", "every", "fragile", "counting"])
def test_every_case_passes(right: Served, model: str) -> None:
    report = run(f"http://{right.address}", right.address, model, hostile=True)
    assert failures(report) == []
    assert report.passed
    assert report.count(Outcome.PASS) > (120 if model != "counting" else 100)
    assert report.server.startswith("tidemill ")


def test_nothing_is_skipped_that_the_model_has(right: Served) -> None:
    report = run(f"http://{right.address}", right.address, "matrix")
    whole = {"a fraction for an integer", "a float for an integer", "an integer out of range"}
    assert skipped(report) == whole | {"BYTES in bytes", "some inputs in bytes", "extremes as JSON and as bytes"}


def test_a_model_of_certain_values_needs_an_input(right: Served, customers: Path) -> None:
    url = f"http://{right.address}"
    report = run(url, right.address, "tabular")
    (failed,) = failures(report)
    assert failed.startswith("REST inference: inference: the sample is not answered (HTTP 400")
    assert "--input FILE.json" in failed
    report = run(url, right.address, "tabular", customers)
    assert failures(report) == []
    assert "BYTES in bytes" not in skipped(report)


def test_the_first_model_of_the_index_is_asked(right: Served) -> None:
    assert run(f"http://{right.address}").model == right.post("/v2/repository/index").json()[0]["name"]


def test_without_an_address_grpc_is_skipped(right: Served) -> None:
    report = run(f"http://{right.address}", model="matrix")
    asked = {r.outcome for r in report.results if r.chapter.startswith("gRPC")}
    assert asked == {Outcome.SKIPPED}
    assert report.passed


def test_requests_leave_the_server_as_it_was(right: Served) -> None:
    before = right.get("/v2/models/matrix").json()
    run(f"http://{right.address}", right.address, "matrix", hostile=True)
    assert right.get("/v2/models/matrix").json() == before
    assert right.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("url", "grpc", "text"),
    [
        ("http://127.0.0.1:1", None, "no answer"),
        ("ftp://127.0.0.1", None, "expected http://HOST:PORT"),
        ("http://127.0.0.1:port", None, "expected http://HOST:PORT"),
        (None, "127.0.0.1:1", "--grpc 127.0.0.1:1"),
        (None, "nowhere", "expected HOST:PORT"),
    ],
)
def test_who_does_not_answer_is_told(right: Served, url: str | None, grpc: str | None, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        run(url or f"http://{right.address}", grpc, "matrix")


def test_each_case_has_a_name_of_its_own_and_a_clause() -> None:
    for chapter in CHAPTERS:
        names = [case.name for case in chapter.cases]
        assert len(set(names)) == len(names)
        for case in chapter.cases:
            assert case.clause.startswith(("OIP", "Binary:", "Triton:", "gRPC", "RFC ")), case.clause
            # What the text of the protocol says nothing about is nobody's duty.
            assert case.level is not Level.REQUIRED or case.clause.startswith("OIP"), case.name
