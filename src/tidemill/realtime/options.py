"""How to serve: one frozen struct, checked once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError
from tidemill.prediction.limits import BatchLimits
from tidemill.realtime.limits import HttpLimits
from tidemill.realtime.models.options import EndpointOptions, Name, RepositoryOptions
from tidemill.realtime.replicas.options import ReplicaOptions
from tidemill.realtime.security.options import AuthOptions, RateLimits
from tidemill.realtime.security.tls import TlsOptions

__all__ = ["ManagementOptions", "RequestLimits", "ServeOptions"]

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Host = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00-\x20]*\Z")]


class RequestLimits(Config, frozen=True, kw_only=True):
    """What one request may ask for: rows, and elements of one tensor (of its stated shape, whatever its data)."""

    max_rows: Positive = 65_536
    max_elements: Positive = 1 << 24


class ManagementOptions(Config, frozen=True, kw_only=True):
    """`[management]`: `port` 0 takes any free one (the log tells it); without a port there is no management."""

    host: Host = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None


class ServeOptions(Config, frozen=True, kw_only=True):
    """`tidemill serve`. Times are seconds.

    `port` 0 takes any free one; the bound address is in the log line `listening`, and in `port_file` (HOST:PORT,
    written once the server is ready) if that is given. `grpc_port` is one more, for those who expect gRPC on a port of
    its own; both speak both. On SIGTERM the server is not ready and closes connections
    after their answers for `lame_duck`, then finishes what is in flight within `grace`. `workers` calls of one model
    run at a time on threads (by default as many as there are cores, or one where the interpreter's lock serialises
    them anyway); `max_queue_rows` rows of one model wait at most: both are short for what `batching` says of merging
    and admission. Calls of all models that compute share `cores` (by default all that there are). `packages` (or one
    `package`) and `repository` say what is served; `model_control` what changes that while the server runs: nothing,
    the repository itself (poll) or requests (explicit). `aliases` is by model, then alias; `max_model_memory` is
    bytes of all models of the process together. In `counters_dir` the counts outlive the process; otherwise they end
    with it.
    """

    host: Host = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    port_file: str | None = None
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    tls: TlsOptions | None = None
    auth: AuthOptions | None = None
    rate_limits: RateLimits | None = None
    access_log: bool = False
    lame_duck: Seconds = 1.0
    grace: Seconds = 30.0
    management: ManagementOptions = ManagementOptions()
    counters_dir: str | None = None
    cores: Positive | None = None
    workers: Positive | None = None
    max_queue_rows: Positive | None = None
    batching: BatchLimits = BatchLimits()
    http: HttpLimits = HttpLimits()
    requests: RequestLimits = RequestLimits()
    package: str | None = None
    packages: tuple[str, ...] = ()
    repository: RepositoryOptions | None = None
    model_control: Literal["none", "poll", "explicit"] = "none"
    aliases: dict[Name, dict[Name, Name]] = msgspec.field(default_factory=dict)
    endpoints: dict[Name, EndpointOptions] = msgspec.field(default_factory=dict)
    max_model_memory: Positive | None = None
    replicas: ReplicaOptions | None = None

    @property
    def merging(self) -> BatchLimits:
        """`batching` with what is said of it in short."""
        short = {"workers": self.workers, "max_queue_rows": self.max_queue_rows}
        return msgspec.structs.replace(self.batching, **{k: v for k, v in short.items() if v is not None})

    def check(self) -> None:
        """Raise ConfigError for fields that contradict each other."""
        self.batching.check()
        if self.model_control == "poll" and self.repository is None:
            raise ConfigError('model_control: "poll" looks at a repository; say which with repository.directory')
        if self.model_control != "explicit" and self.repository is not None and self.repository.load:
            raise ConfigError(
                f'repository.load: only model_control = "explicit" loads some models; "{self.model_control}" serves all'
            )
        for name, one in self.endpoints.items():
            if one.batching is not None:
                one.batching.check(f"endpoints.{name}.")
        if self.replicas is not None and (problems := self.replicas.problems()):
            raise ConfigError(problems)
        if self.replicas is not None and self.grpc_port is not None:
            raise ConfigError("grpc_port: replicas share one port, which speaks gRPC too; leave it out")
        if self.auth is not None:
            verifies = self.tls is not None and self.tls.client_ca is not None
            self.auth.check(verifies, watched=self.replicas is not None)
        self._check_rate_limits()
        if self.replicas is not None and self.replicas.balancer != "socket":
            # Envoy ends the clients' TLS and connections: a replica sees neither certificates nor addresses.
            if self.auth is not None and self.auth.certificates:
                raise ConfigError('auth.certificates: callers by certificate need replicas.balancer = "socket"')
            if self.rate_limits is not None and self.rate_limits.address is not None:
                raise ConfigError('rate_limits.address: limits by address need replicas.balancer = "socket"')

    def _check_rate_limits(self) -> None:
        limits = self.rate_limits
        known = self.auth is not None or (self.tls is not None and self.tls.client_ca is not None)
        if limits is not None and limits.address is None and not known:
            raise ConfigError(
                "rate_limits: without auth or tls.client_ca nobody is known, and so nobody is limited; give one of "
                "them, or rate_limits.address"
            )
