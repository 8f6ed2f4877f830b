"""A systemd unit for edge and on-premise machines: starts when ready, drains when stopped, can do nothing else."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.export.site import Site

__all__ = ["Host", "systemd"]

# Past the grace, for the process to end.
MARGIN = 5
SIZE = re.compile(r"[0-9]+[KMGT]?\Z")
# What systemd hides from a service, wherever the interpreter and the packages are.
HIDDEN = ("/home", "/root", "/run/user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the machine gives: `memory` as systemd writes it (2G), `cpu` cores if they are bounded, and the program."""

    memory: str = "2G"
    cpu: float | None = None
    program: Path | None = None


def systemd(site: Site, host: Host) -> dict[str, str]:
    """The unit and its `server.toml`, by file name. Raises ConfigError for what cannot be said in them."""
    if SIZE.match(host.memory) is None:
        raise ConfigError(f"memory: expected bytes as systemd writes them, as 512M or 2G, got {host.memory!r}")
    if host.cpu is not None and not 0 < host.cpu < math.inf:
        raise ConfigError(f"cpu: expected a number of cores above 0, got {host.cpu:g}")
    program = host.program or Path(sys.executable).with_name("tidemill")
    if any(sign in str(program) for sign in ' "%$\\'):
        raise ConfigError(f"{program}: a unit cannot name it; install Tidemill at a path without blanks and signs")
    unit = f"{site.name}.service"
    options = site.options
    stop = math.ceil(options.lame_duck + options.grace) + MARGIN
    start = math.ceil(options.replicas.start_timeout) if options.replicas is not None else 600
    seen = [program.parent.parent, Path(sys.base_prefix), *(one.directory.absolute() for one in site.packages)]
    if site.repository is not None:
        seen.append(site.repository.absolute())
    hidden = sorted({str(path) for path in seen if str(path).startswith(HIDDEN)})
    lines = [f"LoadCredential={secret.name}:{Path(secret.file).absolute()}" for secret in site.secrets] + [
        f"BindReadOnlyPaths={path}" for path in hidden
    ]
    if host.cpu is not None:
        lines.append(f"CPUQuota={round(host.cpu * 100)}%")
    config = site.at(f"/run/credentials/{unit}", counters_dir=f"/var/lib/{site.name}")
    return {unit: _unit(site, program, host.memory, start, stop, lines), f"{site.name}.toml": config}


def _unit(site: Site, program: Path, memory: str, start: int, stop: int, more: list[str]) -> str:
    own = "".join(f"{line}\n" for line in more)
    return f"""\
# Install: cp {site.name}.toml /etc/tidemill/, cp {site.name}.service /etc/systemd/system/,
# systemctl daemon-reload, systemctl enable --now {site.name}
[Unit]
Description=Tidemill serving {site.name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=notify
ExecStart={program} serve /etc/tidemill/{site.name}.toml
ExecReload=/bin/kill -HUP $MAINPID
TimeoutStartSec={start}
TimeoutStopSec={stop}
# The supervisor drains its replicas itself.
KillMode=mixed
Restart=on-failure
RestartSec=1
DynamicUser=yes
StateDirectory={site.name}
StateDirectoryMode=0700
UMask=0077
Environment=PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
MemoryMax={memory}
TasksMax=1024
LimitNOFILE=65536
LimitCORE=0
{own}
# It reads its packages, listens, and answers. Everything else is taken away.
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
PrivateDevices=yes
PrivateIPC=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
