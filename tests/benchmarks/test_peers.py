"""The section on peers names the best of them, says what could not be measured, and judges by it."""

from typing import Any

from benchmarks.against import LARGE, Peer, PeersResult, Settings
from benchmarks.load import Load
from benchmarks.peers_report import goals, section


def _load(server: str, connections: int, per_second: float, p99: int) -> Load:
    fields: dict[str, Any] = dict.fromkeys(("requests", "p50", "p90", "max", "non_2xx", "broken", "timeouts"), 0)
    fields |= dict.fromkeys(("server_us", "server_busy", "client_busy", "others"), 0.0)
    return Load(server=server, connections=connections, round=1, per_second=per_second, p99=p99, **fields)


def _peer(name: str, per_second: float, p99: int, ours: float = 90_000) -> Peer:
    def loads(server: str, rate: float, late: int) -> list[Load]:
        return [_load(server, 64, rate, late)]

    return Peer(
        name=name,
        label=name.title(),
        loads=loads(name, per_second, p99),
        ours=loads("tidemill", ours, 1_000),
        large={size: loads(name, per_second / 10, p99) for size in LARGE},
        ours_large={size: loads("tidemill", ours / 10, 1_000) for size in LARGE},
    )


def _result(*peers: Peer) -> PeersResult:
    return PeersResult(settings=Settings(rounds=1, connections=(64,)), peers=list(peers))


def test_the_best_peer_decides() -> None:
    rows = goals(_result(_peer("slow", 1_000, 50_000), _peer("quick", 30_000, 3_000)))
    assert [(row[1], row[3]) for row in rows] == [("3.0", "met"), ("0.33", "met"), ("3.0", "met"), ("3.0", "met")]
    assert "Quick" in rows[0][0]


def test_a_goal_that_is_not_met_is_told() -> None:
    rows = goals(_result(_peer("quick", 60_000, 500)))
    assert [row[3] for row in rows] == ["**not met**"] * 4


def test_what_could_not_be_measured_is_told() -> None:
    result = _result(_peer("quick", 30_000, 3_000), Peer(name="other", label="Other", missing="no such Python"))
    assert "Other was not measured: no such Python" in section(result)
    assert len(goals(result)) == 4
    assert goals(_result(result.peers[1])) == []
