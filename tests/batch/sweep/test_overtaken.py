"""A driver that is stopped at an outside effect (SIGSTOP), overtaken by another one, and continued, changes nothing.

`make sweep` stops it before each effect around the commit and before each fifth of the others; the tests at a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.batch.sweep.grounds import GROUNDS, ROWS
from tests.batch.sweep.sweeping import EVERY, Ground, Runs, run, watched


def commit_of(ground: Callable[[str], Ground], runs: Runs, effects: int) -> int:
    """The effect that makes a run visible: the last before which a kill leaves the old output."""
    old, new = 1, effects
    while new - old > 1:
        middle = (old + new) // 2
        hurt = ground(f"commit{middle}")
        before = hurt.rows()
        run(hurt, runs, kill=middle)
        old, new = (middle, new) if hurt.rows() == before else (old, middle)
    return old


def stops(effects: int, commit: int) -> Iterable[int]:
    """Before anything is sealed, half-way, and around the commit."""
    if EVERY:
        return sorted({*range(1, effects + 1, 5), *range(max(1, commit - 10), min(effects, commit + 10))})
    return (2, commit // 2, commit - 4, commit, commit + 2)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", [n for n in GROUNDS if n not in ("out.arrow", "out.jsonl")])
def test_a_driver_that_is_stopped_and_overtaken_changes_nothing(
    package: Path, runs: Runs, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    def ground(number: str) -> Ground:
        place = tmp_path / number
        place.mkdir()
        return GROUNDS[name](place, package, True, request.getfixturevalue)

    log = tmp_path / "effects"
    clean = ground("clean")
    assert run(clean, runs, log=log) is not None
    expected = clean.rows()
    effects = len(log.read_text().splitlines())
    commit = commit_of(ground, runs, effects)
    overtaken = 0
    for stop in stops(effects, commit):
        hurt = ground(str(stop))
        elsewhere = hurt.directory / "elsewhere"
        elsewhere.mkdir()
        before = hurt.rows()
        moment = (stop, commit, effects)
        with watched(hurt) as seen:
            first = runs.execute(hurt, kill=stop, stop=True)
            # The same run as another machine would take it over, with a stage of its own.
            options = msgspec.structs.replace(hurt.options, stage=str(elsewhere / "r1"))
            second = runs.execute(replace(hurt, options=options), cwd=elsewhere, waits=2.0).report
            kept: object = None
            if second is not None:
                overtaken += first.stopped
                assert hurt.rows() == expected, moment
                kept = hurt.kept()
            # One that has passed its last effect before has ended.
            ended = runs.go_on(first) if first.stopped else first
            if second is None:
                # It stood in its commit, which nobody may come before.
                assert ended.report is not None, (moment, ended.err.read_text())
            else:
                assert hurt.kept() == kept, moment
                assert ended.report is not None or "Error: " in ended.err.read_text(), moment
            again = run(hurt, runs)
        assert again is not None, moment
        assert again.state == "already_done", (moment, ended.err.read_text())
        assert again.read == again.written + again.dead == ROWS, moment
        assert hurt.rows() == expected, moment
        assert [found for found in seen if found not in (before, expected)] == [], moment
        assert hurt.left() == [], moment
    assert overtaken >= 2
