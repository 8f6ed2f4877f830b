"""The page that Prometheus reads, by Prometheus' own tools."""

import shutil
import subprocess
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tidemill.observability.counters import Counters
from tidemill.observability.exposition import render
from tidemill.observability.families import FAMILIES, Family, Kind
from tidemill.observability.process import ProcessCounters
from tidemill.observability.recorder import Recorder

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def recorder() -> Recorder:
    """Of a process that did some of everything."""
    recorder = Recorder()
    process = ProcessCounters(recorder)
    process.sample()
    process.accepted[True][0] += 2
    process.http2[0] += 1
    process.error(404)
    counters = Counters(recorder, 'quo"ted\nname', "1")
    counters.served("onnx", "ab12")
    now = time.monotonic()
    counters.answering(1, 3)
    counters.succeeded(3, now, now, now, now, now, now)
    counters.executed(3, 0.0, 0.0004, 0.0)
    counters.fold()
    counters.failed(now, "overloaded", "queue_full")
    return recorder


def test_promtool_has_nothing_to_say(recorder: Recorder) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool comes with `make setup-services` (Debian, Ubuntu: apt-get install prometheus)"
    page, content_type = render(recorder)
    assert content_type.startswith("text/plain; version=0.0.4")
    found = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


@pytest.mark.parametrize("accept", ["", "text/plain;version=1.0.0", OPENMETRICS, "text/plain;version=x", "\x00,;=;,"])
def test_each_format_reads_back(recorder: Recorder, accept: str) -> None:
    page, content_type = render(recorder, accept)
    assert content_type.startswith("application/openmetrics-text") == (accept == OPENMETRICS)
    parse = openmetrics if accept == OPENMETRICS else plain
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(page.decode())
        for sample in family.samples
    }
    model = (("model", 'quo"ted\nname'), ("version", "1"))
    assert samples["tidemill_rows_total", *model] == 3
    assert samples["tidemill_requests_total", model[0], ("outcome", "ok"), model[1]] == 1
    assert samples["tidemill_model_call_duration_seconds_bucket", ("le", "0.00025"), *model] == 0
    assert samples["tidemill_model_call_duration_seconds_bucket", ("le", "0.0005"), *model] == 1
    assert samples["tidemill_model_call_duration_seconds_bucket", ("le", "+Inf"), *model] == 1
    assert samples["tidemill_model_call_duration_seconds_count", *model] == 1
    assert samples["tidemill_model_call_rows_sum", *model] == 3
    assert samples["tidemill_processes",] == 1


def test_what_another_version_counted_is_not_left_out(recorder: Recorder) -> None:
    tomorrow = Family("tidemill_from_tomorrow_total", Kind.COUNTER, "", ("model",))
    recorder.values(tomorrow, model="m")[0] = 7
    assert b'tidemill_from_tomorrow_total{model="m"} 7.0\n' in render(recorder)[0]


def test_every_metric_is_named_as_prometheus_names() -> None:
    for name, family in FAMILIES.items():
        if family.kind is Kind.SUMS:
            continue
        assert name.startswith(("tidemill_", "process_"))
        assert name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert family.help.endswith(".")
        assert list(family.edges) == sorted(set(family.edges))
