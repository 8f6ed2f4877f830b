"""The committed results of the conformance kit have a row for each case; Tidemill's come from a server as it is run."""

from pathlib import Path

from benchmarks import conformance
from tidemill.assurance.conformance import CHAPTERS, Outcome, run


def test_tidemill_passes_with_the_model_of_the_table(tmp_path: Path) -> None:
    with conformance._started("Tidemill", conformance._tidemill, tmp_path / "tidemill") as (port, grpc):
        report = run(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc}", conformance.MODEL, hostile=True)
    assert report.passed
    assert {r.outcome for r in report.results} == {Outcome.PASS, Outcome.OBSERVED}
    lines = list(conformance._section({"Tidemill": report, "Twin": report}))
    assert sum(line.count(" ✓") for line in lines) == 2 * report.count(Outcome.PASS)
    assert not any(str(conformance.ROOT) in line for line in lines)


def test_the_committed_table_has_each_case() -> None:
    page = conformance.PAGE.read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        _, _, after = page.partition(f"\n### {chapter.name}\n")
        rows = [line for line in after.partition("\n### ")[0].splitlines() if line.startswith("| ")][1:]
        expected = [
            (conformance._cell(case.name), case.level.value, conformance._cell(case.clause, len(case.clause)))
            for case in chapter.cases
        ]
        assert [tuple(row.strip("| ").split(" | ")[:3]) for row in rows] == expected, "run make conformance"
