"""One server for the tests that only ask it things."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.realtime import packages
from tests.realtime.serving import Served, served


@pytest.fixture(scope="session")
def small_packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("packages")
    return [
        packages.every_type(directory),
        packages.fragile(directory),
        packages.matrix(directory, "1"),
        packages.matrix(directory, "2"),
        packages.sleeper(directory),
        packages.tabular(directory),
    ]


@pytest.fixture(scope="session")
def shared(small_packages: list[Path]) -> Iterator[Served]:
    """A server of all small packages; a test must leave it as it was."""
    with served(small_packages) as found:
        yield found
