"""A package and a server file to export."""

from pathlib import Path

import pytest

from tests.realtime import packages

SERVER = """
package = "tabular"
lame_duck = 2.0
grace = 20.0

[tls]
cert = "server.pem"
key = "server.key"

[auth]
keys = "callers.toml"

[replicas]
minimum = 3
maximum = 12
"""


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.tabular(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="session")
def server_toml(package: Path) -> Path:
    """A server of that package with TLS, keys and replicas; and the same with client certificates, as mutual.toml."""
    path = package.parent / "server.toml"
    path.write_text(SERVER)
    path.with_name("mutual.toml").write_text(SERVER.replace('"server.key"', '"server.key"\nclient_ca = "ca.pem"'))
    return path
