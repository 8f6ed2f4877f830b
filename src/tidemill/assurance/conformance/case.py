"""What a case is: a clause, how binding it is, and a function that asks a server and looks at the answer."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tidemill.assurance.conformance.subject import Subject

__all__ = [
    "OPEN",
    "OPTIONAL",
    "REQUIRED",
    "Case",
    "Chapter",
    "Failed",
    "Level",
    "Lost",
    "Outcome",
    "Result",
    "Skipped",
    "expect",
    "held",
    "of",
]

T = TypeVar("T")


class Level(enum.StrEnum):
    """REQUIRED: the protocol's text asks for it. OPTIONAL: an extension, what the text calls optional, or another
    standard (HTTP, gRPC) asks for it. OPEN: the text leaves it to the server, so there is nothing to fail.
    """

    REQUIRED = "required"
    OPTIONAL = "optional"
    OPEN = "open"


REQUIRED, OPTIONAL, OPEN = Level


class Outcome(enum.StrEnum):
    """How a case ended. OBSERVED: what the server does where the text leaves it open."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIPPED = "skipped"
    OBSERVED = "observed"


class Failed(Exception):
    """The server does not do what the clause says; the text says what it does instead."""


class Lost(Failed):
    """No answer came: the connection ended, or nothing arrived in time (`late`)."""

    def __init__(self, message: str, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class Skipped(Exception):
    """The case does not apply to this server or model; the text says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """`check` raises Failed or Skipped, or returns what is worth telling ("" for nothing)."""

    name: str
    level: Level
    clause: str
    check: Callable[[Subject], str]


@dataclass(frozen=True, slots=True)
class Chapter:
    """Cases about one part of the protocol, in the order they are run."""

    name: str
    cases: Sequence[Case]


@dataclass(frozen=True, slots=True)
class Result:
    """How one case ended, and in how many seconds; `lost` where no answer came, `late` where none came in time."""

    chapter: str
    case: Case
    outcome: Outcome
    detail: str
    seconds: float = 0.0
    lost: bool = False
    late: bool = False


def held(chapter: str, case: Case, subject: Subject, clock: Callable[[], float]) -> Result:
    """Hold the server to one case."""
    started = clock()
    lost = late = False
    try:
        detail = case.check(subject)
        outcome = Outcome.PASS
    except Skipped as reason:
        detail, outcome = str(reason), Outcome.SKIPPED
    except Failed as fault:
        detail, outcome, lost = str(fault), Outcome.FAIL, isinstance(fault, Lost)
        late = isinstance(fault, Lost) and fault.late
    if case.level is OPEN and outcome is not Outcome.SKIPPED:
        outcome = Outcome.OBSERVED
    return Result(chapter, case, outcome, detail, clock() - started, lost, late)


def expect(condition: object, otherwise: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(otherwise)


def of(doc: Any, name: str, type_: type[T]) -> T:
    """Field `name` of a JSON object, which must have that type. Raises Failed."""
    expect(isinstance(doc, dict), f"expected a JSON object, got {doc!r:.60}")
    expect(name in doc, f"{name!r} is missing")
    value = doc[name]
    if not isinstance(value, type_):
        raise Failed(f"{name!r} is {value!r:.60}, expected {JSON_NAMES[type_]}")
    return value


JSON_NAMES: dict[type, str] = {str: "a string", list: "an array", dict: "an object", bool: "true or false"}
