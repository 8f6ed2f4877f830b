"""The state of one serving process, which every protocol reads."""

from __future__ import annotations

from enum import Enum

from tidemill.realtime.endpoint import Endpoint, Endpoints
from tidemill.realtime.models.control import Control

__all__ = ["Service", "State"]


class State(Enum):
    """A process's life, in order."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"


class Service:
    """What is served, and whether it may be sent requests."""

    def __init__(self) -> None:
        self.state = State.LOADING
        self.endpoints = Endpoints()
        self.control: Control | None = None
        """Who changes what is served; None until that is known."""

    @property
    def ready(self) -> bool:
        """Every model is verified, loaded, warmed up and can answer, and the process is not going away."""
        return self.state is State.SERVING and all(self.model_ready(one) for one in self.endpoints)

    def model_ready(self, endpoint: Endpoint) -> bool:
        """Whether this model version may be sent requests."""
        return self.state is State.SERVING and endpoint.able
