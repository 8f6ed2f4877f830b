"""What is to be run elsewhere: packages and how they are served, and the same as seen from inside a container."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from tidemill.errors import ConfigError
from tidemill.model.manifest import MANIFEST
from tidemill.model.package import Package, open_package
from tidemill.prediction.live import Live
from tidemill.prediction.profile import measure
from tidemill.realtime.models.options import EndpointOptions
from tidemill.realtime.options import ServeOptions
from tidemill.realtime.replicas.choice import concurrency_within
from tidemill.realtime.server_file import read_options

__all__ = ["Secret", "Site", "read_site"]

# A name that every platform takes: a DNS label, short enough for what is put behind it.
LABEL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Secret:
    """A file that is no part of an image: its name where it is mounted, and where it lies now."""

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Site:
    """Packages, the options that serve them, and the name (a DNS label) that what is written has."""

    name: str
    options: ServeOptions
    packages: tuple[Package, ...]

    @property
    def repository(self) -> Path | None:
        """The directory of the model repository, if one is served."""
        return None if self.options.repository is None else Path(self.options.repository.directory)

    @property
    def secrets(self) -> list[Secret]:
        """The files of certificates and keys that the options name."""
        found: list[Secret] = []
        tls, auth = self.options.tls, self.options.auth
        if tls is not None:
            found += [Secret("tls.crt", tls.cert), Secret("tls.key", tls.key)]
            if tls.client_ca is not None:
                found.append(Secret("ca.crt", tls.client_ca))
        if auth is not None and auth.keys is not None:
            found.append(Secret("keys", auth.keys))
        if auth is not None and auth.jwt is not None:
            jwt = auth.jwt
            found += [
                Secret(name, file)
                for name, file in (
                    ("jwt.pem", jwt.public_key),
                    ("jwks.json", jwt.jwks),
                    ("jwt.secret", jwt.secret_file),
                )
                if file is not None and "://" not in file
            ]
        return found

    @property
    def probed_plainly(self) -> bool:
        """Whether somebody without certificate and key may ask for health on the port of requests."""
        tls, auth = self.options.tls, self.options.auth
        asks = tls is not None and tls.client_ca is not None and tls.client_auth == "require"
        return not asks and (auth is None or "health" in auth.open)

    def at(self, secrets: str, models: str | None = None, **changes: Any) -> str:
        """`server.toml`, with secrets in one directory, packages in another (or where they are), and these changes."""
        plain = msgspec.to_builtins(msgspec.structs.replace(self.options, port_file=None, **changes))
        homes = {secret.file: f"{secrets}/{secret.name}" for secret in self.secrets}
        _moved(plain, homes)
        plain.pop("package", None)
        plain.pop("packages", None)
        if self.repository is not None:
            plain["repository"]["directory"] = models or str(self.repository.absolute())
        elif models is None:
            plain["packages"] = [str(package.directory.absolute()) for package in self.packages]
        else:
            plain["packages"] = [f"{models}/{home}" for home in self.homes]
        return tomli_w.dumps(plain)

    @property
    def homes(self) -> dict[str, Path]:
        """Where each package lies within the directory of models, as a model repository has it."""
        return {f"{package.name}/{package.version}": package.directory for package in self.packages}

    def concurrency(self, workers: int) -> float:
        """Requests that one server holds at a time within the SLO of its slowest model, measured on this machine."""
        found: list[float] = []
        for package in self.packages:
            own = self.options.endpoints.get(package.name, EndpointOptions())
            slo = own.p99 or package.manifest.slo.p99_ms / 1e3
            live = Live.open(package)
            most = (own.batching or self.options.merging).max_rows if live.divisible else 1
            found.append(concurrency_within(measure(live), slo, workers=workers, most_rows=most))
        return min(found)


def read_site(path: str | os.PathLike[str], name: str | None = None) -> Site:
    """Read a `server.toml` or the directory of a package; the name is the first package's if none is given.

    Raises ConfigError, PackageError or IntegrityError. Paths in a file are relative to the directory it is in.
    """
    place = Path(path)
    if place.suffix == ".toml":
        options = read_options(place, {})
        options.check()
    else:
        options = ServeOptions(package=str(place.absolute()))
    directories = [Path(one) for one in (options.package, *options.packages) if one is not None]
    if options.repository is not None:
        directories += sorted(found.parent for found in Path(options.repository.directory).glob(f"*/{MANIFEST}"))
        directories += sorted(found.parent for found in Path(options.repository.directory).glob(f"*/*/{MANIFEST}"))
    packages = tuple(open_package(directory) for directory in directories)
    if not packages:
        raise ConfigError(f"{place}: no package to serve is named; expected packages or a repository")
    made = name if name is not None else re.sub(r"[^a-z0-9]+", "-", packages[0].name.lower()).strip("-")
    if not LABEL.match(made):
        raise ConfigError(
            f"name {made!r}: expected at most 40 of a-z, 0-9 and -, beginning with a letter; give another with --name"
        )
    return Site(made, options, packages)


def _moved(plain: Any, homes: dict[str, str]) -> None:
    """Each path of a secret, wherever it stands in `tls` and `auth`, to its new home."""
    for section in ("tls", "auth"):
        table = plain.get(section, {})
        for one in (table, table.get("jwt", {})):
            for key, value in one.items():
                if isinstance(value, str) and value in homes:
                    one[key] = homes[value]
