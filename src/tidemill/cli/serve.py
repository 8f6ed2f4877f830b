"""`tidemill serve`: answer requests until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.console import pairs

__all__ = ["serve"]


def serve(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR|FILE.toml]...", help="The packages to serve, or a file that says all of this."),
    ] = None,
    repository: Annotated[
        str | None, typer.Option(metavar="DIR", help="A directory of models: NAME/VERSION/ are packages.")
    ] = None,
    model_control: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="What changes the models: none (default), poll the repository, or explicit."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 8080 if left out; 0 takes a free one.")] = None,
    port_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write HOST:PORT there once the server is ready.")
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="One more port, where gRPC is expected on its own; 0: a free one."),
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(metavar="FILE", help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Clients must show a certificate of this authority (PEM).")
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="Callers need an API key of this file (see tidemill keys).")
    ] = None,
    access_log: Annotated[bool | None, typer.Option("--access-log", help="Log every request.")] = None,
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
    lame_duck: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds between not ready and not listening; 1 if left out.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds to finish what is in flight; 30 if left out.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="A limit of a request or connection, as max_body_bytes=1000000."),
    ] = None,
) -> None:
    """Serve packages over HTTP and gRPC: the Open Inference Protocol V2 and TF-Serving's REST form, on one port.

    A flag replaces what a file says. Logs are JSON lines on stderr. SIGTERM or Ctrl-C drains and ends.
    """
    from tidemill.errors import ConfigError
    from tidemill.realtime import ServeOptions
    from tidemill.realtime import serve as run
    from tidemill.realtime.server_file import read_options

    files = [place for place in places or () if place.suffix == ".toml"]
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: there is a file already ({files[0]}); give one")
    flags = {
        "model_control": model_control,
        "host": host,
        "port": port,
        "port_file": port_file,
        "grpc_port": grpc_port,
        "access_log": access_log,
        "workers": workers,
        "lame_duck": lame_duck,
        "grace": grace,
    }
    given = {
        **{name: value for name, value in flags.items() if value is not None},
        **_section("repository", directory=repository),
        **_section("tls", cert=tls_cert, key=tls_key, client_ca=tls_client_ca),
        **_section("auth", keys=keys),
        **_section("management", port=management_port),
        **_replicas(replicas, balancer),
        **_limits(pairs("--limit", limit, "max_rows=1000")),
    }

    def read() -> ServeOptions:
        return read_options(files[0] if files else None, given)

    run([place for place in places or () if place not in files], read(), read)


def _section(name: str, **flags: object) -> dict[str, object]:
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
    said = {part: {n: v for n, v in whole.items() if homes[n] == part} for part in parts}
    return {part: limits for part, limits in said.items() if limits}
