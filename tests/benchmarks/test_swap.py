"""The swap benchmark against a real server, briefly."""

from pathlib import Path

import pytest

from benchmarks import swap


@pytest.mark.timeout(120)
def test_swaps_are_made_under_load_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "PEAK_REQUESTS", 500)
    monkeypatch.setattr(swap, "SHARE", 0.05)  # of a machine that is busy with other tests
    found = swap.run(tmp_path, 1)
    assert found.cycles >= 1
    assert found.changing.errors == 0
    assert found.changing.answered > 0
    assert found.quiet.p99 > 0
    assert len(found.failures) <= 1
