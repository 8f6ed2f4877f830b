"""What S3 offers beyond single requests: an upload in parts that is completed by condition, and those that were
abandoned, by age. Over boto3, since obstore knows neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tidemill.batch.stores.connect import endpoint, reason, split_uri
from tidemill.batch.stores.objects import PUT_BYTES, Entry, Objects
from tidemill.batch.stores.tries import pause
from tidemill.errors import ConfigError, MissingExtra, RunError

__all__ = ["Upload", "abandoned_uploads", "abort_uploads", "put_once"]

_PART = 32 << 20
_MOST_PARTS = 10_000
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that was begun and neither completed nor aborted."""

    key: str
    id: str
    begun: datetime


def put_once(objects: Objects, name: str, path: Path, attributes: dict[str, str], was: Entry | None) -> bool:
    """Make a local file the object `name`, at once: where there is none, or in place of `was`.

    False if somebody else's object is there: then nothing was changed. `attributes` must be this call's own, since
    they settle what became of a request without an answer. Raises the error of `objects`.
    """
    last: RunError | None = None
    for attempt in range(_TRIES):
        pause(attempt)
        try:
            if path.stat().st_size > PUT_BYTES and objects.scheme == "s3":
                _upload(objects, name, path, attributes, was)
            else:
                objects.put_if(name, path, attributes, was)
        except RunError as error:
            last = error
        there = objects.head(name)
        said = objects.attributes(name)
        if said is not None and attributes.items() <= said.items():
            return True
        if not _same(there, was):
            return False
    raise last or objects.error(f"{objects.uri}: {name} cannot be written: the store keeps no trace of it")


def _same(there: Entry | None, was: Entry | None) -> bool:
    return there is was is None or (there is not None and was is not None and there.etag == was.etag)


def _upload(objects: Objects, name: str, path: Path, attributes: dict[str, str], was: Entry | None) -> None:
    """In parts, completed by condition. A failed upload is aborted."""
    client, key = _client(), objects.key(name)
    from botocore.exceptions import BotoCoreError, ClientError

    size = path.stat().st_size
    step = max(_PART, -(-size // _MOST_PARTS))
    condition = {"IfNoneMatch": "*"} if was is None else {"IfMatch": was.etag}
    try:
        upload = client.create_multipart_upload(Bucket=objects.bucket, Key=key, Metadata=attributes)["UploadId"]
        where = {"Bucket": objects.bucket, "Key": key, "UploadId": upload}

        def send(number: int) -> dict[str, object]:
            with open(path, "rb") as file:
                file.seek((number - 1) * step)
                sent = client.upload_part(**where, PartNumber=number, Body=file.read(step))
            return {"PartNumber": number, "ETag": sent["ETag"]}

        try:
            with ThreadPoolExecutor(2, "tidemill-upload") as pool:
                parts = list(pool.map(send, range(1, -(-size // step) + 1)))
            # Not every store that conditions a put conditions this, too.
            if not _same(objects.head(name), was):
                raise objects.error(f"{objects.uri}: {name} was written by somebody else")
            client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                client.abort_multipart_upload(**where)
            raise
    except (BotoCoreError, ClientError) as error:
        raise objects.error(f"{objects.uri}: {name} cannot be written: {reason(error)}") from error


def abandoned_uploads(uri: str, older_than: timedelta, now: datetime) -> list[Upload]:
    """Uploads below s3://bucket/prefix that were begun long ago; nobody sees their bytes, and they are paid for.

    Google and Azure have a rule of the bucket for this, and nothing to ask: no uploads. Raises ConfigError, RunError,
    MissingExtra.
    """
    scheme, bucket, prefix = split_uri(uri)
    if scheme != "s3":
        return []
    client = _client()
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        found = [Upload(u["Key"], u["UploadId"], u["Initiated"]) for page in pages for u in page.get("Uploads", [])]
    except (BotoCoreError, ClientError) as error:
        raise RunError(f"{uri}: its uploads cannot be listed: {reason(error)}") from error
    below = [u for u in found if not prefix or u.key == prefix or u.key.startswith(prefix + "/")]
    return [u for u in below if now - u.begun > older_than]


def abort_uploads(uri: str, uploads: Iterable[Upload]) -> None:
    """Throw the bytes of uploads away; those that have ended meanwhile are well, too. Raises RunError."""
    client = _client()
    from botocore.exceptions import BotoCoreError, ClientError

    for upload in uploads:
        try:
            client.abort_multipart_upload(Bucket=split_uri(uri)[1], Key=upload.key, UploadId=upload.id)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise RunError(f"{uri}: an upload cannot be aborted: {reason(error)}") from error
        except BotoCoreError as error:
            raise RunError(f"{uri}: an upload cannot be aborted: {reason(error)}") from error


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError:
        raise MissingExtra("uploading to s3:// in parts", "s3") from None
    url = endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    # Stores that are not Amazon's want the bucket in the path, and many do not know the newer checksums.
    other: dict[str, Any] = {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"}
    try:
        config = Config(retries={"max_attempts": 4, "mode": "standard"}, **(other if url else {}))
        return boto3.client("s3", region_name=region, endpoint_url=url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"s3: cannot be opened: {reason(error)}") from None
