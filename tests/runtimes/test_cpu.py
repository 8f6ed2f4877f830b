"""The CPU budget under affinity and under cgroup quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidemill.runtimes.cpu import cpu_budget


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def budget(root: Path, own: str = "0::/\n", **files: str) -> int:
    """Files under a fake cgroup mount (`a__b` is a/b, `cpu_max` is cpu.max)."""
    for name, text in files.items():
        path = root / "cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    return cpu_budget(root / "cgroup", root / "own")


def test_affinity_alone(tmp_path: Path) -> None:
    assert budget(tmp_path) == 8
    assert cpu_budget(tmp_path / "no", tmp_path / "no") == 8


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("10000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("nonsense\n", 8),
    ],
)
def test_version_2(text: str, cores: int, tmp_path: Path) -> None:
    assert budget(tmp_path, cpu_max=text) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 8), ("300000\n", 3), ("50000\n", 1)])
def test_version_1(quota: str, cores: int, tmp_path: Path) -> None:
    assert budget(tmp_path, cpu__cpu_cfs_quota_us=quota, cpu__cpu_cfs_period_us="100000\n") == cores


def test_the_strictest_of_the_groups_above_counts(tmp_path: Path) -> None:
    """Under systemd the root has no limit: it stands on the service or on a slice above it."""
    own = "0::/system.slice/tidemill.service\n"
    assert budget(tmp_path / "a", own, system__cpu_max="100000 100000") == 8  # another group's
    slice_ = {"system.slice__cpu_max": "400000 100000", "system.slice__tidemill.service__cpu_max": "600000 100000"}
    assert budget(tmp_path / "b", own, **slice_) == 4
    slice_["system.slice__tidemill.service__cpu_max"] = "300000 100000"
    assert budget(tmp_path / "c", own, **slice_) == 3


def test_version_1_groups(tmp_path: Path) -> None:
    own = "7:memory:/other\n3:cpu,cpuacct:/docker/abc\n"
    files = {"cpu__docker__abc__cpu_cfs_quota_us": "250000", "cpu__docker__abc__cpu_cfs_period_us": "100000"}
    assert budget(tmp_path, own, **files) == 2


def test_this_machine() -> None:
    assert 1 <= cpu_budget() <= 8
