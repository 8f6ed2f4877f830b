"""Several processes that serve: each gives away its share of a limit, all ask for the same callers, over TLS too."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import PATH, body, fleet, marked
from tidemill.errors import ConfigError
from tidemill.realtime import ServeOptions
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.security.keys import create_key, revoke_keys
from tidemill.realtime.security.options import AuthOptions, Rate, RateLimits
from tidemill.realtime.security.tls import TlsOptions

TWO = ReplicaOptions(minimum=2)


def test_replicas_share_a_limit_and_know_the_same_keys(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    file = tmp_path / "keys.toml"
    key, other = create_key(file, "shop", ["infer"]), create_key(file, "other", ["infer"])
    with fleet(
        tmp_path,
        [marked(tmp_path)],
        {"minimum": 2, "balancer": "socket"},
        tls={"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")},
        auth={"keys": str(file)},
        # A hundred at once, of all together, and then one in a hundred seconds.
        rate_limits={"callers": {"shop": {"requests": 0.01, "burst": 10_000}}},
    ) as server:
        url = f"https://{server.address}{PATH}"
        answers = []
        with contextlib.ExitStack() as open_:
            # All at once, because what is evenly shared out is the connections that are open.
            for _ in range(8):
                client = httpx.Client(verify=trusted, timeout=60, headers={"x-api-key": key})
                open_.enter_context(client)
                answers += [client.post(url, content=body(1)) for _ in range(30)]
        told = [answer.json()["outputs"][1]["data"][0] for answer in answers if answer.status_code == 200]
        assert len(set(told)) == 2
        assert {told.count(pid) for pid in told} == {50}
        assert {answer.status_code for answer in answers} == {200, 429}
        with httpx.Client(verify=trusted, timeout=60) as client:
            assert client.post(url, content=body(1)).status_code == 401
        revoke_keys(file, "other")

        def unknown_to_all() -> bool:
            statuses = set()
            for _ in range(6):
                with httpx.Client(verify=trusted, timeout=60, headers={"x-api-key": other}) as client:
                    statuses.add(client.post(url, content=body(1)).status_code)
            return statuses == {401}

        eventually(unknown_to_all)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"auth": AuthOptions(keys="keys.toml", open=())}, "must hold health"),
        ({"rate_limits": RateLimits(address=Rate(requests=1))}, "limits by address need"),
        (
            {
                "auth": AuthOptions(certificates={"x": ("infer",)}),
                "tls": TlsOptions(cert="cert.pem", key="key.pem", client_ca="ca.pem"),
            },
            "callers by certificate need",
        ),
    ],
)
def test_what_replicas_or_their_balancer_could_not_do_is_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ServeOptions(replicas=TWO, **options).check()  # type: ignore[arg-type]
