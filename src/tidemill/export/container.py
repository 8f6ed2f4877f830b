"""A container image's build context: Dockerfile, pinned requirements, `server.toml`, and the packages themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.export.pod import CONFIG, MANAGEMENT, PORT, USER, Container, in_container
from tidemill.export.site import Site

__all__ = ["container"]

# The extra that a runtime of a package needs.
EXTRAS = {"onnx": (), "python": (), "sklearn": ("sklearn",), "lleaves": ("optimise",)}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")
ASKED = re.compile(r"^[A-Za-z0-9._-]+\s*\[([^\]]*)\]")


def container(site: Site, wheel: Path | None = None) -> tuple[dict[str, str], dict[str, Path]]:
    """The context's texts by file name, and what is to be copied into it.

    What is installed here is what is pinned. `wheel` is a wheel of Tidemill, for a version that no index has.
    Raises ConfigError for a package that needs what is not installed here.
    """
    extras = {extra for package in site.packages for extra in EXTRAS[package.manifest.runtime.name]}
    if site.options.auth is not None and site.options.auth.jwt is not None:
        extras.add("auth")
    needed = [asked for package in site.packages for asked in package.manifest.requirements]
    pins = pinned(extras, needed)
    copies = {f"models/{home}": directory for home, directory in site.homes.items()}
    own = f"tidemill=={metadata.version('tidemill')}"
    if wheel is not None:
        if not wheel.is_file():
            raise ConfigError(f"{wheel}: no such wheel")
        copies[wheel.name] = wheel
        own = f"./{wheel.name}"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    texts = {
        "Dockerfile": _dockerfile(version, wheel.name if wheel is not None else None),
        "requirements.txt": "".join(f"{pin}\n" for pin in [own, *pins]),
        "server.toml": in_container(site),
        ".dockerignore": "**/__pycache__\n",
    }
    return texts, copies


def pinned(extras: set[str], needed: list[str]) -> list[str]:
    """Everything that Tidemill with these extras stands on, and what packages ask for, as NAME==VERSION of here."""
    found: dict[str, str] = {}
    open_ = [("tidemill", frozenset(extras)), *((_name(asked), _extras_of(asked)) for asked in needed)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while open_:
        name, wanted = open_.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name in map(_name, needed) or name == "tidemill":
                raise ConfigError(f"{name} is not installed here, so there is no version to pin: install it") from None
            continue  # for another platform or Python, as its marker says
        found[name] = distribution.version
        open_ += _requires(distribution, wanted)
    found.pop("tidemill")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _requires(distribution: metadata.Distribution, wanted: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in distribution.requires or ():
        asked, _, marker = line.partition(";")
        of = EXTRA.search(marker)
        if of is None or of[1] in wanted:
            yield _name(asked), _extras_of(asked)


def _name(asked: str) -> str:
    found = NAME.match(asked.strip())
    return re.sub(r"[-_.]+", "-", found[0] if found else asked).lower()


def _extras_of(asked: str) -> frozenset[str]:
    found = ASKED.match(asked.strip())
    return frozenset(one.strip() for one in found[1].split(",")) if found else frozenset()


def _dockerfile(python: str, wheel: str | None) -> str:
    copied = f"requirements.txt {wheel}" if wheel is not None else "requirements.txt"
    ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{MANAGEMENT}/ready', timeout=2)"
    return f"""\
# syntax=docker/dockerfile:1
# Pin the base by digest where builds must be repeatable: --build-arg BASE=python@sha256:…
ARG BASE=python:{python}-slim-bookworm

FROM ${{BASE}} AS build
WORKDIR /build
COPY {copied} ./
RUN python -m venv /opt/tidemill \\
    && /opt/tidemill/bin/pip install --no-cache-dir --no-deps -r requirements.txt \\
    && /opt/tidemill/bin/python -m compileall -q /opt/tidemill/lib

FROM ${{BASE}}
COPY --from=build /opt/tidemill /opt/tidemill
COPY models {Container.models}
COPY server.toml {CONFIG}
ENV PATH=/opt/tidemill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER {USER}:{USER}
EXPOSE {PORT} {MANAGEMENT}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=2 \\
    CMD ["python", "-c", "{ask}"]
ENTRYPOINT ["tidemill"]
CMD ["serve", "{CONFIG}"]
"""
