"""Every metric there is: name, kind, labels, meaning, and how it sums over processes. docs/monitoring.md lists them.

Names follow Prometheus: base units, `_total` for what only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["FAMILIES", "Family", "Kind", "Rule"]


class Kind(Enum):
    """What a family's values are. SUMS are kept for Triton's statistics and not shown to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMS = "sums"


class Rule(Enum):
    """How the gauges of living processes become one."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. A histogram has as many counts as `edges` and one more, and then the sum of what was observed."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    rule: Rule = Rule.SUM
    size: int = 1

    @property
    def values(self) -> int:
        """How many numbers one series of it takes."""
        return len(self.edges) + 2 if self.kind is Kind.HISTOGRAM else self.size


# Upper bounds in seconds: from what a request costs at least to what no caller waits for.
SECONDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS = tuple(float(1 << n) for n in range(13))
MODEL = ("model", "version")

REQUESTS = Family(
    "tidemill_requests_total",
    Kind.COUNTER,
    "Inference requests by what became of them; `cancelled` are those whose client left before the answer.",
    (*MODEL, "outcome"),
)
REFUSALS = Family(
    "tidemill_refusals_total", Kind.COUNTER, "Requests refused before anything was computed, by reason.",
    (*MODEL, "reason"),
)  # fmt: skip
REQUEST_SECONDS = Family(
    "tidemill_request_duration_seconds",
    Kind.HISTOGRAM,
    "From a request's complete head to the whole answer handed to the connection; `result` is ok or error.",
    (*MODEL, "result"),
    SECONDS,
)
STAGE_SECONDS = Family(
    "tidemill_request_stage_seconds",
    Kind.HISTOGRAM,
    "The parts of an answered request: read (its body), decode, queue, compute (the merged call), encode, write.",
    (*MODEL, "stage"),
    SECONDS,
)
ROWS_ANSWERED = Family("tidemill_rows_total", Kind.COUNTER, "Rows answered.", MODEL)
CALLS = Family("tidemill_model_calls_total", Kind.COUNTER, "Model calls that answered rows.", MODEL)
MERGED = Family(
    "tidemill_merged_model_calls_total", Kind.COUNTER, "Model calls that answered several requests at once.", MODEL
)
CALL_ROWS = Family("tidemill_model_call_rows", Kind.HISTOGRAM, "Rows answered by one model call.", MODEL, ROWS)
CALL_SECONDS = Family(
    "tidemill_model_call_duration_seconds", Kind.HISTOGRAM, "Time in the model, of one (merged) call.", MODEL, SECONDS
)
LAST = Family(
    "tidemill_last_request_timestamp_seconds", Kind.GAUGE, "When the last request ended, 0 before any.", MODEL,
    rule=Rule.MAX,
)  # fmt: skip
# Kept for Triton's statistics.
FAILED = Family("failed", Kind.SUMS, "Failed requests, their seconds.", MODEL, size=2)
BATCHES = Family("batches", Kind.SUMS, "Calls, seconds of gathering, running, delivering.", (*MODEL, "rows"), size=4)

QUEUED = Family("tidemill_queued_rows", Kind.GAUGE, "Rows that wait for a model call.", MODEL)
BUSY = Family("tidemill_busy_threads", Kind.GAUGE, "Threads in a model call.", MODEL)
MODEL_INFO = Family(
    "tidemill_model_info", Kind.GAUGE, "1 for each model version that is served.", (*MODEL, "runtime", "fingerprint"),
    rule=Rule.MAX,
)  # fmt: skip
LOAD_SECONDS = Family(
    "tidemill_model_load_seconds", Kind.GAUGE, "What verifying, loading and warming up took.", MODEL, rule=Rule.MAX
)

CONNECTIONS = Family("tidemill_open_connections", Kind.GAUGE, "Connections open now.")
IN_FLIGHT = Family("tidemill_requests_in_flight", Kind.GAUGE, "Complete requests without a complete answer.")
ACCEPTED = Family("tidemill_connections_total", Kind.COUNTER, "Connections taken, those refused included.", ("tls",))
TURNED_AWAY = Family(
    "tidemill_connections_refused_total", Kind.COUNTER, "Connections answered 503 because the server held its limit."
)
HTTP2 = Family("tidemill_http2_connections_total", Kind.COUNTER, "Connections that turned out to speak HTTP/2.")
HTTP_ERRORS = Family(
    "tidemill_http_errors_total",
    Kind.COUNTER,
    "Errors answered before a model was found: malformed, too large, too slow, not known, not allowed.",
    ("status",),
)
RECEIVED_BYTES = Family(
    "tidemill_network_receive_bytes_total", Kind.COUNTER, "Bytes that clients sent, by the kernel's count each second."
)
SENT_BYTES = Family(
    "tidemill_network_transmit_bytes_total", Kind.COUNTER, "Bytes clients confirmed, by the kernel's count each second."
)
CPU_SECONDS = Family(
    "process_cpu_seconds_total", Kind.COUNTER, "User and system CPU time of all serving processes, to the second."
)
RESIDENT = Family("process_resident_memory_bytes", Kind.GAUGE, "Resident memory of all serving processes together.")
STARTED = Family(
    "process_start_time_seconds", Kind.GAUGE, "When the oldest serving process started (unix time).", rule=Rule.MIN
)
READY = Family("tidemill_ready", Kind.GAUGE, "Serving processes whose models are loaded and can answer.")
BUILD = Family("tidemill_build_info", Kind.GAUGE, "Serving processes, by Tidemill's version.", ("version", "python"))
REPLICAS = Family("tidemill_replicas", Kind.GAUGE, "Replicas by state: starting, ready, leaving.", ("state",))
REPLICAS_WANTED = Family("tidemill_replicas_wanted", Kind.GAUGE, "Replicas that there should be.")
REPLICA_FAILURES = Family(
    "tidemill_replica_failures_total", Kind.COUNTER, "Replicas that ended, hung or did not start, unasked."
)
SCALINGS = Family(
    "tidemill_scaling_decisions_total", Kind.COUNTER, "Changes of the number of replicas, by what decided.", ("cause",)
)
# Added when the page is rendered.
PROCESSES = Family("tidemill_processes", Kind.GAUGE, "Processes that live and count.")
UNREADABLE = Family("tidemill_unreadable_metric_files", Kind.GAUGE, "Files of counters that could not be read.")

FAMILIES = {
    one.name: one
    for one in (
        *(REQUESTS, REFUSALS, REQUEST_SECONDS, STAGE_SECONDS, ROWS_ANSWERED, LAST),
        *(CALLS, MERGED, CALL_ROWS, CALL_SECONDS, QUEUED, BUSY, MODEL_INFO, LOAD_SECONDS),
        *(CONNECTIONS, IN_FLIGHT, ACCEPTED, TURNED_AWAY, HTTP2, HTTP_ERRORS, RECEIVED_BYTES, SENT_BYTES),
        *(READY, PROCESSES, BUILD, UNREADABLE, CPU_SECONDS, RESIDENT, STARTED),
        *(REPLICAS, REPLICAS_WANTED, REPLICA_FAILURES, SCALINGS),
        *(FAILED, BATCHES),
    )
}
