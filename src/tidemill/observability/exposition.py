"""The metrics page: totals in Prometheus' text format or OpenMetrics, whichever is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tidemill.observability.families import FAMILIES, PROCESSES, UNREADABLE, Family, Kind
from tidemill.observability.reading import Series, Totals, total
from tidemill.observability.recorder import Recorder

__all__ = ["render"]


def render(source: Recorder | str | os.PathLike[str], accept: str = "") -> tuple[bytes, str]:
    """The page, and its content type, for an `Accept` header: of a directory's processes, or of one recorder."""
    try:
        encode, content_type = choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is no number
        encode, content_type = choose_encoder("")
    return encode(_Page(total(source))), content_type


class _Page(Collector):
    """What prometheus-client's writers want of a registry."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        totals = self._totals
        found: dict[str, list[Series]] = {}
        for one in totals.series.values():
            found.setdefault(one.family, []).append(one)
        for number, family in ((totals.processes, PROCESSES), (len(totals.unreadable), UNREADABLE)):
            found[family.name] = [Series(family.name, family.kind, (), {}, [float(number)])]
        order = [name for name in FAMILIES if name in found] + sorted(found.keys() - FAMILIES.keys())
        for name in order:
            series = found[name]
            if series[0].kind is not Kind.SUMS:
                yield _metric(name, FAMILIES.get(name), series)


def _metric(name: str, family: Family | None, series: Iterable[Series]) -> Metric:
    series = sorted(series, key=lambda one: sorted(one.labels.items()))
    # A file of another version of Tidemill may hold what this one does not know.
    help_ = family.help if family else "Counted by another version of Tidemill."
    labels = family.labels if family else sorted(series[0].labels)
    kind = series[0].kind
    metric: HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily
    if kind is Kind.HISTOGRAM:
        metric = HistogramMetricFamily(name, help_, labels=labels)
        for one in series:
            *counts, seconds = one.values
            edges = [*map(floatToGoString, one.edges), "+Inf"]
            buckets = list(zip(edges, accumulate(counts), strict=True))
            metric.add_metric([one.labels[n] for n in labels], buckets, seconds)
        return metric
    metric = (CounterMetricFamily if kind is Kind.COUNTER else GaugeMetricFamily)(name, help_, labels=labels)
    for one in series:
        metric.add_metric([one.labels[n] for n in labels], one.values[0])
    return metric
