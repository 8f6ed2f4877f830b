"""What a conversation asks its carrier to do, and what it is told of it.

A conversation is a generator: it yields a `Send` or a `Wait`, is sent the `Reply` or `Lost` (of a wait: None), and
returns what it was for.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Lost", "Reply", "Send", "Steps", "Wait"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """One HTTP request, and the seconds that its answer may take."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; `headers` knows no case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer: `sent` if anything of the request may have arrived, `late` if the seconds were over."""

    sent: bool
    late: bool
    reason: str


Steps = Generator[Send | Wait, Reply | Lost | None, T]
