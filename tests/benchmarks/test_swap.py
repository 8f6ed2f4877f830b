"""The swap benchmark against a real server, briefly."""

from pathlib import Path

import pytest

from benchmarks import swap


@pytest.mark.timeout(120)
def test_swaps_are_made_under_load_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"PEAK_REQUESTS": 500, "CYCLES": 3, "SLICE_S": 1, "PROBE_S": 0.3}
    # Of a machine that is busy with other tests.
    settings |= {"SHARE": 0.05, "SUSTAINED_US": 1e6}
    for name, value in settings.items():
        monkeypatch.setattr(swap, name, value)
    found = swap.run(tmp_path, 2)
    assert found.cycles == 3
    assert 0 < found.peak <= found.asked
    assert found.quiet.sent == found.changing.sent > 0, "the same load"
    assert found.quiet.errors == 0
    assert found.changing.errors == 0
    assert found.changing.answered > 0
    assert found.quiet.p99 > 0
    assert len(found.failures) <= 1
