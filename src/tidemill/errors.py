"""The error tree. Each class owns its code, HTTP status, gRPC code and exit code.

TidemillError
├── ConfigError            a file or flag that cannot be understood
├── MissingExtra           an optional part that is not installed
├── PackageError           a model package that cannot be read, built or loaded
│   ├── IntegrityError     a package file that is not what its manifest says
│   └── OutOfMemory        a model that the memory left for models does not hold
├── InputError             a request or table that cannot be understood
│   ├── RowsRejected       understood, but some rows break the signature
│   ├── TooLarge           over a stated limit
│   └── UnsupportedEncoding    a content coding that is not understood
├── NotFound               no such model, version or route
├── Unauthenticated        no caller is known by what was sent
├── Forbidden              the caller is known, and lacks the scope
├── Refused                not taken now; come back after `retry_after` seconds
│   ├── Overloaded         the queue is full, or the deadline cannot be met
│   └── Unavailable        starting, draining or broken
├── Late                   taken, but not answered in time
├── Disconnected           a client lost the connection before the answer
├── ModelError             the model itself failed
│   └── Transient          for a moment: what a model raises where the same call is worth another try
├── NothingGained          no optimised form of a model is worth having
└── RunError               a batch run that cannot go on
    ├── SourceError        an input that cannot be read as planned
    │   └── SourceChanged  an input that is not the one that was planned
    ├── SinkError          an output that cannot be written as planned
    ├── BudgetExceeded     more bad rows than the job allows
    └── Held               complete, but unlike what its job expects: not published until somebody decides
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BudgetExceeded",
    "ConfigError",
    "Disconnected",
    "Forbidden",
    "Held",
    "InputError",
    "IntegrityError",
    "Late",
    "MissingExtra",
    "ModelError",
    "NotFound",
    "NothingGained",
    "OutOfMemory",
    "Overloaded",
    "PackageError",
    "Problem",
    "Refused",
    "RowsRejected",
    "RunError",
    "SinkError",
    "SourceChanged",
    "SourceError",
    "TidemillError",
    "TooLarge",
    "Transient",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedEncoding",
]

# What messages show; these and the three functions that cut are for messages here, and no part of the interface.
SHOWN_NAMES = 12
SHOWN_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one row has no answer: its index in the call, a stable code, the field and one sentence."""

    row: int
    code: str
    field: str
    message: str

    def at(self, row: int) -> Problem:
        """The same problem, told of another row index."""
        return self if row == self.row else Problem(row, self.code, self.field, self.message)


