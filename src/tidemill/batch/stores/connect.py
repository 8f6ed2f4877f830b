"""A bucket is opened by its scheme with what the environment says; what its library raises is told in one line."""

from __future__ import annotations

import ipaddress
import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from tidemill.batch.places import STORES
from tidemill.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["endpoint", "open_bucket", "plain_http", "reason", "split_uri"]

_BUCKET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{1,221}\Z")
_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?(/[A-Za-z0-9._~/-]*)?\Z"
)


def split_uri(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and the rest without a slash at its end.

    Raises ConfigError for what names no bucket, or is no key that every store and tool takes for the same.
    """
    scheme, _, body = uri.partition("://")
    bucket, _, rest = body.partition("/")
    if scheme not in STORES or not _BUCKET.match(bucket):
        # What was given is not shown: where a bucket should be, there may be a password.
        raise ConfigError(
            f"a store is expected as SCHEME://BUCKET/NAME: one of {', '.join(STORES)}, then letters, digits, '.', '_' "
            "and '-', and no credentials, which come from the environment"
        )
    rest = rest.rstrip("/")
    if rest and any(part in ("", ".", "..") or not part.isprintable() for part in rest.split("/")):
        raise ConfigError(
            f"{scheme}://{bucket}: a name in a store has no empty part, no '.' or '..' as one, and no control "
            f"characters; got {rest!r}"
        )
    return scheme, bucket, rest


def open_bucket(scheme: str, bucket: str) -> ObjectStore:
    """The bucket, with credentials, region and endpoint of the environment; nothing is asked of it yet.

    One bucket has one pool of connections as long as the environment says the same. Plain HTTP is for endpoints on
    this machine, or where AWS_ALLOW_HTTP says so. Raises ConfigError, MissingExtra.
    """
    said = tuple((k, v) for k, v in sorted(os.environ.items()) if k.startswith(("AWS_", "GOOGLE_", "AZURE_")))
    return _opened(scheme, bucket, said)


@lru_cache(maxsize=16)
def _opened(scheme: str, bucket: str, said: tuple[tuple[str, str], ...]) -> ObjectStore:
    del said  # the library reads it for itself
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ModuleNotFoundError:
        raise MissingExtra(f"{scheme}://", "s3") from None
    # The timeout is for a whole request with its body; an answer must begin, and go on, within the read timeout, which
    # counts from the beginning of what is sent.
    client: ClientConfig = {
        "timeout": timedelta(minutes=10),
        "read_timeout": timedelta(minutes=2),
        "connect_timeout": timedelta(seconds=5),
    }
    retry: RetryConfig = {
        "max_retries": 3,
        "retry_timeout": timedelta(minutes=2),
        "backoff": {"init_backoff": timedelta(milliseconds=50), "max_backoff": timedelta(seconds=2), "base": 2},
    }
    try:
        if scheme == "gs":
            return GCSStore(bucket, client_options=client, retry_config=retry)
        if scheme == "az":
            return AzureStore(bucket, client_options=client, retry_config=retry)
        url = endpoint()
        if url is None:
            return S3Store(bucket, client_options=client, retry_config=retry)
        if plain_http(url):
            client["allow_http"] = True
        return S3Store(bucket, endpoint=url, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigError(f"{scheme}://{bucket}: cannot be opened: {reason(error)}") from None


def endpoint() -> str | None:
    """The S3 endpoint that the environment names, as other AWS tools read it."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def reason(error: BaseException) -> str:
    """What an error of the library says, without its inner layers and in at most 240 characters."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    if text.startswith("Generic "):  # "… error: Error performing GET URL in 5ms, after 3 retries, …  - what was wrong"
        text = text.rpartition(" - ")[2].strip()
    return text if len(text) <= 240 else text[:237] + "..."


def plain_http(url: str) -> bool:
    """Whether an endpoint is plain HTTP. Raises ConfigError where that is another machine and nobody allowed it, or for
    what is no URL of a server.
    """
    found = _ENDPOINT.match(url)
    if found is None or int(found["port"] or 0) > 65_535:
        raise ConfigError("AWS_ENDPOINT_URL: expected http://HOST:PORT or https://HOST, and no user or password in it")
    if found["scheme"] == "https" or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
        return found["scheme"] == "http"
    host = found["host"].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"AWS_ENDPOINT_URL: {host} over plain http; use https, or set AWS_ALLOW_HTTP=true to allow it"
        )
    return True
