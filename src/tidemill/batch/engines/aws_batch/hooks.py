"""What a job's hooks may say where everybody who reads the run's root reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.jobs.hooks import Command, Hooks, Webhook
from tidemill.batch.jobs.variables import names_secret, variables
from tidemill.errors import ConfigError

__all__ = ["check_hooks"]

_SCHEMES = re.compile(r"(basic|bearer|token|digest)\s", re.IGNORECASE)


def check_hooks(hooks: Hooks, table: AwsBatchOptions, root: str) -> None:
    """Raises ConfigError for a secret that would lie open in `root`, and for a variable that containers do not have."""
    problems = [
        f"{field}: holds a secret, which would lie open in {root}; {instead} by engine.aws_batch.secrets"
        for field, instead in _open_secrets(hooks)
    ]
    problems += [
        f"hooks.webhook: names the variable {name}, which the containers do not have; give it to them by "
        "engine.aws_batch.secrets"
        for name in dict.fromkeys(_variables(hooks.webhook))
        # What AWS itself sets begins so.
        if name not in table.secrets and not name.startswith("AWS_")
    ]
    if problems:
        raise ConfigError(problems)


def _variables(hook: str | Webhook | None) -> list[str]:
    texts = (hook.url, *hook.headers.values()) if isinstance(hook, Webhook) else (hook or "",)
    return [name for text in texts for name in variables(text)]


def _open_secrets(hooks: Hooks) -> Iterator[tuple[str, str]]:
    """Where they stand, and what to do instead."""
    named = "write ${NAME} in its place, and give NAME to the containers"
    if isinstance(hooks.webhook, Webhook):
        for name, value in hooks.webhook.headers.items():
            if not variables(value) and value and (names_secret(name) or _SCHEMES.match(value)):
                yield f"hooks.webhook.headers.{name}", named
    url = hooks.webhook.url if isinstance(hooks.webhook, Webhook) else hooks.webhook or ""
    for name, value in parse_qsl(url.partition("?")[2]):
        if names_secret(name) and not variables(value):
            yield f"hooks.webhook.url: its field {name}", named
    if isinstance(hooks.command, Command):
        for name, value in hooks.command.env.items():
            if names_secret(name) and value:
                yield f"hooks.command.env.{name}", "leave it out, and give it to the containers"
