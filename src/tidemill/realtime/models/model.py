"""One model as it is served: its versions, and how calls are shared and copied among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tidemill.errors import TidemillError
from tidemill.model.manifest import Manifest
from tidemill.realtime.endpoint import Endpoint
from tidemill.realtime.models.desired import Wanted
from tidemill.realtime.models.interface import difference
from tidemill.realtime.models.options import EndpointOptions
from tidemill.realtime.models.shadow import Shadow
from tidemill.realtime.models.split import Split
from tidemill.realtime.models.versions import natural

__all__ = ["Failures", "Model", "problems_of", "shadowed", "split_of"]

Failures = dict[tuple[str, str], TidemillError]
"""By model and version: why it is not served as desired; without a version, what its aliases or options cannot be."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What was wanted of one model, and what came of it: an endpoint for each version wanted."""

    wanted: tuple[Wanted, ...]
    endpoints: tuple[Endpoint, ...]
    aliases: dict[str, str]
    options: EndpointOptions
    split: Split[Endpoint] | None
    shadow: Shadow | None


def problems_of(manifests: Sequence[Manifest], aliases: Mapping[str, str], options: EndpointOptions) -> Iterator[str]:
    """What is wrong with aliases and options for these versions of a model, each with its path."""
    versions = {one.version: one for one in manifests}
    known = ", ".join(versions)
    for alias, version in aliases.items():
        if alias in versions:
            yield f"aliases.{alias}: {alias!r} is a version itself; call the alias something else"
        elif version not in versions:
            yield f"aliases.{alias}: there is no version {version!r}; expected one of {known}"
    default = options.default or max(versions, key=natural)
    split = [*options.split.weights] if options.split else []
    shadow = [options.shadow.version] if options.shadow else []
    # The model's metadata is the default's, and whoever shares its calls must understand them; a shadow gets anybody's.
    for field, refs, mates in (
        ("default", [default], []),
        ("split.weights", split, [default]),
        ("shadow.version", shadow, [*versions]),
    ):
        strange = [ref for ref in refs if ref not in versions and aliases.get(ref) not in versions]
        for ref in strange:
            yield f"{field}: there is no version or alias {ref!r}; expected one of {known}"
        if refs and not strange:
            named = [versions.get(aliases.get(ref, ref)) for ref in (*refs, *mates)]
            alike = [one for one in named if one is not None]
            apart = [said for other in alike[1:] if (said := difference(alike[0], other))]
            if apart:
                yield f"{field}: versions that answer the same calls need the same interface: {apart[0]}"
    if options.split and not any(options.split.weights.values()):
        yield "split.weights: at least one must be above 0"


def split_of(
    name: str, endpoints: Sequence[Endpoint], aliases: Mapping[str, str], options: EndpointOptions
) -> Split[Endpoint] | None:
    """How calls that name no version are shared, if they are."""
    split = options.split
    if split is None:
        return None
    by_ref = {ref: _resolved(ref, endpoints, aliases) for ref in split.weights}
    default = _resolved(options.default, endpoints, aliases) if options.default else max(endpoints, key=_order)
    key = default.manifest.entity_key if split.by == "key" else None
    weighted = {ref: (weight, by_ref[ref]) for ref, weight in split.weights.items()}
    return Split(name, weighted, default, key)


def shadowed(
    endpoints: Sequence[Endpoint],
    aliases: Mapping[str, str],
    options: EndpointOptions,
    old: Model | None,
    busy: Callable[[], bool],
) -> Shadow | None:
    """The shadow of these endpoints, if there is one: the old one goes on where nothing has changed for it."""
    if options.shadow is None:
        return None
    live = _resolved(options.shadow.version, endpoints, aliases).live
    if old is not None and old.shadow is not None and (old.shadow.live, old.shadow.options) == (live, options.shadow):
        return old.shadow
    return Shadow(live, options.shadow, busy, asyncio.get_running_loop())


def _resolved(ref: str, endpoints: Sequence[Endpoint], aliases: Mapping[str, str]) -> Endpoint:
    by_version = {one.version: one for one in endpoints}
    return by_version.get(ref) or by_version[aliases[ref]]


def _order(endpoint: Endpoint) -> list[tuple[int, str]]:
    return natural(endpoint.version)
