"""Progress of a run on stderr: a bar with rate, time left and errors; without a terminal a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    from tidemill.batch import Progress as Moment

__all__ = ["describe", "describe_seconds", "shown_progress"]

LINE_SECONDS = 10.0


@contextmanager
def shown_progress(console: Console, *, quiet: bool = False) -> Iterator[Callable[[Moment], None] | None]:
    """What a run reports its moments to; None when nothing is to be shown."""
    if quiet:
        yield None
    elif console.is_terminal:
        columns = (SpinnerColumn(), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as bar:
            yield _Bar(bar, bar.add_task("starting", total=None))
    else:
        yield _Lines(console)


class _Bar:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, moment: Moment) -> None:
        self._bar.update(self._task, total=moment.total_rows, completed=moment.rows_read, description=describe(moment))


class _Lines:
    """At most one line every ten seconds, so that a log stays readable."""

    def __init__(self, console: Console) -> None:
        self._console, self._next = console, monotonic() + LINE_SECONDS

    def __call__(self, moment: Moment) -> None:
        if monotonic() >= self._next:
            self._next = monotonic() + LINE_SECONDS
            self._console.print(describe(moment), soft_wrap=True)


def describe(moment: Moment) -> str:
    """`1,200,000 of 5,000,000 rows, 410,000 rows/s, 9 s left, 12 dead`: rows already done by a resumed run's first
    execution do not count for the rate.
    """
    rate = (moment.rows_read - moment.resumed_rows) / moment.seconds if moment.seconds > 0 else 0.0
    total = "" if moment.total_rows is None else f" of {moment.total_rows:,}"
    words = [f"{moment.rows_read:,}{total} rows", f"{rate:,.0f} rows/s"]
    if moment.total_rows is not None and rate > 0:
        words.append(f"{describe_seconds((moment.total_rows - moment.rows_read) / rate)} left")
    words.append(f"{moment.rows_dead:,} dead" if moment.rows_dead else "no errors")
    return ", ".join(words)


def describe_seconds(seconds: float) -> str:
    """`2 h 5 min`, `4 min 10 s`, `9 s`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
