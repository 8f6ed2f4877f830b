"""Names in SQL: whatever comes from outside is quoted, never pasted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidemill.errors import ConfigError

__all__ = ["TableName", "literal", "quoted", "quoted_list", "split_names", "table_name"]


@dataclass(frozen=True, slots=True)
class TableName:
    """A table, and the schema it is in where one was given."""

    schema: str | None
    name: str

    @property
    def sql(self) -> str:
        """The name as SQL."""
        return quoted(self.name) if self.schema is None else f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def marked(self) -> str:
        """The name as SQL of a statement that has `%s` for its parameters."""
        return self.sql.replace("%", "%%")

    @property
    def shown(self) -> str:
        """The name for people."""
        return self.name if self.schema is None else f"{self.schema}.{self.name}"

    def beside(self, name: str) -> TableName:
        """Another table of the same schema."""
        return TableName(self.schema, name)


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL takes it. PostgreSQL's escapes are spelled out, whatever its settings say of backslashes."""
    if "\\" in text:
        return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"


def quoted_list(names: Iterable[str]) -> str:
    """Names as SQL takes them, with commas between."""
    return ", ".join(quoted(n) for n in names)


def split_names(text: str, separator: str, what: str) -> list[str]:
    """Names as people write them: taken as they stand, or in double quotes where the separator is in them.

    Raises ConfigError, which calls the text `what`, for an empty name or a quote that is not closed.
    """
    names: list[str] = []
    rest = text
    while True:
        if rest.startswith('"'):
            name, rest = _unquoted(rest, text, what)
            if rest and not rest.startswith(separator):
                raise ConfigError(f"{what}: {text!r}: expected {separator!r} after a quoted name, found {rest[0]!r}")
        else:
            name, found, after = rest.partition(separator)
            rest = found + after
        if not name or "\0" in name:
            raise ConfigError(f"{what}: {text!r} has an empty name in it, or one that no database takes")
        names.append(name)
        if not rest:
            return names
        rest = rest.removeprefix(separator)


def _unquoted(rest: str, text: str, what: str) -> tuple[str, str]:
    name = ""
    while True:
        inner, found, rest = rest[1:].partition('"')
        if not found:
            raise ConfigError(f"{what}: {text!r}: a double quote is not closed")
        name += inner
        if not rest.startswith('"'):
            return name, rest
        name += '"'


def table_name(text: str) -> TableName:
    """The table of `table=`: `name` or `schema.name`, a name that holds a dot in double quotes. Raises ConfigError."""
    names = split_names(text, ".", "table")
    if len(names) > 2:
        raise ConfigError(
            f'table: {text!r} has {len(names)} parts; expected name or schema.name ("a.b" if a dot is in it)'
        )
    return TableName(names[0] if len(names) == 2 else None, names[-1])
