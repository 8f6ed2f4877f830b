"""Who is guilty when processes end over a chunk: rows are asked again in ever smaller parts. No process and no clock.

Which rows a process was at is known, so that only those are asked in parts. A row is guilty when it ends a process that
answers nothing else; every other row is answered.
"""

from __future__ import annotations

from collections.abc import Callable

from tidemill.batch.workers.limits import Death
from tidemill.batch.workers.process import Answer
from tidemill.errors import Problem

__all__ = ["MOST_DEATHS", "settle"]

# Of one chunk. A guilty row takes three or four, so that a handful is found; a chunk of nothing else is soon given up.
MOST_DEATHS = 32
_FAN = 32

# Asks rows `start` to before `stop`, alone in their process or not.
Asking = Callable[[int, int, bool], Answer | Death]


def settle(n: int, ask: Asking, *, at_once: int | None, divisible: bool) -> list[Answer]:
    """Answers of all n rows, in order; where a process ended over rows, they have their problem there.

    `at_once` bounds the rows that are asked together at first. Rows that are not `divisible`, because they depend on
    each other or may not be asked twice, all share the end of theirs. After MOST_DEATHS the rest is given up.
    """
    if n == 0:
        return []
    size = at_once or n
    todo = [(start, min(start + size, n), False) for start in range(0, n, size)][::-1]
    done: list[Answer] = []
    deaths: list[Death] = []
    while todo:
        start, stop, alone = todo.pop()
        if len(deaths) >= MOST_DEATHS:
            done.append(_dead(start, stop, deaths[-1].code, _given_up(deaths[-1])))
            continue
        found = ask(start, stop, alone)
        if isinstance(found, Answer):
            done.append(found)
            continue
        deaths.append(found)
        first, last = (found.first, found.last) if divisible else (start, stop)
        single = stop - start == 1 and (alone or found.fresh)
        if single or not divisible or (last - first == 1 and found.code == "timeout"):
            done.append(_dead(first, last, found.code, f"the process of the model {found.message}"))
            parts = []
        else:
            parts = _parts(first, last)
        parts = [(start, first, False), *parts, (last, stop, False)]
        todo += [p for p in reversed(parts) if p[0] < p[1]]
    return sorted(done, key=lambda answer: answer.start)


def _parts(first: int, last: int) -> list[tuple[int, int, bool]]:
    rows = last - first
    size = -(-rows // _FAN)
    return [(a, min(a + size, last), rows == 1) for a in range(first, last, size)]


def _dead(start: int, stop: int, code: str, message: str) -> Answer:
    return Answer(start, stop, None, [Problem(i, code, "", message) for i in range(stop - start)])


def _given_up(last: Death) -> str:
    return (
        f"not asked alone: {MOST_DEATHS} processes ended over the rows of its chunk, of which the last {last.message}"
    )
