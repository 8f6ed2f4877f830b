"""The job that commits: once every shard is sealed, the run comes to its end here as it would on one machine."""

from __future__ import annotations

import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from tidemill.batch.engines.aws_batch.package import fetch_package
from tidemill.batch.engines.aws_batch.records import ORDER, RECORD, Order, read_record
from tidemill.batch.jobs.conduct import run_job
from tidemill.batch.jobs.index import RunIndex, RunRecord
from tidemill.batch.stage import Stage, open_stage
from tidemill.errors import RunError

__all__ = ["publish"]

log = logging.getLogger(__name__)


def publish(where: str) -> None:
    """Publish the run with this root, unless the target holds it already.

    Raises RunError that names the shards which are not sealed, and what `run_job` raises: the record of the run is left
    in its root in any case.
    """
    root = open_stage(where)
    order = read_record(root, ORDER, Order)
    if order.job.target().committed(order.run_id) is None:
        _run(order, root)
        return
    log.info("run %s is committed already", order.run_id)
    if not _told(root):
        # The container that committed came no further.
        try:
            _run(order, root)
        except RunError as error:
            log.warning("the run is committed, but cannot be reported: %s", error)


def _told(root: Stage) -> bool:
    """Whether the root says that the run was published. What cannot be understood there says nothing."""
    data = root.get(RECORD)
    with suppress(msgspec.DecodeError):
        return data is not None and msgspec.json.decode(data, type=RunRecord).state == "done"
    return False


def _run(order: Order, root: Stage) -> None:
    live = fetch_package(order.package, root)
    job = msgspec.structs.replace(order.job, package=str(live.package.directory))
    with tempfile.TemporaryDirectory() as directory:
        index = RunIndex(Path(directory))
        if order.before is not None:
            index.write(order.before)
        try:
            report = run_job(job, index=index, tell=log.warning)
            log.info("run %s: %s, %d rows, %d dead", report.run_id, report.state, report.read, report.dead)
        finally:
            record = index.find(order.run_id)
            if record is not None:
                root.put(RECORD, msgspec.json.encode(msgspec.structs.replace(record, package=order.job.package)))
