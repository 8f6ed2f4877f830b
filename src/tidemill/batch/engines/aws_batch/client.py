"""The border to AWS: boto3's clients, and its errors in Tidemill's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidemill.errors import ConfigError, MissingExtra, RunError

__all__ = ["Aws", "asking"]


class Aws:
    """Clients of AWS Batch and CloudWatch Logs, with the credentials and the region that boto3 finds.

    Raises MissingExtra without boto3, ConfigError where there is no region.
    """

    def __init__(self, region: str | None = None) -> None:
        try:
            import boto3
        except ImportError:
            raise MissingExtra("AWS Batch", "aws") from None
        session = boto3.Session(region_name=region)
        if session.region_name is None:
            raise ConfigError("AWS: no region; set AWS_REGION, or `region` in the profile of AWS_PROFILE")
        self.region: str = session.region_name
        with asking("make a client"):
            self.batch: Any = session.client("batch")
            self.logs: Any = session.client("logs")


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Around a request to AWS: `what` completes "cannot …". Raises ConfigError where nobody is known by the
    credentials, RunError for what was refused or got no answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise ConfigError(
            f"AWS: cannot {what}: no credentials; set AWS_PROFILE, or run where a role is given"
        ) from None
    except ClientError as error:
        told = error.response.get("Error", {})
        raise RunError(f"AWS: cannot {what}: {told.get('Code', 'error')}: {told.get('Message', error)}") from None
    except BotoCoreError as error:
        raise RunError(f"AWS: cannot {what}: {error}") from None
