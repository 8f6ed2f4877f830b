"""A run as metrics: a file for node_exporter's textfile collector, and a Pushgateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from tidemill.batch.jobs.index import RunRecord, State
from tidemill.batch.jobs.patience import within
from tidemill.config import Config

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

__all__ = ["Metrics", "families", "push", "write_textfile"]

_LABEL = r"^(?!__|job_name\Z|state\Z|code\Z|output\Z|q\Z|hook\Z|check\Z)[a-zA-Z_][a-zA-Z0-9_]*\Z"
_QUANTILES = (0.05, 0.5, 0.95)
_PUSH_SECONDS = 10.0


class Metrics(Config, frozen=True, kw_only=True):
    """Where a run's metrics go while it runs, every so many seconds, and at its end; `labels` stand on all of them."""

    textfile: Annotated[str, msgspec.Meta(pattern=r"\.prom\Z")] | None = None
    pushgateway: Annotated[str, msgspec.Meta(pattern=r"^(https?://)?[^\s?#@]+\Z")] | None = None
    labels: dict[Annotated[str, msgspec.Meta(pattern=_LABEL)], str] = msgspec.field(default_factory=dict)
    every: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0


class _Registry:
    """What prometheus-client's writers want of a registry."""

    def __init__(self, record: RunRecord, last_done: RunRecord | None, labels: dict[str, str]) -> None:
        self._given = record, last_done, labels

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return families(*self._given)


def write_textfile(metrics: Metrics, record: RunRecord, last_done: RunRecord | None) -> None:
    """Replace the file in one step. Raises OSError."""
    from prometheus_client import write_to_textfile

    assert metrics.textfile is not None  # noqa: S101 - whoever calls has asked
    write_to_textfile(metrics.textfile, _Registry(record, last_done, metrics.labels))


def push(metrics: Metrics, record: RunRecord, last_done: RunRecord | None) -> None:
    """Replace what the gateway knows of this job by the same names. Raises OSError, which answers other than 2xx and a
    gateway that takes too long are, too, and what urllib raises for an address.
    """
    from prometheus_client import pushadd_to_gateway

    assert metrics.pushgateway is not None  # noqa: S101 - whoever calls has asked
    registry = _Registry(record, last_done, metrics.labels)
    gateway = metrics.pushgateway
    within(
        _PUSH_SECONDS,
        lambda: pushadd_to_gateway(gateway, record.job, registry, timeout=_PUSH_SECONDS),
        "tidemill-push",
    )


def families(record: RunRecord, last_done: RunRecord | None, labels: dict[str, str]) -> Iterator[GaugeMetricFamily]:
    """Every metric of a run. They are gauges: a job's next run begins at nothing again."""
    from prometheus_client.core import GaugeMetricFamily

    common = {"job_name": record.job, **labels}

    def gauge(name: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> GaugeMetricFamily:
        found = list(values)
        names = list(dict.fromkeys([*common, *(k for more, _ in found for k in more)]))
        family = GaugeMetricFamily(f"tidemill_job_{name}", text, labels=names)
        for more, value in found:
            family.add_metric([(common | more)[n] for n in names], float(value))
        return family

    states = [({"state": s}, s == record.state) for s in get_args(State)]
    yield gauge("state", "1 for the state that the run is in.", states)
    numbers: list[tuple[str, str, float | None]] = [
        ("rows_read", "Rows read.", record.read),
        ("rows_written", "Rows written.", record.written),
        ("rows_dead", "Rows that became dead letters.", record.dead),
        ("rows_expected", "Rows of the whole input, where they are known.", record.total_rows),
        ("rows_per_second", "Rows scored in a second by the last execution.", record.rows_per_second),
        ("remaining_seconds", "Seconds that the run will still take at that rate.", _left(record)),
        ("shards", "Shards of the run.", record.shards),
        ("shards_done", "Shards that are sealed.", record.shards_done),
        ("shards_repeated", "Shards that were begun more than once.", len(record.attempts)),
        ("duration_seconds", "Seconds of the last execution.", record.seconds),
        ("cpu_seconds", "Seconds of CPU of the driver and the processes it waited for.", record.cpu_seconds),
        ("peak_memory_bytes", "Peak resident memory of the driver.", record.peak_rss_bytes),
        ("cost", "Seconds times the price that the job gives for an hour.", record.cost),
        ("updated_timestamp_seconds", "When this was told.", _time(record.updated_at)),
        ("last_end_timestamp_seconds", "When the run ended.", _time(record.finished_at)),
        ("last_success_timestamp_seconds", "When a run of the job was last published.", _success(record, last_done)),
    ]
    for name, text, number in numbers:
        if number is not None:
            yield gauge(name, text, [({}, number)])
    quantiles = [(o, q, d.quantile(q)) for o, d in record.outputs.items() for q in _QUANTILES]
    several: list[tuple[str, str, list[tuple[dict[str, str], float]]]] = [
        (
            "errors",
            "Dead rows by the code of their first problem.",
            [({"code": c}, n) for c, n in record.errors.items()],
        ),
        (
            "gate_failed",
            "1 for a check of the gate that failed.",
            [({"check": c.name}, not c.passed) for c in record.checks],
        ),
        ("hook_failed", "1 for a hook that failed.", [({"hook": h.kind}, not h.passed) for h in record.hooks]),
        (
            "output_null_ratio",
            "Share of an output's cells that are null or NaN.",
            [({"output": o}, d.null_rate) for o, d in record.outputs.items()],
        ),
        (
            "output_quantile",
            "Quantiles of an output's numbers, to 3 %.",
            [({"output": o, "q": f"{q:g}"}, value) for o, q, value in quantiles if value is not None],
        ),
    ]
    for name, text, values in several:
        if values:
            yield gauge(name, text, values)


def _left(record: RunRecord) -> float | None:
    return record.seconds_left if record.under_way else None


def _success(record: RunRecord, last_done: RunRecord | None) -> float | None:
    latest = record if record.state == "done" else last_done
    return _time(latest.finished_at) if latest is not None else None


def _time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
