"""What is chosen by measurement, and the reason given."""

from typing import Any

import pytest

from tidemill.errors import ConfigError
from tidemill.prediction.profile import Profile
from tidemill.realtime import ServeOptions
from tidemill.realtime.replicas.choice import choose_balancer, concurrency_within
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.security.options import AuthOptions, Rate, RateLimits
from tidemill.realtime.security.tls import TlsOptions


@pytest.mark.parametrize(
    ("service", "most", "installed", "balancer", "because"),
    [
        (20e-6, 4, True, "socket", "a call takes 0.02 ms"),
        (0.499e-3, 4, True, "socket", "46 µs"),
        (0.5e-3, 4, True, "envoy", "46 µs"),
        (20e-3, 4, False, "socket", "pip install 'tidemill[balancer]'"),
        (20e-3, 1, True, "socket", "one replica"),
    ],
)
def test_the_balancer_follows_service_time(service, most, installed, balancer, because):
    choice = choose_balancer(service, most_replicas=most, installed=installed)
    assert choice.balancer == balancer
    assert because in choice.reason


def test_a_replica_holds_what_two_calls_within_half_the_slo_answer():
    constant = Profile((1, 1024), (0.020, 0.020))
    assert concurrency_within(constant, 0.1, workers=2, most_rows=8) == 16, "merged calls: one full call ahead"
    assert concurrency_within(constant, 0.1, workers=1, most_rows=1) == 1
    assert concurrency_within(constant, 0.5, workers=1, most_rows=1) == 11, "ten ahead, and its own turn"
    linear = Profile((1, 1001), (0.001, 1.001))
    assert concurrency_within(linear, 0.1, workers=1, most_rows=4096) == 24


def test_a_model_that_costs_nothing_is_bounded_by_what_a_request_costs():
    assert concurrency_within(Profile((1, 1024), (1e-6, 2e-6)), 0.1, workers=2, most_rows=1024) == 2498


def test_a_replica_holds_at_least_one_request_a_worker():
    assert concurrency_within(Profile((1,), (3.0,)), 0.1, workers=4, most_rows=64) == 4


@pytest.mark.parametrize("balancer", ["auto", "envoy", "socket"])
@pytest.mark.parametrize(
    ("field", "options"),
    [
        (
            "auth.certificates",
            {
                "auth": AuthOptions(certificates={"shop": ("infer",)}),
                "tls": TlsOptions(cert="c", key="k", client_ca="a"),
            },
        ),
        ("rate_limits.address", {"rate_limits": RateLimits(address=Rate(requests=1.0))}),
    ],
)
def test_what_needs_the_clients_own_connection_needs_the_socket(field: str, options: dict[str, Any], balancer: Any):
    served = ServeOptions(replicas=ReplicaOptions(balancer=balancer), **options)
    if balancer == "socket":
        served.check()
    else:
        with pytest.raises(ConfigError, match=rf'{field}.* need replicas\.balancer = "socket"'):
            served.check()
