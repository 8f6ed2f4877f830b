"""`tidemill serve`: answer requests until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.console import pairs

__all__ = ["serve"]


def serve(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The packages to serve.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    port_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write HOST:PORT there once the server is ready.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Clients must show a certificate of this authority (PEM).")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="Callers need an API key of this file (see tidemill keys).")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Model calls at a time; all cores if left out.")
    ] = None,
    replicas: Annotated[
        str | None, typer.Option(metavar="MIN[:MAX]", help="Processes that serve; between the two as load asks for.")
    ] = None,
    balancer: Annotated[
        str | None, typer.Option(metavar="NAME", help="What spreads requests over them: auto, socket or envoy.")
    ] = None,
    management_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port for metrics and health, of loopback only; 0: a free one.")
    ] = None,
    lame_duck: Annotated[float, typer.Option(metavar="S", help="Seconds between not ready and not listening.")] = 1.0,
    grace: Annotated[float, typer.Option(metavar="S", help="Seconds to finish what is in flight.")] = 30.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A limit of a request or connection, as max_body_bytes=1000000."),
    ] = None,
) -> None:
    """Serve packages over HTTP: the Open Inference Protocol V2 and TF-Serving's REST form, on one port.

    Logs are JSON lines on stderr. SIGTERM or Ctrl-C drains and ends.
    """
    from tidemill.config import decode
    from tidemill.realtime import ServeOptions
    from tidemill.realtime import serve as run

    given = {
        "host": host,
        "port": port,
        "port_file": port_file,
        **_section("tls", cert=tls_cert, key=tls_key, client_ca=tls_client_ca),
        **_section("auth", keys=keys),
        **_replicas(replicas, balancer),
        "management": {"port": management_port},
        "access_log": access_log,
        "workers": workers,
        "lame_duck": lame_duck,
        "grace": grace,
        **_limits(pairs("--limit", limit, "max_rows=1000")),
    }
    run(directories, decode(given, ServeOptions, "serve"))


def _section(name: str, **flags: str | None) -> dict[str, object]:
    """What the flags given say of one section; nothing if none is."""
    given = {flag: value for flag, value in flags.items() if value is not None}
    return {name: given} if given else {}


def _replicas(text: str | None, balancer: str | None) -> dict[str, object]:
    """The section of replicas. Raises ConfigError for a number that is none, or a balancer of nothing."""
    from tidemill.errors import ConfigError
    from tidemill.realtime.replicas.options import replicas_of

    if text is None and balancer is not None:
        raise ConfigError(f"--balancer {balancer} spreads over replicas: say how many with --replicas")
    if text is None:
        return {}
    return {"replicas": replicas_of(text) | ({} if balancer is None else {"balancer": balancer})}


def _limits(given: dict[str, float]) -> dict[str, object]:
    """Each limit under the part of ServeOptions that it belongs to. Raises ConfigError for a name that is none."""
    import msgspec

    from tidemill.errors import ConfigError
    from tidemill.realtime.limits import HttpLimits
    from tidemill.realtime.options import RequestLimits

    parts: dict[str, type[msgspec.Struct]] = {"http": HttpLimits, "requests": RequestLimits}
    homes = {field.name: part for part, type_ in parts.items() for field in msgspec.structs.fields(type_)}
    unknown = [name for name in given if name not in homes]
    if unknown:
        raise ConfigError(f"--limit {unknown[0]}: no such limit; expected one of {', '.join(sorted(homes))}")
    whole = {name: int(number) if number.is_integer() else number for name, number in given.items()}
    return {part: {n: v for n, v in whole.items() if homes[n] == part} for part in parts}
