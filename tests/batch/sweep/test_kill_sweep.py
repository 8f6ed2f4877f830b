"""kill -9 just before and just after each outside effect of a run, then in its resume; then it is brought to its end.

`make sweep` takes every moment; the tests take some of each run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.batch.sweep.grounds import GROUNDS, ROWS
from tests.batch.sweep.sweeping import EVERY, Ground, Runs, points, run, watched

# More where there are many moments, for the workers to share.
PARTS = 4 if EVERY else 2


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", GROUNDS)
def test_killed_anywhere_and_again_it_ends_whole(
    package: Path, runs: Runs, tmp_path: Path, name: str, part: int, request: pytest.FixtureRequest
) -> None:
    def ground(number: str, old: bool) -> Ground:
        place = tmp_path / number
        place.mkdir()
        return GROUNDS[name](place, package, old, request.getfixturevalue)

    log = tmp_path / "effects"
    clean = ground("clean", bool(part % 2))
    assert run(clean, runs, log=log) is not None
    effects = len(log.read_text().splitlines())
    assert effects > 20
    expected, lost = clean.rows(), clean.dead()
    assert Counter([*(expected or []), *lost]) == Counter(range(ROWS))
    for number, (kill, after) in enumerate(points(name, effects, part, PARTS)):
        old = bool((number + part) % 2)
        hurt = ground(str(number), old)
        before = hurt.rows()
        with watched(hurt) as seen:
            run(hurt, runs, kill=kill, after=after)
            # The resume is ended as well, at another place each time.
            run(hurt, runs, kill=1 + (kill * 7) % effects, after=not after)
            report = run(hurt, runs)
        moment = (kill, after, old)
        assert report is not None, moment
        assert report.read == report.written + report.dead == ROWS, moment
        assert (hurt.rows(), hurt.dead()) == (expected, lost), moment
        assert [found for found in seen if found not in (before, expected)] == [], moment
        assert hurt.left() == [], moment
        again = run(hurt, runs)
        assert again is not None, moment
        assert again.state == "already_done", moment
        assert hurt.rows() == expected, moment
