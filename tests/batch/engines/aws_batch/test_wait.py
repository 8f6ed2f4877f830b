"""`tidemill job run` on AWS Batch: it waits, tells how it goes, and ends as the run does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.batch.engines.aws_batch.asked import batch, running
from tests.batch.engines.aws_batch.host import Host
from tests.batch.engines.aws_batch.support import ROWS, Bucket, a_job, until
from tests.cli.support import tidemill
from tests.moto_server import Aws
from tidemill.batch.engines.aws_batch import wait
from tidemill.batch.engines.aws_batch.jobs import CANCELLED
from tidemill.batch.engines.aws_batch.submit import Submitted, submit
from tidemill.batch.engines.aws_batch.wait import run_there
from tidemill.batch.job import Job
from tidemill.batch.jobs.index import RunIndex
from tidemill.batch.jobs.metrics import Metrics
from tidemill.batch.options import Progress, RunReport
from tidemill.errors import BudgetExceeded, RunError

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr("tidemill.batch.plan.SHARD_ROWS", 1000)


class Waiter(threading.Thread):
    """Somebody who waits for a run."""

    def __init__(self, job: Job, index: RunIndex, warn: Callable[[str], None] | None = None) -> None:
        super().__init__(daemon=True)
        self._job, self._index, self._warn = job, index, warn
        self.told: list[Progress] = []
        self.report: RunReport | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.report = run_there(self._job, index=self._index, progress=self.told.append, tell=self._warn)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def until(self, what: Callable[[], Any]) -> None:
        until(lambda: bool(what()) or not self.is_alive())
        assert what(), self.error


def test_whoever_waits_is_told_and_gets_the_report(
    aws: Aws,
    bucket: Bucket,
    slow: Path,
    queue: str,
    index: RunIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    textfile = tmp_path / "metrics.prom"
    job = a_job(slow, bucket, queue, children=2)
    job = msgspec.structs.replace(job, price_per_hour=3.6, metrics=Metrics(textfile=str(textfile), every=1.0))
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    made = submitted.submission
    with batch(running(made), monkeypatch):
        waiter, second = Waiter(job, index), Waiter(job, index)
        host = Host(aws, tmp_path)
        for child in [host.start(str(made.score_job), i) for i in range(2)]:
            assert child.ended() == 0, child.said()
        waiter.until(lambda: waiter.told and waiter.told[-1].rows_read == ROWS)
        last = waiter.told[-1]
        assert (last.rows_dead, last.total_rows, last.shards_done) == (8, ROWS, 8)
        waiter.until(lambda: index.get("r1").read == ROWS)
        assert index.get("r1").cost is not None
        waiter.until(textfile.exists)
        second.until(lambda: second.told)
        assert [n for n in bucket.names("runs/r1/") if n.startswith("submission")] == ["submission-001.json"]
        commit = host.start(str(made.commit_job))
        assert commit.ended() == 0, commit.said()
        for one in (waiter, second):
            one.join(120)
            assert one.report is not None, one.error
            found = one.report
            assert (found.state, found.read, found.dead, found.shards) == ("done", ROWS, 8, 8)
    assert 'tidemill_job_state{job_name="nightly",state="done"} 1.0' in textfile.read_text()
    bucket.check_output(tmp_path)


def test_where_one_child_finds_it_hopeless_all_are_ended(
    aws: Aws,
    bucket: Bucket,
    slow: Path,
    queue: str,
    index: RunIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = a_job(slow, bucket, queue, children=2)
    job = msgspec.structs.replace(job, options=msgspec.structs.replace(job.options, max_errors=0))
    submitted = submit(job, index=index)
    assert isinstance(submitted, Submitted)
    made = submitted.submission
    jobs = running(made)
    with batch(jobs, monkeypatch):
        waiter = Waiter(job, index)
        child = Host(aws, tmp_path).start(str(made.score_job), 0)
        assert child.ended() == BudgetExceeded.exit_code, child.said()
        waiter.join(120)
    assert isinstance(waiter.error, BudgetExceeded)
    assert "at most 0 may" in str(waiter.error)
    assert [j["statusReason"] for j in jobs] == [CANCELLED, CANCELLED]
    assert index.get("r1").state == "over_budget"


def test_the_command_waits_and_tells_why_a_run_failed(
    bucket: Bucket, slow: Path, queue: str, index: RunIndex, tmp_path: Path
) -> None:
    """moto has no Docker for the container of a plain job, which fails."""
    file = tmp_path / "job.toml"
    file.write_text(f"""
name = "nightly"
package = "{slow}"
source = "s3://{bucket.name}/in/"
sink = "s3://{bucket.name}/out/"
engine.name = "aws_batch"
engine.aws_batch = {{ queue = "{queue}", image = "tidemill:1", stage = "s3://{bucket.name}/runs", children = 1 }}
""")
    done = tidemill("job", "run", file, "--run-id", "r1")
    assert done.exit_code == RunError.exit_code
    assert "run r1: failed: child 0: " in done.stderr
    assert "`tidemill run logs r1`" in done.stderr
    assert index.get("r1").state == "failed"


def test_an_aws_that_is_away_ends_no_waiting(
    bucket: Bucket, slow: Path, queue: str, index: RunIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = submit(a_job(slow, bucket, queue, children=2), index=index)
    assert isinstance(submitted, Submitted)
    jobs = running(submitted.submission)
    heard: list[str] = []
    with batch(jobs, monkeypatch):
        waiter = Waiter(a_job(slow, bucket, queue, children=2), index, heard.append)
        waiter.until(lambda: waiter.told)
        with monkeypatch.context() as away:
            away.setenv("AWS_ENDPOINT_URL_BATCH", "http://127.0.0.1:9")
            away.setenv("AWS_MAX_ATTEMPTS", "1")
            waiter.until(lambda: heard)
        assert heard[0].startswith("how the run stands is not known for now: ")
        told = len(waiter.told)
        waiter.until(lambda: len(waiter.told) > told)
        jobs[0] |= {"status": "FAILED", "arrayProperties": {"statusSummary": {"FAILED": 2}, "size": 2}}
        waiter.join(120)
    assert isinstance(waiter.error, RunError)
    assert "run r1: failed" in str(waiter.error)
