"""How the set of models is changed while a server runs, from any protocol, in one process or through a supervisor."""

from __future__ import annotations

from typing import Protocol

from tidemill.config import Config
from tidemill.realtime.models.options import Name, ShadowOptions, SplitOptions

__all__ = ["Aliases", "Change", "Control", "Load", "State", "Traffic", "Unload"]


class Change(Config, frozen=True, kw_only=True, tag_field="change"):
    """Something asked of one model. Travels between a replica and its supervisor."""

    name: str


class Load(Change, frozen=True, kw_only=True, tag="load"):
    """Load the model's versions from the repository, or again what changed of them. `versions` replaces its policy."""

    versions: str | tuple[str, ...] | None = None


class Unload(Change, frozen=True, kw_only=True, tag="unload"):
    """Serve no version of the model any longer; what was begun is finished."""


class Aliases(Change, frozen=True, kw_only=True, tag="aliases"):
    """Point aliases at versions; None takes one away. Those not named stay."""

    aliases: dict[Name, Name | None]


class Traffic(Change, frozen=True, kw_only=True, tag="traffic"):
    """Replace how the model's calls are shared and copied; None is not at all."""

    split: SplitOptions | None = None
    shadow: ShadowOptions | None = None


class State(Config, frozen=True, kw_only=True):
    """One version in the index: READY, UNAVAILABLE, LOADING or UNLOADING, and why it is not ready."""

    name: str
    version: str
    state: str
    reason: str = ""


class Control(Protocol):
    """What load and unload requests talk to."""

    async def change(self, change: Change) -> None:
        """Bring a change about everywhere, and return when it is served.

        Raises NotFound for a model there is none of, ConfigError for a change that cannot be meant, PackageError and
        its like for a package that cannot be served; what was served before is served on then.
        """

    def index(self) -> list[State]:
        """Every version known here, served or not."""
