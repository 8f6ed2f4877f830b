"""AWS Batch as it answers of jobs that run: moto, which has no Docker here, lets them fail after a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tidemill.batch.engines.aws_batch.records import Submission

__all__ = ["batch", "running"]

ABOUT = {"jobName": "n", "jobQueue": "q", "jobDefinition": "d", "startedAt": 0}


def running(*submissions: Submission) -> list[dict[str, Any]]:
    """The jobs of submissions to an array: it runs, and the one that commits waits for it."""
    found = []
    for one in submissions:
        array = {"statusSummary": {"RUNNING": one.size}, "size": one.size}
        found.append({**ABOUT, "jobId": one.score_job, "status": "PENDING", "arrayProperties": array})
        found.append({**ABOUT, "jobId": one.commit_job, "status": "PENDING", "container": {}})
    return found


@contextmanager
def batch(jobs: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of moto's AWS Batch, one that knows these jobs alone; what is terminated has failed."""
    handler = type("Handler", (_Batch,), {"jobs": {j["jobId"]: j for j in jobs}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, monkeypatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        patch.setenv("AWS_ENDPOINT_URL_BATCH", f"http://127.0.0.1:{server.server_port}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Batch(BaseHTTPRequestHandler):
    jobs: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told: dict[str, Any] = {}
        if self.path.endswith("/describejobs"):
            told = {"jobs": [self.jobs[i] for i in asked["jobs"] if i in self.jobs]}
        elif self.path.endswith("/terminatejob"):
            ended = self.jobs[asked["jobId"]]
            ended |= {"status": "FAILED", "statusReason": asked["reason"]}
            ended.pop("arrayProperties", None)
        else:
            failed = [j for j in self.jobs.values() if ":" in j["jobId"] and j["status"] == asked["jobStatus"]]
            told = {"jobSummaryList": failed}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        pass
