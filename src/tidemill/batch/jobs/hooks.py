"""Hooks at a run's end: a web address that is told of it, and a command. A hook that fails changes nothing else."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, InvalidURL
from typing import Annotated, Any, Literal

import msgspec

from tidemill.batch.jobs.index import HookResult
from tidemill.batch.jobs.patience import within
from tidemill.batch.jobs.variables import filled
from tidemill.config import Config
from tidemill.errors import ConfigError

__all__ = ["Command", "Hooks", "Webhook", "run_hooks"]

End = Literal["held", "done", "failed", "cancelled", "over_budget"]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
_HOST = r"([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?"
_ADDRESS = rf"^https?://{_HOST}([/?][^\s\x00-\x1f\x7f]*)?\Z"
Address = Annotated[str, msgspec.Meta(pattern=_ADDRESS)]
Word = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
_PAUSE = 1.0


class Webhook(Config, frozen=True, kw_only=True):
    """An address that is POSTed the report as JSON, at most `attempts` times, each in `timeout` seconds. Only answers
    that may pass (408, 425, 429, 5xx) and lost connections are tried again. `on` are the ends to tell of (all).
    `${NAME}` in `url` and in `headers` is a variable of the environment, read when the run has ended.
    """

    url: Address
    headers: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[^\r\n]*\Z")]] = msgspec.field(default_factory=dict)
    timeout: Seconds = 10.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    on: tuple[End, ...] = ()


class Command(Config, frozen=True, kw_only=True):
    """A program with its arguments; no shell reads them. The report is its standard input, and `TIDEMILL_RUN_ID`,
    `TIDEMILL_JOB` and `TIDEMILL_STATE` are in its environment beside `env`. After `timeout` seconds it is killed, and
    whatever it started.
    """

    argv: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1)]
    env: dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")], Word] = msgspec.field(
        default_factory=dict
    )
    timeout: Seconds = 60.0
    on: tuple[End, ...] = ()


class Hooks(Config, frozen=True, kw_only=True):
    """What is told of the end of a run; a text or a list stands for the table."""

    webhook: Address | Webhook | None = None
    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1)] | Command | None = None


def run_hooks(hooks: Hooks, report: Mapping[str, Any]) -> list[HookResult]:
    """Tell of a run's end; `report` has its `run_id`, `job` and `state`. Never raises for what a hook does."""
    body = msgspec.json.encode(report)
    found = []
    if hooks.webhook is not None:
        hook = hooks.webhook if isinstance(hooks.webhook, Webhook) else Webhook(url=hooks.webhook)
        if not hook.on or report["state"] in hook.on:
            found.append(_post(hook, body))
    if hooks.command is not None:
        command = hooks.command if isinstance(hooks.command, Command) else Command(argv=hooks.command)
        if not command.on or report["state"] in command.on:
            found.append(_start(command, report, body))
    return found


def _post(hook: Webhook, body: bytes) -> HookResult:
    told = ""
    try:
        ready = _filled(hook)
    except ConfigError as error:
        return HookResult(kind="webhook", passed=False, attempts=0, told=str(error))
    for attempt in range(1, hook.attempts + 1):
        if attempt > 1:
            time.sleep(_PAUSE * 2 ** (attempt - 2))
        status, told = _once(ready, body)
        if status is not None and 200 <= status < 300:
            return HookResult(kind="webhook", passed=True, attempts=attempt)
        if status is not None and status not in (408, 425, 429) and status < 500:
            break
    # The path of an address may be its secret.
    host = re.split(r"[/?]", hook.url.partition("://")[2])[0]
    return HookResult(kind="webhook", passed=False, attempts=attempt, told=f"{host}: {told}")


def _filled(hook: Webhook) -> Webhook:
    """With its variables filled in. Raises ConfigError, which tells no value of them."""
    url = filled(hook.url)
    if re.match(_ADDRESS, url) is None:
        raise ConfigError("url: is no address once its variables are filled in")
    return msgspec.structs.replace(hook, url=url, headers={k: filled(v) for k, v in hook.headers.items()})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is sent elsewhere would arrive as a GET, and with its headers."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _once(hook: Webhook, body: bytes) -> tuple[int | None, str]:
    """One attempt: the status of the answer, or why there is none."""
    answered: list[int] = []
    try:
        within(hook.timeout, lambda: answered.append(_posted(hook, body)), "tidemill-webhook")
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        # What an address has that none may have is told with the whole of it.
        secret = isinstance(error, InvalidURL)
        return None, "no address" if secret else str(reason) or type(error).__name__
    return answered[0], f"answered {answered[0]}"


def _posted(hook: Webhook, body: bytes) -> int:
    headers = {
        "content-type": "application/json",
        "user-agent": f"tidemill/{importlib.metadata.version('tidemill')}",
        **hook.headers,
    }
    # The address is http or https, as its pattern wants.
    request = urllib.request.Request(hook.url, body, headers)  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=hook.timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _start(hook: Command, report: Mapping[str, Any], body: bytes) -> HookResult:
    names = {f"TIDEMILL_{name.upper()}": str(report[name]) for name in ("run_id", "job", "state")}
    try:
        # What it writes is for people, and standard output holds the run's own report.
        process = subprocess.Popen(
            hook.argv,
            env=os.environ | names | hook.env,
            stdin=subprocess.PIPE,
            stdout=_stderr(),
            stderr=_stderr(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        told = f"{hook.argv[0]}: {getattr(error, 'strerror', None) or error}"
        return HookResult(kind="command", passed=False, attempts=1, told=told)
    try:
        process.communicate(body, timeout=hook.timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        told = f"{hook.argv[0]}: was killed after {hook.timeout:g} s"
        return HookResult(kind="command", passed=False, attempts=1, told=told)
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        told = f"{hook.argv[0]}: ended with {process.returncode}"
        return HookResult(kind="command", passed=False, attempts=1, told=told)
    return HookResult(kind="command", passed=True, attempts=1)


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # replaced by something that is no file
        return subprocess.DEVNULL


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
