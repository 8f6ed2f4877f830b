"""What is desired, and why: the packages given, the repository, and what was asked for since."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidemill.config import Config
from tidemill.errors import ConfigError, NotFound, OutOfMemory, PackageError
from tidemill.realtime.models.control import Aliases, Change, Load, State, Traffic, Unload
from tidemill.realtime.models.desired import Desired, Wanted
from tidemill.realtime.models.model import Failures
from tidemill.realtime.models.options import EndpointOptions
from tidemill.realtime.models.repository import Found, Place, find_models, wanted_of
from tidemill.realtime.models.versions import chosen
from tidemill.realtime.options import ServeOptions

__all__ = ["Asked", "Keeper"]


class Asked(Config, frozen=True, kw_only=True):
    """What the options and later changes say: which models (None: all there are), their aliases and settings."""

    names: frozenset[str] | None = None
    aliases: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    endpoints: dict[str, EndpointOptions] = msgspec.field(default_factory=dict)


class _Broken(NamedTuple):
    """What could not be served: of which stamp, why, and whether it is only memory that it lacked."""

    stamp: str
    reason: str
    memory: bool


class Keeper:
    """Makes the desired state. It loads nothing: whoever applies the state tells it what failed."""

    def __init__(self, options: ServeOptions, packages: Sequence[str | os.PathLike[str]] = ()) -> None:
        single = () if options.package is None else (options.package,)
        self._directories = (*packages, *single, *options.packages)
        self._repository = options.repository
        self._explicit = options.model_control == "explicit"
        self._polled = options.model_control == "poll"
        self._limited = () if options.rate_limits is None else tuple(options.rate_limits.endpoints)
        self._given: list[Wanted] = []
        self._found: dict[Place, Found] = {}
        self._broken: dict[Place, _Broken] = {}
        self._settling: set[Place] = set()
        self._served: dict[Place, Wanted] = {}
        self.asked = Asked(aliases=dict(options.aliases), endpoints=dict(options.endpoints))

    def begin(self) -> None:
        """Look at everything for the first time. Blocks. Raises ConfigError or PackageError."""
        if not self._directories and self._repository is None:
            raise ConfigError("nothing to serve: give a package, or a repository")
        self._given = [wanted_of(one) for one in self._directories]
        self.look()
        names = {one.name for one in self._given}
        both = sorted(names & {name for name, _ in self._found})
        if both:
            raise ConfigError(f"{both[0]} is given and in the repository, too; serve it from one place")
        for name in sorted(names):
            if self.asked.endpoints.get(name, EndpointOptions()).versions != "latest":
                raise ConfigError(
                    f"endpoints.{name}.versions: it picks from a repository; of {name} the directories are given, and "
                    "all of them are served: leave it out"
                )
        known = names | {name for name, _ in self._found}
        if self._explicit:
            wanted = () if self._repository is None else self._repository.load
            absent = [name for name in wanted if name not in known]
            if absent:
                raise ConfigError(f"repository.load: there is no model {absent[0]!r}")
            self.asked = msgspec.structs.replace(self.asked, names=frozenset({*names, *wanted}))
        strange = [
            f"{table}.{name}: there is no such model"
            for table, named in (
                ("aliases", self.asked.aliases),
                ("endpoints", self.asked.endpoints),
                ("rate_limits.endpoints", self._limited),
            )
            for name in named
            if name not in known
        ]
        if strange and self._repository is None:
            raise ConfigError(strange)

    def begun(self) -> None:
        """The first state has been applied. Raises PackageError if what it leaves out cannot come by itself: a model to
        be loaded from the start, or all there are.
        """
        served = {name for name, _ in self._served}
        repository = self._repository
        if repository is None or self._polled:
            return
        absent = [name for name in repository.load if name not in served] if self._explicit else []
        if absent or not (served or self._explicit):
            why = [
                f"{name} version {version} cannot be served: {reason}"
                for (name, version), found in self._found.items()
                if (name in absent or not absent) and (reason := self._reason((name, version), found))
            ]
            none = f"{repository.directory}: it holds no version to serve of {', '.join(absent) or 'any model'}"
            raise PackageError("\n".join(why) or none)

    def look(self, *, twice: bool = False) -> None:
        """Look at the repository again. Blocks. With `twice`, what changed is taken only when it has been the same in
        two looks: until then somebody may still be writing it.
        """
        if self._repository is None:
            return
        before = self._found
        self._found = find_models(Path(self._repository.directory), before)
        now = self._found
        self._settling = {p for p in before.keys() | now.keys() if twice and before.get(p) != now.get(p)}
        changed = self._found != before
        self._broken = {
            place: broken
            for place, broken in self._broken.items()
            if place in self._found
            and self._found[place].stamp == broken.stamp
            and not (broken.memory and changed)  # something else may have gone
        }

    def desired(self) -> Desired:
        """What is to be served now."""
        asked = self.asked
        models = [one for one in self._given if asked.names is None or one.name in asked.names]
        for name in sorted({name for name, _ in (*self._found, *self._settling)}):
            if asked.names is None or name in asked.names:
                models += self._picked(name)
        names = {one.name for one in models}
        return Desired(
            models=tuple(models),
            aliases={name: aliases for name, aliases in asked.aliases.items() if name in names},
            endpoints={name: options for name, options in asked.endpoints.items() if name in names},
        )

    def _picked(self, name: str) -> list[Wanted]:
        """The versions of a model that its policy, and whatever names one, picks of those that can be served.

        While any of its directories is still changing, and where none of them can be served, it stays as it is.
        """
        served = [wanted for place, wanted in self._served.items() if place[0] == name]
        if served and any(place[0] == name for place in self._settling):
            return served
        usable: dict[str, Wanted] = {}
        for place, found in self._found.items():
            if place[0] == name:
                fit = found.wanted is not None and place not in self._broken and place not in self._settling
                wanted = found.wanted if fit else self._served.get(place)
                if wanted is not None:
                    usable[place[1]] = wanted
        options = self.asked.endpoints.get(name, EndpointOptions())
        named = {options.default or "", *self.asked.aliases.get(name, {}).values()}
        named |= set(options.split.weights) if options.split else set()
        named |= {options.shadow.version} if options.shadow else set()
        picked = {*chosen(usable, options.versions), *(one for one in named if one in usable)}
        return [wanted for version, wanted in usable.items() if version in picked] or served

    def applied(self, desired: Desired, failures: Failures) -> bool:
        """Take note of what became of a desired state. Returns whether another one is now to be tried."""
        again = False
        for (name, version), error in failures.items():
            found = self._found.get((name, version))
            if found is not None and found.wanted in desired.models:
                self._broken[name, version] = _Broken(found.stamp, str(error), isinstance(error, OutOfMemory))
                again = True
        failed = {name for name, _ in failures}
        kept = {place: wanted for place, wanted in self._served.items() if place[0] in failed}
        self._served = kept | {(one.name, one.version): one for one in desired.models if one.name not in failed}
        return again

    def change(self, change: Change) -> None:
        """Ask for something else. Raises NotFound or ConfigError."""
        name = change.name
        if not self._explicit:
            raise ConfigError('models are changed by requests only with model_control = "explicit"')
        if name not in {one.name for one in self._given} | {other for other, _ in self._found}:
            raise NotFound(f"there is no model {name!r:.200} to serve")
        asked = self.asked
        names = asked.names or frozenset()
        options = asked.endpoints.get(name, EndpointOptions())
        if isinstance(change, Load):
            self._broken = {p: broken for p, broken in self._broken.items() if p[0] != name and not broken.memory}
            if change.versions is not None:
                options = msgspec.structs.replace(options, versions=change.versions)
            names |= {name}
        elif isinstance(change, Unload):
            names -= {name}
        elif isinstance(change, Traffic):
            options = msgspec.structs.replace(options, split=change.split, shadow=change.shadow)
        elif isinstance(change, Aliases):
            aliases = {**asked.aliases.get(name, {}), **change.aliases}
            kept = {alias: version for alias, version in aliases.items() if version is not None}
            asked = msgspec.structs.replace(asked, aliases={**asked.aliases, name: kept})
        endpoints = {**asked.endpoints, name: options}
        self.asked = msgspec.structs.replace(asked, names=names, endpoints=endpoints)

    def states(self) -> list[State]:
        """Every version that is not as it should be, and why; and those that nobody asked for."""
        return [
            State(name=p[0], version=p[1], state="UNAVAILABLE", reason=self._reason(p, found) or "not asked for")
            for p, found in self._found.items()
        ]

    def _reason(self, place: Place, found: Found) -> str:
        """Why a version of the repository cannot be served; empty if it can."""
        if place in self._broken:
            return self._broken[place].reason
        if place in self._settling:
            return "it has changed just now; it is taken once it has not for a whole interval"
        return found.reason
