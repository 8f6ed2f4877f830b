"""The management port asks for callers too, once the data port does."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.realtime import packages
from tests.realtime.serving import served
from tidemill.realtime import ServeOptions
from tidemill.realtime.options import ManagementOptions
from tidemill.realtime.security.keys import create_key, revoke_keys
from tidemill.realtime.security.options import AuthOptions

PAGES = ("/healthz", "/ready", "/metrics", "/models", "/", "/nothing", "/models/", "//models", "/METRICS")


@pytest.mark.parametrize(
    ("opened", "statuses"),
    [
        # Nobody, who may read, who may administer: each page in order.
        (("health",), {
            "": [200, 200, 401, 401, 401, 401, 401, 401, 401],
            "reader": [200, 200, 200, 403, 403, 403, 403, 403, 403],
            "admin": [200, 200, 200, 200, 200, 404, 307, 404, 404],
        }),
        (("metrics",), {"": [401, 401, 200, 401, 401, 401, 401, 401, 401]}),
        ((), {"": [401] * 9, "reader": [200, 200, 200, 403, 403, 403, 403, 403, 403]}),
    ],
)  # fmt: skip
def test_who_may_see_what(opened: tuple[str, ...], statuses: dict[str, list[int]], tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys = {"": "", "reader": create_key(file, "reader", ["read"]), "admin": create_key(file, "admin", ["admin"])}
    auth = AuthOptions(keys=str(file), open=opened)
    given = ServeOptions(port=0, lame_duck=0.0, grace=5.0, auth=auth, management=ManagementOptions(port=0))
    with served([packages.twice(tmp_path)], given) as server:
        assert server.server.management is not None
        base = f"http://127.0.0.1:{server.server.management.port}"
        for who, expected in statuses.items():
            headers = {"authorization": f"Bearer {keys[who]}"} if who else {}
            answers = [httpx.get(base + page, headers=headers) for page in PAGES]
            assert [answer.status_code for answer in answers] == expected
            for answer in answers:
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert set(answer.json()) == {"error"}
                assert "server" not in answer.headers
        twice = [("authorization", f"Bearer {keys['reader']}")] * 2
        assert httpx.get(f"{base}/models", headers=twice).status_code == 401
        if "reader" in statuses and "admin" in statuses:
            revoke_keys(file, "admin")
            headers = {"x-api-key": keys["admin"]}
            deadline_passed = 0
            while httpx.get(f"{base}/models", headers=headers).status_code != 401:
                deadline_passed += 1
                assert deadline_passed < 10_000
