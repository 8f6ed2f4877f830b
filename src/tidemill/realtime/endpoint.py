"""Endpoints: loaded packages that answer requests, found by model name and version."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from tidemill.errors import ConfigError, NotFound
from tidemill.model.package import Package
from tidemill.observability.counters import Counters
from tidemill.observability.recorder import Recorder
from tidemill.prediction.batched import Batched, BatchLimits
from tidemill.prediction.live import Live
from tidemill.prediction.profile import Profile
from tidemill.realtime.options import RequestLimits
from tidemill.realtime.probe import Probe
from tidemill.rows import Rows

__all__ = ["Endpoint", "Endpoints"]

# Seconds past the time that a call was expected to take, after which its model counts as stuck.
OVERDUE = 0.5


class Endpoint:
    """One model version: its path, the merging in front of it, and what it counts. `example` is a row it answers."""

    def __init__(
        self,
        live: Live,
        profile: Profile,
        example: Rows | None,
        batching: BatchLimits,
        limits: RequestLimits,
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder | None = None,
    ) -> None:
        self.live = live
        self.package: Package = live.package
        self.manifest = live.package.manifest
        self.name = live.package.name
        self.version = live.package.version
        self.limits = limits
        self.timeout = self.manifest.slo.timeout_ms / 1e3
        self.example = example
        self.counters = Counters(recorder, self.name, self.version)
        self.batched = Batched(live, profile, batching, loop, self.counters)
        self._probe = Probe(self.batched, example, loop)

    @property
    def able(self) -> bool:
        """Whether the model can answer: it does so for its own samples, and its threads do come back."""
        return not self._probe.failing and not self.batched.overdue(OVERDUE)

    def unable(self, reason: str) -> None:
        """The model did not answer its example: it is not able until it does."""
        self._probe.settle(reason)

    def close(self) -> None:
        """Fail what waits, at once."""
        self._probe.close()
        self.batched.close()


class Endpoints:
    """All versions of all models of one server. Without a version, the highest answers."""

    def __init__(self, endpoints: Sequence[Endpoint] = ()) -> None:
        self._models: dict[str, dict[str, Endpoint]] = {}
        for one in endpoints:
            versions = self._models.setdefault(one.name, {})
            if one.version in versions:
                raise ConfigError(f"two packages are {one.name} version {one.version}; serve one of them")
            versions[one.version] = one
        for name, versions in self._models.items():
            self._models[name] = dict(sorted(versions.items(), key=lambda item: _natural(item[0])))

    def __iter__(self) -> Iterator[Endpoint]:
        for versions in self._models.values():
            yield from versions.values()

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def versions(self, name: str) -> list[Endpoint]:
        """The versions of a model, lowest first. Raises NotFound."""
        found = self._models.get(name)
        if found is None:
            raise NotFound(
                f"unknown model {name!r:.200}: this server has {', '.join(map(repr, self._models)) or 'none'}"
            )
        return list(found.values())

    def find(self, name: str, version: str | None = None) -> Endpoint:
        """One version of a model, or its highest. Raises NotFound naming what there is."""
        versions = self.versions(name)
        if version is None:
            return versions[-1]
        for one in versions:
            if one.version == version:
                return one
        known = ", ".join(repr(one.version) for one in versions)
        raise NotFound(f"unknown version {version!r:.200} of model {name!r}: this server has {known}")


def _natural(version: str) -> list[tuple[int, str]]:
    """Order of versions in which 10 follows 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d]+", version)]
