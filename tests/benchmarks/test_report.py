"""The report says plainly what was met and what was not; its chart is well-formed."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.load import Load
from benchmarks.open_loop import OpenLoad
from benchmarks.plot import Series, bars
from benchmarks.report import Results, write
from benchmarks.serving import HttpResult, OpenRun, Settings
from benchmarks.size import Size

MACHINE: dict[str, Any] = {
    "date": "2026-11-24 08:00 UTC",
    "cpu": "a CPU",
    "cores": 2,
    "memory": "8 GB",
    "system": "Linux",
    "python": "3.11.2",
    "packages": {"tidemill": "0.1.0"},
    "commit": "abc",
    "load": 0.1,
}


def load(server: str, connections: int, number: int, per_second: float, p50: int, **changes: Any) -> Load:
    fields: dict[str, Any] = {
        "requests": 1000, "p90": 2 * p50, "p99": 3 * p50, "max": 4 * p50, "non_2xx": 0, "broken": 0, "timeouts": 0,
        "server_us": 10.0, "server_busy": 1.0, "client_busy": 0.5, "others": 0.0,
    }  # fmt: skip
    fields |= changes
    return Load(server=server, connections=connections, round=number, per_second=per_second, p50=p50, **fields)


def http(tidemill: float, **changes: Any) -> HttpResult:
    open_load = OpenLoad(rate=10, sent=9, answered=9, errors=0, per_second=9, p50=1, p90=2, p99=3, p999=4, max=5, lag=1)
    return HttpResult(
        settings=Settings(rounds=2, connections=(1, 64)),
        cores="server on core 0, client on core 1",
        granian="runtime mode st, task implementation asyncio",
        loads=[
            load(server, n, number, speed * number, p50, **changes)
            for number in (1, 2)
            for n in (1, 64)
            for server, speed, p50 in (("raw_echo", 1000, 50), ("granian", 300, 90), ("tidemill", tidemill, 80))
        ],
        open_runs=[OpenRun(server="tidemill", share=0.2, load=open_load)],
        open_limit=100,
        rss_mb={"raw_echo": 30, "granian": 40, "tidemill": 100},
        request_bytes=300,
    )


def report(folder: Path, **parts: Any) -> str:
    return write(Results(command="make bench", machine=MACHINE, **parts), folder).read_text(encoding="utf-8")


def test_goals_that_are_met(tmp_path: Path) -> None:
    text = report(tmp_path, http=http(600))
    assert "| requests/s over the raw echo's, 64 connections | 0.60 | ≥ 0.55 | met |" in text
    assert "| requests/s over Granian's echo, 64 connections | 2.00 | ≥ 1.3 | met |" in text
    assert "| p50 over the raw echo's, 1 connection | 1.60 | ≤ 1.6 | met |" in text
    assert "not met" not in text
    assert "not quiet" not in text


def test_goals_that_are_not_met_are_said_to_be(tmp_path: Path) -> None:
    text = report(tmp_path, http=http(299))
    assert "| 0.30 | ≥ 0.55 | **not met** |" in text
    assert "| 1.00 | ≥ 1.3 | **not met** |" in text


def test_errors_and_noise_are_reported(tmp_path: Path) -> None:
    text = report(tmp_path, http=http(600, non_2xx=3, others=0.25))
    assert "| requests without a 2xx answer | 36 | 0 | **not met** |" in text
    assert "used up to 25% of its cores" in text


def test_spread_is_median_lowest_and_highest(tmp_path: Path) -> None:
    text = report(tmp_path, http=http(600))
    assert "| 64 | tidemill serve | 900 (600 to 1,200) |" in text


def test_size(tmp_path: Path) -> None:
    text = report(tmp_path, size=Size(401.0, {"pyarrow": 165.0}, [0.1, 0.2, 0.4], [0.5]))
    assert "| core install | 401 MB | < 400 MB | **not met** |" in text
    assert "| import of `tidemill` | 0.200 s | < 0.3 s | met |" in text


def test_chart_is_well_formed() -> None:
    series = [Series("a < b", [(10, 8, 12), (20, 19, 21)]), Series("c", [(5, 5, 5), (6, 6, 6)])]
    root = ElementTree.fromstring(bars("A & B", ["1", "64"], "connections", series))
    space = "{http://www.w3.org/2000/svg}"
    bars_drawn = [r for r in root.iter(f"{space}rect") if r.find(f"{space}title") is not None]
    heights = [float(r.get("height", 0)) for r in bars_drawn]
    assert len(heights) == 4
    assert abs(heights[0] * 2 - heights[2]) < 0.2
