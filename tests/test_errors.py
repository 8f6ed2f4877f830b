"""The error tree is what its docstring draws, and each class can answer on every wire."""

from __future__ import annotations

import copy
import multiprocessing
import re

import pytest

import tidemill.errors
from tidemill.errors import (
    BudgetExceeded,
    ConfigError,
    InputError,
    MissingExtra,
    Overloaded,
    Problem,
    Refused,
    RowsRejected,
    TidemillError,
    listing,
)

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
GRPC_CODES = {
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
}


def everything(root: type[TidemillError] = TidemillError) -> list[type[TidemillError]]:
    return [root, *(c for sub in root.__subclasses__() for c in everything(sub))]


CLASSES = [c for c in everything() if c.__module__ == "tidemill.errors"]


def drawn() -> list[tuple[str, str | None]]:
    """(class, parent) of every line of the tree in the module's docstring."""
    found: list[tuple[str, str | None]] = []
    above: list[str] = []
    for line in (tidemill.errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:  .*)?", line)
        if match:
            depth = len(match[1]) // 4
            del above[depth:]
            found.append((match[2], above[-1] if above else None))
            above.append(match[2])
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    real = [(c.__name__, None if c is TidemillError else c.__mro__[1].__name__) for c in CLASSES]
    assert sorted(drawn(), key=str) == sorted(real, key=str)
    assert drawn() == real, "drawn in another order than defined"


def test_every_class_is_public() -> None:
    assert {c.__name__ for c in CLASSES} | {"Problem"} == set(tidemill.errors.__all__)
    assert sorted(tidemill.errors.__all__) == tidemill.errors.__all__


@pytest.mark.parametrize("error", CLASSES)
def test_each_owns_its_codes(error: type[TidemillError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert 400 <= error.status <= 599
    assert error.grpc in GRPC_CODES
    assert 1 <= error.exit_code <= 5
    assert error.__doc__


def test_codes_are_told_apart() -> None:
    codes = [c.code for c in CLASSES]
    assert len(set(codes)) == len(codes)


def test_the_callers_errors_are_not_the_servers() -> None:
    for error in CLASSES:
        if issubclass(error, InputError):
            assert error.status < 500
            assert error.grpc == "INVALID_ARGUMENT"
    assert {c for c in CLASSES if c.exit_code == 3} == {BudgetExceeded}


MADE = [
    TidemillError("plain"),
    ConfigError(["a.toml: x: wrong", "a.toml: y: missing"]),
    MissingExtra("the sklearn runtime", "sklearn"),
    InputError("bad", field="x", row=3),
    RowsRejected([Problem(1, "null", "x", "x: is missing")], 5),
    Overloaded("full", retry_after=0.25),
]


@pytest.mark.parametrize("error", MADE, ids=lambda e: type(e).__name__)
def test_copies_are_whole(error: TidemillError) -> None:
    other = copy.copy(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


def fail(index: int) -> None:
    raise MADE[index]


def test_errors_cross_processes_whole() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for i, error in enumerate(MADE):
            with pytest.raises(type(error)) as caught:
                pool.apply(fail, (i,))
            assert str(caught.value) == str(error)
            assert vars(caught.value) == vars(error)


def test_rejected_rows_are_counted_and_the_first_hundred_shown() -> None:
    problems = [Problem(i // 2, "null", "x", f"x: problem {i}") for i in range(240)]
    error = RowsRejected(problems, 500)
    text = str(error)
    assert text.startswith("120 of 500 rows rejected: row 0: x: problem 0; row 0: x: problem 1; row 1: ")
    assert text.endswith("; row 49: x: problem 99; and 140 more")
    assert len(error.problems) == 240
    assert str(RowsRejected(problems[:1], 1)) == "1 of 1 rows rejected: row 0: x: problem 0"


def test_a_problem_is_told_of_another_row() -> None:
    problem = Problem(3, "null", "x", "x: is missing")
    assert problem.at(3) is problem
    assert problem.at(7) == Problem(7, "null", "x", "x: is missing")


def test_a_missing_extra_says_how_to_get_it() -> None:
    assert str(MissingExtra("LightGBM import", "trees")) == (
        "LightGBM import needs the 'trees' extra: pip install 'tidemill[trees]'"
    )


def test_a_configuration_error_holds_all_problems() -> None:
    assert ConfigError("one").problems == ("one",)
    assert str(ConfigError(["one", "two"])) == "one\ntwo"


def test_a_refusal_says_when_to_come_back() -> None:
    assert Refused("draining").retry_after == 1.0
    assert Overloaded("full", 0.5).retry_after == 0.5


def test_long_lists_in_messages_are_cut() -> None:
    assert listing(iter("abc")) == "a, b, c"
    assert listing(map(str, range(15))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more"
    assert listing(()) == "none"
