"""Ways to a PostgreSQL server: psycopg for statements, ADBC for rows, and errors without passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tidemill.batch.places import Place
from tidemill.errors import ConfigError, MissingExtra, listing

if TYPE_CHECKING:
    import psycopg

    from tidemill.batch.databases.postgres_rows import PostgresRows

__all__ = ["PostgresLink"]

# libpq's own patience with a server that says nothing is endless, or hours. Seconds, and milliseconds.
_PATIENCE = {
    "connect_timeout": "15",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_PREFIX = re.compile(r"\A\[libpq\].*?(ERROR|FATAL): +")


class PostgresLink:
    """Opens connections to one database. `shown` names it in messages. Raises ConfigError for a URI that is none."""

    def __init__(self, place: Place, options: Mapping[str, str], application: str) -> None:
        try:
            import adbc_driver_manager as adbc
            import adbc_driver_postgresql  # noqa: F401 - what rows() will need
            import psycopg
            from psycopg import conninfo, pq
        except ImportError:
            raise MissingExtra("PostgreSQL", "postgres") from None
        self.shown = place.shown
        self._psycopg, self._adbc = psycopg, adbc
        known = [d.keyword.decode() for d in pq.Conninfo.get_defaults()]
        unknown = next((o for o in options if o not in known), None)
        if unknown is not None:
            ours = ["table", "query", "where", "partition_column", "swap"]
            raise ConfigError(
                f"{place.shown}: unknown option {unknown!r}; expected one of {listing(ours)}, or libpq's own"
            )
        uri = f"postgresql://{place.body}" + (f"?{urlencode(dict(options))}" if options else "")
        try:
            parts = conninfo.conninfo_to_dict(uri)
        except psycopg.Error:
            # libpq's words would show a password that was not encoded.
            raise ConfigError(
                f"{place.scheme}: not a connection URI; expected postgresql://user@host:port/database?table=NAME, "
                "special characters as %XX, the password best in PGPASSWORD or ~/.pgpass"
            ) from None
        self._secrets = [str(v) for k, v in parts.items() if v and k in ("password", "sslpassword")]
        self._conninfo = conninfo.make_conninfo(
            "",
            **_PATIENCE | parts | {"application_name": application, "client_encoding": "UTF8"},
        )

    @contextmanager
    def statements(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for statements, each of its own transaction unless one is begun. Raises psycopg.Error."""
        # Not psycopg's own context, which would log of a connection that is gone what is raised here as well.
        with closing(self._psycopg.connect(self._conninfo, autocommit=True)) as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in a transaction, which is committed at the end and taken back by an error."""
        with self.statements() as connection:
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            yield connection
            connection.execute("COMMIT")

    def rows(self) -> PostgresRows:
        """A connection for rows, in a transaction. Raises what `errors` names."""
        from tidemill.batch.databases.postgres_rows import PostgresRows

        return PostgresRows(self._conninfo)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What both kinds of connection raise."""
        return (self._psycopg.Error, self._adbc.Error)

    def gone(self, error: Exception) -> bool:
        """Whether the connection is no more, rather than a statement refused."""
        state = self.state(error)
        if state is not None:
            return state.startswith(("08", "57P"))
        if isinstance(error, self._psycopg.Error):
            return isinstance(error, self._psycopg.OperationalError)
        # Of ADBC there may be only words: the server's refusals say ERROR.
        return "ERROR: " not in str(error)

    def state(self, error: Exception) -> str | None:
        """The SQLSTATE of an error, where the server gave one."""
        found = getattr(error, "sqlstate", None)
        return found.strip("\0") or None if isinstance(found, str) else None

    def said(self, error: Exception) -> str:
        """An error in one line, without passwords."""
        diagnosis = getattr(error, "diag", None)
        text = (diagnosis.message_primary if diagnosis is not None else None) or str(error)
        if diagnosis is not None and diagnosis.message_detail and (self.state(error) or "").startswith("23"):
            text += f": {diagnosis.message_detail}"
        lines = [p.strip() for p in _PREFIX.sub("", text).splitlines()]
        line = next((p for p in lines if p), type(error).__name__).rstrip(".")
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line
