"""How requests are merged where settings say so, and what a server tells of it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.realtime import packages
from tests.realtime.serving import Served, served
from tidemill.config import decode, load_toml
from tidemill.errors import ConfigError
from tidemill.prediction.limits import BatchLimits
from tidemill.realtime import ServeOptions


def options(**batching: Any) -> ServeOptions:
    return ServeOptions(port=0, lame_duck=0.0, grace=5.0, batching=BatchLimits(**batching))


def together(server: Served, count: int, pause: float = 0.0) -> list[int]:
    """How many rows were in the model call of each of `count` requests of one row, sent `pause` seconds apart."""

    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=f"http://{server.address}", timeout=60) as client:

            async def one(i: int) -> int:
                await asyncio.sleep(i * pause)
                tensor = {"name": "seconds", "shape": [1], "datatype": "FP32", "data": [0.0]}
                answer = await client.post("/v2/models/sleeper/infer", json={"inputs": [tensor]})
                return int(answer.json()["outputs"][1]["data"][0])

            return await asyncio.gather(*[one(i) for i in range(count)])

    return asyncio.run(ask())


def test_a_delay_lets_requests_that_come_apart_be_merged(tmp_path: Path) -> None:
    with served([packages.sleeper(tmp_path)], options(max_delay=1.0)) as server:
        assert together(server, 4, pause=0.02) == [4] * 4


def test_a_full_call_is_not_delayed(tmp_path: Path) -> None:
    """A minute is longer than the client waits."""
    with served([packages.sleeper(tmp_path)], options(max_delay=60.0, max_rows=3)) as server:
        assert together(server, 6) == [3] * 6
    with served([packages.sleeper(tmp_path)], options(max_delay=60.0, preferred_rows=(2,))) as server:
        assert together(server, 4) == [2] * 4


def config(server: Served, model: str) -> dict[str, Any]:
    return server.get(f"/v2/models/{model}/config").json()


def test_the_configuration_tells_how_calls_are_merged_and_where_they_run(tmp_path: Path) -> None:
    asked = options(max_delay=0.002, preferred_rows=(4, 8), workers=3, priority_levels=5, default_priority=4)
    with served([packages.sleeper(tmp_path), packages.twice(tmp_path)], asked) as server:
        found = config(server, "twice")
        assert found["dynamic_batching"] == {
            "preferred_batch_size": [4, 8],
            "max_queue_delay_microseconds": 2000,
            "priority_levels": 5,
            "default_priority_level": 4,
        }
        assert found["instance_group"] == [{"kind": "KIND_CPU", "count": 3}]
        told = {name: float(value["string_value"]) for name, value in found["parameters"].items()}
        # How many they are is measured, and the machine may be busy.
        batched = server.server.service.endpoints.find("twice").batched
        assert told["inline_rows"] in (0, pytest.approx(batched.inline_rows, rel=1e-4))
        assert told["call_rows"] == batched.row_limit.rows <= 1024
        assert told["row_seconds"] > 0
        assert told["call_seconds"] > 0
        assert float(config(server, "sleeper")["parameters"]["inline_rows"]["string_value"]) == 0


def test_an_endpoint_has_settings_of_its_own(tmp_path: Path) -> None:
    text = {"batching": {"max_rows": 8}, "endpoints": {"twice": {"batching": {"max_rows": 4, "workers": 2}}}}
    asked = decode({"port": 0, "lame_duck": 0.0, **text}, ServeOptions, "server.toml")
    with served([packages.sleeper(tmp_path), packages.twice(tmp_path)], asked) as server:
        rows = {m: config(server, m)["parameters"]["call_rows"]["string_value"] for m in ("sleeper", "twice")}
        assert rows == {"sleeper": "8", "twice": "4"}
        assert config(server, "twice")["instance_group"][0]["count"] == 2


def test_settings_that_contradict_each_other_are_refused_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[batching]\npreferred_rows = [2, 2000]\npriority_levels = 2\ndefault_priority = 3\n")
    with pytest.raises(ConfigError) as refused:
        load_toml(file, ServeOptions).check()
    assert len(refused.value.problems) == 2
    assert "preferred_rows: 2000 is above max_rows, which is 1024" in str(refused.value)
    file.write_text("[batching]\nmax_row = 5\nmax_delay = -1\n")
    with pytest.raises(ConfigError, match=r"batching.max_delay[\s\S]*batching.max_row: unknown key"):
        load_toml(file, ServeOptions)


@pytest.mark.parametrize("value", ["inf", "nan", "1e7"])
def test_no_time_is_without_end(tmp_path: Path, value: str) -> None:
    file = tmp_path / "server.toml"
    times = ("max_delay", "max_wait", "inline_seconds", "hung_after")
    file.write_text(
        "".join(
            f"[{table}]\n" + "".join(f"{one} = {value}\n" for one in times)
            for table in ("batching", "endpoints.m.batching")
        )
        + f"[endpoints.m]\ntimeout = {value}\n[http]\nkeep_alive_timeout = {value}\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_toml(file, ServeOptions)
    assert len(refused.value.problems) == 2 * len(times) + 2
    assert (
        f"batching.max_delay: expected `float` <= 1000000.0, got {float(value)!r}" in str(refused.value)
        or value == "nan"
    )


def test_the_process_has_one_budget_of_cores(tmp_path: Path) -> None:
    asked = ServeOptions(port=0, lame_duck=0.0, cores=3)
    with served([packages.sleeper(tmp_path), packages.twice(tmp_path)], asked) as server:
        found = [e.batched._budget for e in server.server.service.endpoints]
        assert found[0] is found[1]
        assert found[0].cores == 3
        assert config(server, "twice")["instance_group"][0]["count"] == 3
        assert config(server, "sleeper")["instance_group"][0]["count"] == 1
