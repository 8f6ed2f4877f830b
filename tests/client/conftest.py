"""One server for the tests that only ask it things, and both clients behind one face."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.realtime import packages
from tests.realtime.serving import Served, served
from tidemill import AsyncClient, Client


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("clients")
    made = (packages.every_type, packages.fragile, packages.matrix, packages.sleeper, packages.tabular)
    return {make.__name__: make(directory) for make in made}


@pytest.fixture(scope="session")
def server(homes: dict[str, Path]) -> Iterator[Served]:
    with served(list(homes.values())) as found:
        yield found


Ask = Callable[..., Any]


@pytest.fixture(params=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(url, "predict", "model", data, client={"retries": 0})`: one call of a client made for it."""

    def sync(url: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **more: Any) -> Any:
        with Client(url, **(client or {})) as made:
            return getattr(made, method)(*arguments, **more)

    def awaited(url: str, method: str, *arguments: Any, client: dict[str, Any] | None = None, **more: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **(client or {})) as made:
                return await getattr(made, method)(*arguments, **more)

        return asyncio.run(run())

    return sync if request.param == "Client" else awaited
