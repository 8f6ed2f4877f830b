"""Progress in words, as a bar and as lines."""

import io
import time

import pytest
from rich.console import Console

from tidemill.batch import Progress
from tidemill.cli import progress
from tidemill.cli.progress import LINE_SECONDS, describe, shown_progress


def moment(**changes: object) -> Progress:
    values: dict[str, object] = {
        "run_id": "r", "rows_read": 3_000, "rows_written": 2_990, "rows_dead": 10, "total_rows": 9_000,
        "resumed_rows": 1_000, "shards_done": 1, "shards": 3, "seconds": 2.0, "errors": {"null": 10},
    }  # fmt: skip
    return Progress(**values | changes)  # type: ignore[arg-type]


def test_rows_rate_time_left_and_errors() -> None:
    # 2,000 rows of this execution in 2 s: the thousand that were done before do not count.
    assert describe(moment()) == "3,000 of 9,000 rows, 1,000 rows/s, 6 s left, 10 dead"
    assert describe(moment(total_rows=None, rows_dead=0)) == "3,000 rows, 1,000 rows/s, no errors"
    assert describe(moment(seconds=0.0)) == "3,000 of 9,000 rows, 0 rows/s, 10 dead"


@pytest.mark.parametrize(("rows", "left"), [(78_000, "1 min 15 s"), (7_503_000, "2 h 5 min")])
def test_long_times_are_told_in_minutes_and_hours(rows: int, left: str) -> None:
    assert f"{left} left" in describe(moment(total_rows=rows))


def test_without_a_terminal_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    text = io.StringIO()
    with shown_progress(Console(file=text, width=200)) as show:
        assert show is not None
        show(moment())
        now += LINE_SECONDS - 1
        show(moment())
        assert text.getvalue() == ""
        now += 1
        show(moment())
        show(moment(rows_dead=0))
    assert text.getvalue() == describe(moment()) + "\n"


def test_on_a_terminal_a_bar_that_leaves_nothing_behind() -> None:
    text = io.StringIO()
    with shown_progress(Console(file=text, width=200, force_terminal=True)) as show:
        assert show is not None
        show(moment())
        until = time.monotonic() + 30
        while "33%" not in text.getvalue():  # it is drawn by a thread of its own
            assert time.monotonic() < until
            time.sleep(0.01)
    assert "6 s left" in text.getvalue()


def test_quiet_shows_nothing() -> None:
    text = io.StringIO()
    with shown_progress(Console(file=text), quiet=True) as show:
        assert show is None
    assert text.getvalue() == ""
