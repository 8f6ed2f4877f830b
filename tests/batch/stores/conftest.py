"""A bucket of its own for each test, behind a proxy that can hurt what goes to and fro."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.batch.stores.proxy import Proxy, proxy
from tests.moto_server import Aws, aws

__all__ = ["aws"]


@dataclass
class Bucket:
    """A bucket seen by a client that shares no code with ours, and past the proxy."""

    name: str
    client: Any

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix)
        return [o["Key"] for o in found.get("Contents", [])]

    def read(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return data

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def send(self, key: str, path: Path) -> None:
        self.write(key, path.read_bytes())

    def uploads(self) -> list[str]:
        return [u["Key"] for u in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]


@pytest.fixture
def bucket(aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """What runs keep on this machine lies in the test's directory."""
    monkeypatch.chdir(tmp_path)
    return Bucket(aws.bucket(), aws.client("s3"))


@pytest.fixture
def hurting(aws: Aws, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy that the environment names as the store."""
    with proxy(aws.endpoint) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found
