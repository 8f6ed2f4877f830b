"""Hooks of a job on AWS Batch: no secret in the run's root, and no variable that containers do not have."""

from __future__ import annotations

import pytest

from tidemill.batch.engines.aws_batch.hooks import check_hooks
from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.jobs.hooks import Command, Hooks, Webhook
from tidemill.errors import ConfigError

URL = "https://hooks.example/T0"
SECRETS = {"HOOK": "arn:aws:secretsmanager:us-east-1:123456789012:secret:hook"}
TABLE = AwsBatchOptions(queue="spot", image="tidemill", stage="s3://lake/runs", secrets=SECRETS)


@pytest.mark.parametrize(
    ("hooks", "told"),
    [
        (
            Hooks(webhook=Webhook(url=URL, headers={"Authorization": "hunter2"})),
            "hooks.webhook.headers.Authorization: ",
        ),
        (Hooks(webhook=Webhook(url=URL, headers={"x-api-key": "hunter2"})), "hooks.webhook.headers.x-api-key: holds"),
        (Hooks(webhook=Webhook(url=URL, headers={"x-who": "Bearer hunter2"})), "hooks.webhook.headers.x-who: holds"),
        (Hooks(webhook=f"{URL}?run=1&token=hunter2"), "hooks.webhook.url: its field token: holds a secret"),
        (Hooks(command=Command(argv=("tell",), env={"PGPASSWORD": "hunter2"})), "hooks.command.env.PGPASSWORD: holds"),
        (Hooks(webhook=f"{URL}/${{PATH_OF_HOOK}}"), "the variable PATH_OF_HOOK, which the containers do not have"),
    ],
)
def test_what_may_not_lie_in_the_root_is_refused(hooks: Hooks, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_hooks(hooks, TABLE, "s3://lake/runs/r1")
    assert told in str(refused.value)
    assert "engine.aws_batch.secrets" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "hooks",
    [
        Hooks(),
        Hooks(webhook=URL, command=("tell", "crm")),
        Hooks(webhook=Webhook(url=f"{URL}/${{HOOK}}", headers={"Authorization": "Bearer ${HOOK}"})),
        Hooks(webhook=Webhook(url=URL, headers={"x-author": "crm", "x-job": "${AWS_BATCH_JOB_ID}"})),
        Hooks(command=Command(argv=("tell",), env={"CHANNEL": "crm"})),
    ],
)
def test_what_anybody_may_read_is_left_alone(hooks: Hooks) -> None:
    check_hooks(hooks, TABLE, "s3://lake/runs/r1")
