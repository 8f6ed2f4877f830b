"""What each route wants, and which scopes cover it."""

from __future__ import annotations

import pytest

from tidemill.realtime.security.scopes import Need, covers, need_of

INFER = Need("infer:fraud", "fraud")
READ = Need("read:fraud", "fraud")
ADMIN = Need("admin:fraud", "fraud")


@pytest.mark.parametrize(
    ("method", "path", "scope", "open_as"),
    [
        ("POST", "/v2/models/fraud/infer", "infer:fraud", ""),
        ("POST", "/v2/models/fraud/versions/3/infer", "infer:fraud", ""),
        ("POST", "/v2/models/fraud@champion/infer", "infer:fraud", ""),
        ("POST", "/v1/models/fraud:predict", "infer:fraud", ""),
        ("POST", "/v1/models/fraud/versions/3:predict", "infer:fraud", ""),
        ("POST", "/v1/models/fraud@champion:predict", "infer:fraud", ""),
        ("GET", "/v2/models/fraud", "read:fraud", ""),
        ("HEAD", "/v2/models/fraud/config", "read:fraud", ""),
        ("GET", "/v2/models/fraud/versions/3/stats", "read:fraud", ""),
        ("GET", "/v1/models/fraud/metadata", "read:fraud", ""),
        ("GET", "/v2/models/stats", "read", ""),
        ("GET", "/v2/models/fraud/ready", "read:fraud", "health"),
        ("GET", "/v2/health/live", "read", "health"),
        ("GET", "/v2", "read", "metadata"),
        ("GET", "/", "read", "metadata"),
        ("GET", "/openapi.json", "read", ""),
        ("GET", "/metrics", "read", "metrics"),
        ("POST", "/v2/repository/index", "read", ""),
        ("POST", "/v2/repository/models/fraud/load", "admin:fraud", ""),
        ("POST", "/v2/repository/models/fraud/unload", "admin:fraud", ""),
        ("POST", "/v2/repository", "admin", ""),
        ("POST", "/v2/health/live", "admin", ""),
        ("POST", "/v2/models/fraud", "admin:fraud", ""),
        ("DELETE", "/v2/models/fraud/infer/more", "admin:fraud", ""),
        ("POST", "/anything", "admin", ""),
        ("GET", "/v2/models/ready", "read:ready", ""),
        ("GET", "/v1/models/ready", "read:ready", ""),
        ("GET", "/v2/models", "read", ""),
    ],
)
def test_what_a_route_wants(method: str, path: str, scope: str, open_as: str) -> None:
    need = need_of(method, path)
    assert (need.scope, need.open_as) == (scope, open_as)
    assert need.model == scope.partition(":")[2]


@pytest.mark.parametrize(
    ("granted", "need", "enough"),
    [
        (["infer"], INFER, True),
        (["infer:fraud"], INFER, True),
        (["infer:fra*"], INFER, True),
        (["infer:*"], INFER, True),
        (["infer:frau"], INFER, False),
        (["infer:fraud2"], INFER, False),
        (["infer:FRAUD"], INFER, False),
        (["infer:x*", "infer:fr*"], INFER, True),
        (["read", "admin"], INFER, False),
        ([], INFER, False),
        (["infer:fraud"], READ, True),
        (["admin:fraud"], READ, True),
        (["infer:other"], READ, False),
        (["infer", "read"], ADMIN, False),
        (["admin:fraud"], ADMIN, True),
        (["infer:fraud", "read:fraud", "infer:*", "read:*"], Need("read"), False),
        (["infer"], Need("read"), True),
        (["admin:*"], Need("admin"), False),
        (["infer:"], INFER, False),
        (["infer:"], Need("infer"), False),
        (["infer:fraud:x"], INFER, False),
    ],
)
def test_what_a_scope_covers(granted: list[str], need: Need, enough: bool) -> None:
    assert covers(granted, need) is enough
