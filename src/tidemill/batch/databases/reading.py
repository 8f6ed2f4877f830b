"""What a database is asked for: the options that every source of this room takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.batch.databases.names import TableName, table_name
from tidemill.batch.places import Place
from tidemill.errors import ConfigError
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Reading", "between", "lanes", "reading"]

_MOST_LANES = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """A table (with an optional condition) or a query, and the column that parts it for reading side by side."""

    table: TableName | None
    query: str | None
    where: str | None
    partition_column: str | None

    @property
    def relation(self) -> str:
        """What stands after FROM. A query ends with its line, so that a comment at its end hides nothing of ours."""
        return self.table.sql if self.table is not None else f"(\n{self.query}\n) AS source"

    def select(self, columns: Sequence[str], *conditions: str) -> str:
        """The rows that were asked for, of them those of all `conditions`. `columns` are expressions."""
        found = [f"(\n{c}\n)" for c in (self.where, *conditions) if c]
        return f"SELECT {', '.join(columns)} FROM {self.relation}" + (f" WHERE {' AND '.join(found)}" if found else "")

    def told(self) -> dict[str, str]:
        """What was asked for, as the origin tells it."""
        pairs = {
            "table": self.table.shown if self.table is not None else None,
            "query": self.query,
            "where": self.where,
            "partition_column": self.partition_column,
        }
        return {k: v for k, v in pairs.items() if v is not None}


def reading(place: Place, *, partitions: bool) -> tuple[Reading, dict[str, str]]:
    """What the options of a place ask for, and the options that are left. Raises ConfigError for what does not fit."""
    rest = dict(place.options)
    table, query, where = rest.pop("table", None), rest.pop("query", None), rest.pop("where", None)
    column = rest.pop("partition_column", None) if partitions else None
    if (table is None) == (query is None):
        raise ConfigError(
            f"{place.shown}: expected either ?table=NAME or ?query=SELECT…, found {_found_words(table, query)}"
        )
    if where is not None and query is not None:
        raise ConfigError(f"{place.shown}: where goes with a table; a query has a WHERE of its own")
    name = table_name(table) if table is not None else None
    return Reading(name, query.rstrip().rstrip(";") if query is not None else None, where, column), rest


def _found_words(table: str | None, query: str | None) -> str:
    return "both" if table is not None and query is not None else "neither"


def between(name: str, bounds: Sequence[str], *, nulls: bool) -> list[str]:
    """Conditions (SQL) for the ranges between these bounds. Every row meets exactly one of them: the first and the last
    are open, and nulls, where there may be any, are in the first.
    """
    if not bounds:
        return [""]
    first = f"{name} < {bounds[0]}" + (f" OR {name} IS NULL" if nulls else "")
    middle = [f"{name} >= {a} AND {name} < {b}" for a, b in itertools.pairwise(bounds)]
    return [first, *middle, f"{name} >= {bounds[-1]}"]


def lanes() -> int:
    """How many connections read ranges side by side: one a core, but two at least, as each waits for the server."""
    return min(_MOST_LANES, max(2, cpu_budget()))
