"""The tables that docs/security.md shows are ones that a server takes."""

import re
import tomllib
from pathlib import Path

import pytest

from tidemill.config import decode
from tidemill.realtime import ServeOptions

PAGE = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", TABLES)
def test_tables_are_taken(text: str) -> None:
    decode(tomllib.loads(text), ServeOptions, "server.toml").check()


def test_all_of_them_together_are_too() -> None:
    auth = {name: table for text in TABLES for name, table in tomllib.loads(text).get("auth", {}).items()}
    rest = {name: table for text in TABLES for name, table in tomllib.loads(text).items() if name != "auth"}
    found = decode({**rest, "auth": auth}, ServeOptions, "server.toml")
    found.check()
    assert len(TABLES) == 3
    assert found.auth is not None
    assert found.auth.jwt is not None
    assert found.tls is not None
    assert found.rate_limits is not None
