"""The soak, briefly, against real servers; and what it measures memory by."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from benchmarks import soak, soak_report
from benchmarks.machine import describe
from benchmarks.memory import Memory, growth, pss
from tests.realtime.http_client import eventually


def test_growth_is_that_of_the_samples_without_its_peaks() -> None:
    random = Random(1)
    noise = [(float(s), 100 + 2.5 * s / 60 + random.gauss(0, 2)) for s in range(600)]
    assert growth(noise) == pytest.approx(2.5, abs=0.3)
    peaks = [(at, size + 500 * (random.random() < 0.2)) for at, size in noise]
    assert growth(peaks) == pytest.approx(2.5, abs=0.8)
    with pytest.raises(ValueError, match="1 samples"):
        growth(noise[:1])


def test_memory_of_children_counts_and_what_they_share_counts_once() -> None:
    program = (
        "import os; held = b'x' * 50_000_000; child = os.fork()\n"
        "print('there', flush=True) if child else None\n"
        "input() if child else __import__('time').sleep(600)\n"
        "os.kill(child, 9)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdout.readline()
        memory = Memory(parent.pid, interval=0.02)
        eventually(lambda: len(memory.samples) > 3)
        memory.stop()
        parent.stdin.write(b"\n")
    assert 50 < memory.samples[-1][1] < 90
    with pytest.raises(FileNotFoundError):
        pss(parent.pid)


def test_memory_does_not_move_with_what_others_run() -> None:
    """Pages of a library are shared out among all who use it; they are nobody's growth."""
    program = [sys.executable, "-c", "import numpy, pyarrow; print('there', flush=True); input()"]

    def started() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with started() as one:
        alone = pss(one.pid)
        with started() as other:
            assert pss(one.pid) == pytest.approx(alone, abs=0.5)
            other.kill()
        assert pss(one.pid) == pytest.approx(alone, abs=0.5)
        one.kill()


@pytest.mark.timeout(240)
def test_a_soak_accounts_for_every_request_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHARE": 0.4, "CAPACITY_S": 2.0, "WORKERS": 6, "REQUESTS": 40, "CHANGE_EVERY_S": 0.1}.items():
        monkeypatch.setattr(soak, name, value)
    # All that comes, so that seconds show it.
    monkeypatch.setattr(soak, "LEAK", 6000.0)
    monkeypatch.setattr(soak, "LEAKING", 1.0)
    found = soak.run(tmp_path, 5)
    assert [one.processes for one in found] == [1, 3]
    for one in found:
        # In seconds memory has not found its level.
        assert [fault for fault in one.faults if "memory" not in fault] == [], (one.failures, one.errors_logged)
        assert sum(one.sent.values()) > 100
        assert sum(one.left.values()) > 0
        assert {kind.partition(" ")[0] for kind in one.sent} == {"JSON", "JSON,", "binary", "bad", "gRPC", "HTTP/2"}
        assert one.changes >= 4
    assert found[0].leak is not None
    assert found[0].leak.found > 10
    text = soak_report.write(found, "test", describe(), tmp_path).read_text()
    assert "two replicas" in text
    assert (tmp_path / "soak.svg").read_text().count("<polyline") == 3
