"""The models of one process, and how what it serves becomes what is desired, without a call lost or held up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from tidemill.errors import ConfigError, PackageError, TidemillError
from tidemill.observability.recorder import Recorder
from tidemill.prediction.budget import Budget
from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.models.control import State
from tidemill.realtime.models.desired import Desired, Wanted
from tidemill.realtime.models.loading import Loaded, Stalls, load, on_thread, release_memory
from tidemill.realtime.models.model import Failures, Model, problems_of, shadowed, split_of
from tidemill.realtime.models.options import EndpointOptions
from tidemill.realtime.options import RequestLimits, ServeOptions
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Models"]

log = logging.getLogger(__name__)

HELD_UP = 0.05  # seconds without the event loop, after which a load is blamed for it
LOOK = 0.01


class Models:
    """What one process has in memory. Belongs to the event loop's thread."""

    def __init__(
        self, options: ServeOptions, swapped: Callable[[Endpoints], None], recorder: Recorder | None = None
    ) -> None:
        """`swapped` is called with each new set, at the moment from which it is to answer."""
        self.endpoints = Endpoints()
        self._options = options
        self._swapped = swapped
        self._recorder = recorder
        self._budget = Budget(options.cores or cpu_budget())
        self._begun = False
        self._served: dict[str, Model] = {}
        self._held: dict[Wanted, Loaded] = {}  # all that is in memory, also what is on its way in or out
        self._loading: Wanted | None = None
        self._leaving: list[tuple[Wanted, Endpoint]] = []
        self._drains: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def apply(self, desired: Desired) -> Failures:
        """Serve this set: load what is new beside what runs, swap at once, then drain and free what is gone.

        A model of which anything fails stays wholly as it was; the failures are returned. One call at a time; the same
        set again changes nothing. Raises ConfigError for two packages of one version.
        """
        async with self._turn:
            by_name: dict[str, list[Wanted]] = {}
            for wanted in desired.models:
                versions = by_name.setdefault(wanted.name, [])
                if any(wanted.version == other.version for other in versions):
                    raise ConfigError(f"two packages are {wanted.name} version {wanted.version}; serve one of them")
                versions.append(wanted)
            failures: Failures = {}
            served: dict[str, Model] = {}
            for name, versions in by_name.items():
                aliases = desired.aliases.get(name, {})
                options = desired.endpoints.get(name, EndpointOptions())
                model, failed = await self._model(name, tuple(versions), aliases, options)
                failures.update(failed)
                if model is not None:
                    served[name] = model
            self._swap(served)
            return failures

    # -- one model -----------------------------------------------------------------------------------------

    async def _model(
        self, name: str, wanted: tuple[Wanted, ...], aliases: dict[str, str], options: EndpointOptions
    ) -> tuple[Model | None, Failures]:
        """The model as it is wanted, or as it was and why."""
        old = self._served.get(name)
        if old is not None and (old.wanted, old.aliases, old.options) == (wanted, aliases, options):
            return old, {}
        failures: Failures = {}
        for one in wanted:
            if one not in self._held:
                try:
                    self._held[one] = loaded = await self._load(one)
                    if old is not None and loaded.failure is not None and loaded.example is not None:
                        raise PackageError(
                            f"{name} version {one.version}: it does not answer its own samples: {loaded.failure}"
                        )
                except TidemillError as found:
                    failures[name, one.version] = found
        if not failures:
            manifests = [self._held[one].live.package.manifest for one in wanted]
            problems = list(problems_of(manifests, aliases, options))
            if problems:
                failures[name, ""] = ConfigError([f"{name}: {problem}" for problem in problems])
        if failures:
            for (_, version), error in failures.items():
                log.error("not served", extra={"model": name, "version": version, "reason": str(error)})
            return old, failures
        endpoints = tuple(self._endpoint(one, options, old) for one in wanted)
        split = split_of(name, endpoints, aliases, options)
        shadow = shadowed(endpoints, aliases, options, old, self._busy)
        return Model(wanted, endpoints, dict(aliases), options, split, shadow), {}

    async def _load(self, wanted: Wanted) -> Loaded:
        most = self._options.max_model_memory
        spare = None if most is None else most - self.memory
        self._loading = wanted
        try:
            with Stalls() as stalls:
                loaded = await load(wanted, spare)
        except Exception as error:
            if isinstance(error, TidemillError):
                raise
            log.exception("a package that opens cannot be loaded")
            raise PackageError(f"{wanted.name} version {wanted.version}: {type(error).__name__}: {error}") from error
        finally:
            self._loading = None
        cost = {str(n): round(s * 1e6, 1) for n, s in zip(loaded.profile.sizes, loaded.profile.seconds, strict=True)}
        told = {
            "model": wanted.name,
            "version": wanted.version,
            "seconds": round(loaded.seconds, 3),
            "memory": loaded.memory,
            "call_us": cost,
        }
        log.info("loaded", extra=told)
        if stalls.longest > HELD_UP and self._served:
            held = {"model": wanted.name, "version": wanted.version, "ms": round(stalls.longest * 1e3)}
            log.warning("loading held up the calls of others", extra=held)
        if loaded.failure is not None and loaded.example is None:
            log.warning("the model could not be tried", extra={"model": wanted.name, "reason": loaded.failure})
        return loaded

    def _endpoint(self, wanted: Wanted, options: EndpointOptions, old: Model | None) -> Endpoint:
        if old is not None and wanted in old.wanted and old.options.apart == options.apart:
            return old.endpoints[old.wanted.index(wanted)]
        loaded, server = self._held[wanted], self._options
        batching = options.batching or server.merging
        limits = RequestLimits(
            max_rows=options.max_rows or server.requests.max_rows,
            max_elements=options.max_elements or server.requests.max_elements,
        )
        loop = asyncio.get_running_loop()
        endpoint = Endpoint(
            loaded.live, loaded.profile, loaded.example, batching, limits, loop, self._recorder, options, self._budget
        )
        endpoint.counters.loaded(loaded.seconds)
        if loaded.failure is not None and loaded.example is not None:
            endpoint.unable(loaded.failure)
        return endpoint

    def _busy(self) -> bool:
        return any(not one.batched.idle for one in self.endpoints)

    # -- the swap ------------------------------------------------------------------------------------------

    def _swap(self, served: dict[str, Model]) -> None:
        before, self._served = self._served, served
        if before != served or not self._begun:
            self._begun = True
            for model in served.values():
                for one in model.endpoints:
                    one.options = model.options
                    one.shadow = None if model.shadow is None or model.shadow.live is one.live else model.shadow
            self.endpoints = Endpoints(
                [one for model in served.values() for one in model.endpoints],
                {name: model.aliases for name, model in served.items()},
                {name: model.split for name, model in served.items() if model.split is not None},
            )
            self._swapped(self.endpoints)
            self._part(before, served)
        self._forget()

    def _part(self, before: dict[str, Model], served: dict[str, Model]) -> None:
        """What is no longer served finishes what it has begun, and goes."""
        shadows = {model.shadow for model in served.values()}
        for model in before.values():
            if model.shadow is not None and model.shadow not in shadows:
                model.shadow.close()
        kept = {id(one) for one in self.endpoints}
        gone = [
            (wanted, one)
            for model in before.values()
            for wanted, one in zip(model.wanted, model.endpoints, strict=True)
            if id(one) not in kept
        ]
        if gone:
            self._leaving += gone
            drain = asyncio.create_task(self._drain(gone))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)

    async def _drain(self, gone: list[tuple[Wanted, Endpoint]]) -> None:
        until = monotonic() + self._options.grace
        while gone:
            late = monotonic() > until
            for wanted, one in [(w, e) for w, e in gone if late or e.idle]:
                gone.remove((wanted, one))
                self._leaving.remove((wanted, one))
                one.close()
                told = {"model": wanted.name, "version": wanted.version}
                if late:
                    log.warning("unloaded, but its calls did not end in time", extra=told)
                else:
                    log.info("unloaded", extra=told)
            await asyncio.sleep(LOOK)
        self._forget()
        await on_thread(release_memory)

    def _forget(self) -> None:
        """Hold nothing in memory but what is served or has calls to finish."""
        used = {one for model in self._served.values() for one in model.wanted} | {one for one, _ in self._leaving}
        self._held = {one: loaded for one, loaded in self._held.items() if one in used}

    # -- what is told --------------------------------------------------------------------------------------

    @property
    def memory(self) -> int:
        """Bytes of all that is loaded."""
        return sum(one.memory for one in self._held.values())

    def states(self) -> list[State]:
        """Every version in this process."""
        states = [
            State(name=one.name, version=one.version, state="READY")
            if one.able
            else State(name=one.name, version=one.version, state="UNAVAILABLE", reason="it does not answer its samples")
            for one in self.endpoints
        ]
        known = {(one.name, one.version) for one in self.endpoints}
        going = [(one, "UNLOADING") for one, _ in self._leaving]
        if self._loading is not None:
            going.append((self._loading, "LOADING"))
        for wanted, state in going:
            if (wanted.name, wanted.version) not in known:
                states.append(State(name=wanted.name, version=wanted.version, state=state))
        return states

    def close(self) -> None:
        """Fail what still waits, at once."""
        for drain in self._drains:
            drain.cancel()
        for model in self._served.values():
            if model.shadow is not None:
                model.shadow.close()
        for one in (*self.endpoints, *(one for _, one in self._leaving)):
            one.close()
