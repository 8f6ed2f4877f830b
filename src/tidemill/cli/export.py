"""`tidemill export`: files for Kubernetes, KServe, container images and systemd."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.console import output

__all__ = ["export"]

export = typer.Typer(no_args_is_help=True, help="Write files for the platforms that run servers.")

What = Annotated[Path, typer.Argument(metavar="SERVER_TOML|DIR", help="How to serve, or one package.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to write; must not hold anything.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of all that is written; the package's if left out.")]


@export.command()
def kubernetes(
    what: What,
    image: Annotated[str, typer.Option(help="Image of the server, with the packages in it unless --claim is given.")],
    out: Out,
    name: Name = None,
    claim: Annotated[
        str | None, typer.Option(metavar="NAME", help="Volume claim that holds the packages as NAME/VERSION.")
    ] = None,
    cpu: Annotated[float, typer.Option(metavar="CORES", help="Cores of a pod.")] = 1.0,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of a pod.")] = "1Gi",
    concurrency: Annotated[
        float | None,
        typer.Option(metavar="N", help="Requests a pod holds at a time within its SLO; measured here if left out."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URI", help="Where KServe fetches packages: holds them as NAME/VERSION.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace to write into the manifests.")] = None,
) -> None:
    """Write manifests: Deployment, Service, disruption budget, autoscaler, pod monitor, and KServe's runtime."""
    from tidemill.export import Cluster, read_site, write
    from tidemill.export import kubernetes as manifests

    cluster = Cluster(
        image=image,
        claim=claim,
        cpu=cpu,
        memory=memory,
        concurrency=concurrency,
        storage=storage,
        namespace=namespace,
    )
    _tell(write(out, manifests(read_site(what, name), cluster)))


@export.command()
def container(
    what: What,
    out: Out,
    wheel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Wheel of Tidemill to install, if no index has this version.")
    ] = None,
) -> None:
    """Write the build context of a container image: Dockerfile, pinned requirements, server.toml, the packages."""
    from tidemill.export import container as context
    from tidemill.export import read_site, write

    _tell(write(out, *context(read_site(what), wheel)))


@export.command()
def systemd(
    what: What,
    out: Out,
    name: Name = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of the service at most.")] = "2G",
    cpu: Annotated[float | None, typer.Option(metavar="CORES", help="Cores of the service at most.")] = None,
    program: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The program tidemill on that machine; this one if left out.")
    ] = None,
) -> None:
    """Write a systemd unit, hardened, and its server.toml."""
    from tidemill.export import Host, read_site, write
    from tidemill.export import systemd as unit

    _tell(write(out, unit(read_site(what, name), Host(memory=memory, cpu=cpu, program=program))))


def _tell(paths: Iterable[Path]) -> None:
    for path in paths:
        output().print(str(path), soft_wrap=True)
