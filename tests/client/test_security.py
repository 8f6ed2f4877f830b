"""Keys, tokens and certificates: a client that shows them is let in, and any other is told why not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.realtime.serving import Served, served
from tidemill.errors import Forbidden, Unauthenticated, Unavailable
from tidemill.realtime import ServeOptions
from tidemill.realtime.security.keys import create_key
from tidemill.realtime.security.options import AuthOptions
from tidemill.realtime.security.tls import TlsOptions

ROWS = {"x": [4.0]}


@pytest.fixture(scope="module")
def keyed(homes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = create_key(file, "caller", ["infer:fragile"])
    options = ServeOptions(port=0, lame_duck=0.0, auth=AuthOptions(keys=str(file)))
    with served([homes["fragile"], homes["matrix"]], options) as server:
        yield server, key


def test_a_key_opens_what_it_is_for(keyed, ask):
    server, key = keyed
    url = f"http://{server.address}"
    for options in ({"api_key": key}, {"token": key}, {"headers": {"x-api-key": key}}):
        assert ask(url, "predict", "fragile", ROWS, client=options)["root"] == [2.0]
    with pytest.raises(Forbidden):
        ask(url, "predict", "matrix", [[1.0, 1.0, 1.0]], client={"api_key": key})
    assert ask(url, "ready") is True, "health is open"


@pytest.mark.parametrize("options", [{}, {"api_key": "wrong"}, {"token": "wrong"}])
def test_who_is_not_known_is_told_so(keyed, ask, options):
    with pytest.raises(Unauthenticated):
        ask(f"http://{keyed[0].address}", "predict", "fragile", ROWS, client=options)


def test_certificates_both_ways(homes, tmp_path, ask):
    ca, other = trustme.CA(), trustme.CA()
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other", "server", "client", "stranger")}
    ca.cert_pem.write_to_path(pem["ca"])
    other.cert_pem.write_to_path(pem["other"])
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem["server"])
    ca.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(pem["client"])
    other.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(pem["stranger"])
    tls = TlsOptions(cert=pem["server"], key=pem["server"], client_ca=pem["ca"])
    with served([homes["fragile"]], ServeOptions(port=0, lame_duck=0.0, tls=tls)) as server:
        url = f"https://localhost:{server.port}"
        known = {"ca": pem["ca"], "cert": pem["client"]}
        assert ask(url, "predict", "fragile", ROWS, client=known)["root"] == [2.0]
        with pytest.raises(Unavailable, match="certificate verify failed"):
            ask(url, "predict", "fragile", ROWS, client=known | {"ca": pem["other"], "retries": 0})
        for cert in (None, pem["stranger"]):
            assert ask(url, "live", client=known | {"cert": cert}) is False
