"""Endpoints: loaded packages that answer requests, found by model name and version or alias."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from tidemill.errors import ConfigError, InputError, NotFound
from tidemill.model.package import Package
from tidemill.observability.counters import Counters
from tidemill.observability.recorder import Recorder
from tidemill.prediction.batched import Batched, BatchLimits
from tidemill.prediction.budget import Budget
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile
from tidemill.realtime.error_log import ErrorLog
from tidemill.realtime.models.options import EndpointOptions
from tidemill.realtime.models.shadow import Shadow
from tidemill.realtime.models.split import Split
from tidemill.realtime.models.versions import natural
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.probe import Probe
from tidemill.realtime.security.rates import Rates
from tidemill.rows import Rows

__all__ = ["Endpoint", "Endpoints"]

# Seconds past the time that a call was expected to take, after which its model counts as stuck.
OVERDUE = 0.5


class Endpoint:
    """One model version: its path, the merging in front of it, and what it counts. `example` is a row it answers.

    `reading` requests are being read and will call it. `options` are its model's; `shadow`, if there is one, is told of
    each answer after it was given, and `rates` of the rows that each caller has answered.
    """

    def __init__(
        self,
        live: Live,
        profile: Profile,
        example: Rows | None,
        batching: BatchLimits,
        limits: RequestLimits,
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder | None = None,
        options: EndpointOptions | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.live = live
        self.package: Package = live.package
        self.manifest = live.package.manifest
        self.name = live.package.name
        self.version = live.package.version
        self.limits = limits
        self.options = options or EndpointOptions()
        self.timeout = self.options.timeout or self.manifest.slo.timeout_ms / 1e3
        self.slo = self.options.p99 or self.manifest.slo.p99_ms / 1e3
        self.shadow: Shadow | None = None
        self.rates: Rates | None = None
        self.reading = 0
        self.example = example
        self.counters = Counters(recorder, self.name, self.version)
        self.batched = Batched(live, profile, batching, loop, self.counters, budget, self.slo)
        live.on_error = ErrorLog(self.name, self.version)
        self._probe = Probe(self.batched, example, loop)

    @property
    def able(self) -> bool:
        """Whether the model can answer: it does so for its own samples, and its threads do come back."""
        return not self.failing and not self.batched.overdue(OVERDUE)

    @property
    def idle(self) -> bool:
        """Nothing waits for it or will, and no thread is in a model call."""
        return not self.reading and self.batched.idle

    @property
    def failing(self) -> bool:
        """Whether the model does not answer its own samples."""
        return self._probe.failing

    def unable(self, reason: str) -> None:
        """The model did not answer its example: it is not able until it does."""
        self._probe.settle(reason)

    def close(self) -> None:
        """Fail what waits, at once."""
        self._probe.close()
        self.batched.close()


class Endpoints:
    """All versions of all models of one server: one moment's set, never changed.

    An alias stands for a version of its model. Without a version the model's default answers, else its highest.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint] = (),
        aliases: Mapping[str, Mapping[str, str]] | None = None,
        splits: Mapping[str, Split[Endpoint]] | None = None,
    ) -> None:
        """Raises ConfigError for two endpoints of one name and version. `splits` are by model name."""
        self._models: dict[str, dict[str, Endpoint]] = {}
        self._aliases = aliases or {}
        self._splits = splits or {}
        for one in endpoints:
            versions = self._models.setdefault(one.name, {})
            if one.version in versions:
                raise ConfigError(f"two packages are {one.name} version {one.version}; serve one of them")
            versions[one.version] = one
        for name, versions in self._models.items():
            self._models[name] = dict(sorted(versions.items(), key=lambda item: natural(item[0])))
        self._defaults = {name: self._default(name, versions) for name, versions in self._models.items()}

    def __iter__(self) -> Iterator[Endpoint]:
        for versions in self._models.values():
            yield from versions.values()

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def versions(self, name: str) -> list[Endpoint]:
        """The versions of a model, lowest first. Raises NotFound."""
        return list(self._versions(name).values())

    def _versions(self, name: str) -> Mapping[str, Endpoint]:
        found = self._models.get(name)
        if found is None:
            raise NotFound(
                f"unknown model {name!r:.200}: this server has {', '.join(map(repr, self._models)) or 'none'}"
            )
        return found

    def aliases(self, name: str) -> dict[str, Endpoint]:
        """The aliases of a model that stand for a version that is served."""
        versions = self._models.get(name, {})
        return {alias: versions[v] for alias, v in self._aliases.get(name, {}).items() if v in versions}

    def paths(self, name: str) -> Iterator[tuple[str, Endpoint]]:
        """Every way to write a model in a path, and whom it means: NAME, NAME/versions/1, NAME@champion, …"""
        yield name, self.find(name)
        for ref, one in {**self.aliases(name), **self._models[name]}.items():
            yield f"{name}/versions/{ref}", one
            yield f"{name}@{ref}", one

    def shape(self, name: str) -> object:
        """Equal for two sets in which this model is reached in the same ways and means the same."""
        return list(self.paths(name)), self.split(name)

    def split(self, name: str) -> Split[Endpoint] | None:
        """How calls of a model that name no version are shared, if they are: then its `choose` says who answers."""
        return self._splits.get(name)

    def find(self, name: str, version: str | None = None) -> Endpoint:
        """One version of a model, by its version or alias (`NAME@ALIAS` names both), or its default.

        Raises NotFound naming what there is, InputError for two versions in one breath.
        """
        name, at, named = name.partition("@")
        if at:
            if version:
                raise InputError(f"{name}@{named:.200} names a version already; leave out version {version!r:.200}")
            version = named
        versions = self._versions(name)
        if not version and not at:
            return self._defaults[name]
        found = versions.get(version or "") or versions.get(self._aliases.get(name, {}).get(version or "", ""))
        if found is None:
            known = ", ".join(map(repr, [*versions, *self.aliases(name)]))
            raise NotFound(f"unknown version {version!r:.200} of model {name!r}: this server has {known}")
        return found

    def _default(self, name: str, versions: Mapping[str, Endpoint]) -> Endpoint:
        highest = list(versions.values())[-1]
        wanted = highest.options.default
        return highest if wanted is None else versions.get(wanted) or self.aliases(name).get(wanted) or highest
