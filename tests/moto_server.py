"""AWS for tests: moto's server as a process of its own, spoken to over HTTP as AWS is."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["Aws", "aws", "moto_server"]

# It ends when whoever started it is gone, however that came about.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Aws:
    """A server's address, and the variables by which boto3, obstore and child processes find it."""

    endpoint: str
    environment: dict[str, str]

    def client(self, service: str) -> Any:
        """A boto3 client of the server."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def bucket(self) -> str:
        """A new bucket's name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client("s3").create_bucket(Bucket=name)
        return name


@contextmanager
def moto_server() -> Iterator[Aws]:
    """A server of one's own, which knows nothing yet."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            host, port = process.stdout.readline().split()
            endpoint = f"http://{host}:{port}"
            yield Aws(
                endpoint,
                {
                    "AWS_ENDPOINT_URL": endpoint,
                    "AWS_REGION": "us-east-1",
                    "AWS_DEFAULT_REGION": "us-east-1",
                    "AWS_ACCESS_KEY_ID": "testing",
                    "AWS_SECRET_ACCESS_KEY": "testing",
                    # Neither somebody's own profile nor the metadata of a machine in the cloud.
                    "AWS_CONFIG_FILE": os.devnull,
                    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                    "AWS_EC2_METADATA_DISABLED": "true",
                },
            )
        finally:
            process.stdin.close()


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    """One server for all tests of a worker, which AWS's own variables name for as long as there are tests."""
    with moto_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