def listing(names: Iterable[str]) -> str:
    """Names in a message: the first twelve, and how many more there are."""
    every = list(names) or ["none"]
    more = len(every) - SHOWN_NAMES
    return ", ".join(every[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def first_line(error: BaseException) -> str:
    """What the error of a library says, on one line: its first, without a full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def row_listing(problems: Sequence[Problem]) -> str:
    """Problems in a message, each with its row: the first hundred, and how many more there are."""
    shown = "; ".join(f"row {p.row}: {p.message}" for p in problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    return shown + (f"; and {more} more" if more > 0 else "")


class TidemillError(Exception):
    """Base of every error Tidemill raises on purpose. `str(error)` is one sentence for people."""

    code = "internal"
    status = 500
    grpc = "INTERNAL"
    exit_code = 1
    reason = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """So that an error crosses from a worker process whole, whatever its constructor takes."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(type_: type[TidemillError], args: tuple[Any, ...], state: dict[str, Any]) -> TidemillError:
    error = type_.__new__(type_, *args)
    error.__dict__.update(state)
    return error


class ConfigError(TidemillError):
    """All that is wrong with a configuration, each problem with its path in the file."""

    code = "config"
    status = 400
    grpc = "INVALID_ARGUMENT"
    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class MissingExtra(TidemillError):
    """A part that lives in an extra is not installed."""

    code = "missing_extra"
    status = 501
    grpc = "UNIMPLEMENTED"
    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the '{extra}' extra: pip install 'tidemill[{extra}]'")


class PackageError(TidemillError):
    """A model package cannot be read, built or loaded."""

    code = "package"
    grpc = "FAILED_PRECONDITION"


class IntegrityError(PackageError):
    """A file of the package is not the one its manifest names."""

    code = "integrity"


class OutOfMemory(PackageError):
    """The model does not fit into the memory that the process may use for models."""

    code = "out_of_memory"
    status = 507
    grpc = "RESOURCE_EXHAUSTED"


class InputError(TidemillError):
    """A request or a table cannot be understood; nothing of it was computed.

    `field` and `row` (0-based within the call or chunk) are set where they are known.
    """

    code = "invalid_input"
    status = 400
    grpc = "INVALID_ARGUMENT"

    def __init__(self, message: str, field: str | None = None, row: int | None = None) -> None:
        self.field = field
        self.row = row
        super().__init__(message)


class RowsRejected(InputError):
    """Rows that break the signature. `problems` names them all; the text shows the first hundred."""

    code = "rows_rejected"

    def __init__(self, problems: Sequence[Problem], total: int) -> None:
        self.problems = tuple(problems)
        rows = len({p.row for p in problems})
        super().__init__(f"{rows} of {total} rows rejected: {row_listing(self.problems)}")


class TooLarge(InputError):
    """Over a stated limit of size or number."""

    code = "too_large"
    status = 413


class UnsupportedEncoding(InputError):
    """A Content-Encoding that is not understood."""

    code = "unsupported_encoding"
    status = 415


class NotFound(TidemillError):
    """No such model, version or route."""

    code = "not_found"
    status = 404
    grpc = "NOT_FOUND"
    exit_code = 2


class Unauthenticated(TidemillError):
    """No key, token or certificate that is known came with the request. `challenge` says what would be taken."""

    code = "unauthenticated"
    status = 401
    grpc = "UNAUTHENTICATED"
    exit_code = 2

    def __init__(self, message: str, challenge: str = "Bearer") -> None:
        self.challenge = challenge
        super().__init__(message)


class Forbidden(TidemillError):
    """The caller is known, but lacks the scope that the endpoint wants."""

    code = "forbidden"
    status = 403
    grpc = "PERMISSION_DENIED"
    exit_code = 2


class Refused(TidemillError):
    """Not taken now. Nothing was computed, so the call is safe to repeat after `retry_after` seconds.

    `reason` is one word for it, as metrics tell it.
    """

    code = "refused"
    status = 503
    grpc = "UNAVAILABLE"

    def __init__(self, message: str, retry_after: float = 1.0, reason: str = "") -> None:
        self.retry_after = retry_after
        self.reason = reason or self.code
        super().__init__(message)


class Overloaded(Refused):
    """The queue is full, or the work ahead leaves no time before the deadline."""

    code = "overloaded"
    status = 429
    grpc = "RESOURCE_EXHAUSTED"


class Unavailable(Refused):
    """Starting, draining, or unable to answer."""

    code = "unavailable"


class Late(TidemillError):
    """Taken, but the deadline passed before the answer."""

    code = "late"
    status = 504
    grpc = "DEADLINE_EXCEEDED"


class Disconnected(TidemillError):
    """A client lost the connection before the answer; nobody knows whether it was computed."""

    code = "disconnected"
    status = 502
    grpc = "UNAVAILABLE"


class ModelError(TidemillError):
    """The model raised, or answered something its signature does not declare."""

    code = "model_failed"


class NothingGained(TidemillError):
    """No optimised form of a model keeps its metric and is quicker or smaller; `report` tells all that was tried."""

    code = "nothing_gained"
    exit_code = 4

    def __init__(self, message: str, report: object | None = None) -> None:
        self.report = report
        super().__init__(message)


class Transient(ModelError):
    """Raised by a model's own code for what will pass: a service that it asks is busy, a connection was lost.

    No row is at fault, so that none is asked alone. A batch run makes the same call again after a while.
    """

    code = "transient"


class RunError(TidemillError):
    """A batch run cannot go on. Nothing was committed."""

    code = "run"


class SourceError(RunError):
    """An input cannot be read as planned; the text names file, column and row where known."""

    code = "source"


class SourceChanged(SourceError):
    """An input is no longer the one that the run was planned for. No part of the run may go on with it."""

    code = "source_changed"


class SinkError(RunError):
    """An output cannot be written as planned."""

    code = "sink"


class BudgetExceeded(RunError):
    """More rows failed than the job allows. Dead letters and manifest stay to be looked at; `report` is the run's."""

    code = "over_budget"
    exit_code = 3

    def __init__(self, message: str, report: object | None = None) -> None:
        self.report = report
        super().__init__(message)


class Held(RunError):
    """The run is complete and its gate failed: all is sealed, nothing is published. `report` is the run's."""

    code = "held"
    exit_code = 5

    def __init__(self, message: str, report: object | None = None) -> None:
        self.report = report
        super().__init__(message)
