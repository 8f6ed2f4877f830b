"""What a client says and understands, without I/O: one deadline over all attempts, metadata asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal
from urllib.parse import quote

import orjson

from tidemill.client.messages import Signature, error_of, infer_request, prediction_of, signature_of
from tidemill.client.retries import pause_before
from tidemill.client.steps import Lost, Reply, Send, Steps, Wait
from tidemill.errors import InputError, Late, NotFound, TidemillError
from tidemill.prediction.exchange import Prediction, to_rows

__all__ = ["Conversation"]

# Seconds between two questions of who waits for a server.
LOOK = 0.2


@dataclass(slots=True)
class Conversation:
    """One server: how long an answer may take, how often it is asked again, and what it told of its models."""

    timeout: float
    retries: int
    repeatable: bool | None
    binary: bool
    _signatures: dict[str, Signature] = field(default_factory=dict)

    def predict(
        self,
        model: str,
        data: Any,
        version: str | None,
        outputs: Sequence[str] | None,
        on_bad_row: Literal["raise", "partial"],
        timeout: float | None,
        priority: int,
    ) -> Steps[Prediction]:
        """Metadata, if the model is not known yet, and the inference."""
        if on_bad_row not in ("raise", "partial"):
            raise InputError(f"on_bad_row is {on_bad_row!r}, expected 'raise' or 'partial'")
        deadline = self._deadline(timeout)
        path = _path(model, version)
        signature = self._signatures.get(path)
        if signature is None:
            signature = self._signatures[path] = signature_of((yield from self._ask(deadline, "GET", path)))
        unknown = [name for name in outputs or () if name not in signature.outputs]
        if unknown:
            raise InputError(f"unknown output {unknown[0]!r}: the model has {', '.join(signature.outputs)}")
        rows = to_rows(signature.intake, data)
        headers, body = infer_request(rows, signature, outputs, priority, self.binary)
        repeatable = signature.repeatable if self.repeatable is None else self.repeatable
        try:
            reply = yield from self._ask(deadline, "POST", f"{path}/infer", headers, body, repeatable)
        except (InputError, NotFound):
            # Another version may answer by now, with another signature: it is asked for the next time.
            self._signatures.pop(path, None)
            raise
        return prediction_of(reply, signature, rows.n, on_bad_row == "partial")

    def document(self, path: str, timeout: float | None) -> Steps[dict[str, Any]]:
        """A JSON document."""
        reply = yield from self._ask(self._deadline(timeout), "GET", path)
        found: dict[str, Any] = _json(reply)
        return found

    def metadata(self, model: str, version: str | None, timeout: float | None) -> Steps[dict[str, Any]]:
        """What the server tells of a model."""
        return (yield from self.document(_path(model, version), timeout))

    def well(self, path: str, timeout: float | None) -> Steps[bool]:
        """Whether that path answers 200; nobody there is a no."""
        seconds = self._deadline(timeout) - monotonic()
        reply = yield Send("GET", path, {}, b"", seconds)
        if isinstance(reply, Reply) and reply.status in (401, 403, 404):
            raise error_of(reply)
        return isinstance(reply, Reply) and reply.status == 200

    def ready(self, model: str | None, version: str | None, timeout: float | None) -> Steps[bool]:
        """Whether the server, or one model, can answer."""
        path = "/v2/health/ready" if model is None else f"{_path(model, version)}/ready"
        return (yield from self.well(path, timeout))

    def wait_ready(self, model: str | None, version: str | None, timeout: float) -> Steps[None]:
        """Ask until it is ready. Raises Late."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            try:
                if (yield from self.ready(model, version, left)):
                    return
            except NotFound:  # the model may be loaded yet
                pass
            yield Wait(min(LOOK, max(0.0, deadline - monotonic())))
        raise Late(f"{model or 'the server'} was not ready within {timeout:g} s")

    def control(self, verb: Literal["load", "unload"], model: str, timeout: float | None) -> Steps[None]:
        """Load or unload a model of the server's repository. Both may be said twice."""
        path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
        yield from self._ask(self._deadline(timeout), "POST", path, {"content-type": "application/json"}, b"{}", True)
        for known in [one for one in self._signatures if one.startswith(_path(model, None))]:
            self._signatures.pop(known, None)

    def index(self, timeout: float | None) -> Steps[list[dict[str, Any]]]:
        """Every model of the server's repository, and its state."""
        headers = {"content-type": "application/json"}
        reply = yield from self._ask(self._deadline(timeout), "POST", "/v2/repository/index", headers, b"{}", True)
        found: list[dict[str, Any]] = _json(reply)
        return found

    def _deadline(self, timeout: float | None) -> float:
        return monotonic() + (self.timeout if timeout is None else timeout)

    def _ask(
        self,
        deadline: float,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        repeatable: bool = True,
    ) -> Steps[Reply]:
        """The answer of status 200 to 299, within the deadline over all attempts. Raises what the last failure was."""
        attempt = 0
        failed: Reply | Lost | None = None
        while True:
            left = deadline - monotonic()
            if left <= 0:
                raise Late("no time is left to send the request") if failed is None else error_of(failed)
            told = {**(headers or {}), "x-request-timeout-ms": str(max(1, int(left * 1e3)))}
            answer = yield Send(method, path, told, content, left)
            if isinstance(answer, Reply) and 200 <= answer.status < 300:
                return answer
            if answer is None:
                raise TypeError("a carrier answers what is sent")
            failed = answer
            attempt += 1
            pause = pause_before(attempt, failed, repeatable) if attempt <= self.retries else None
            if pause is None or monotonic() + pause >= deadline:
                raise error_of(failed)
            yield Wait(pause)


def _path(model: str, version: str | None) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _json(reply: Reply) -> Any:
    try:
        return orjson.loads(reply.body)
    except ValueError as error:
        raise TidemillError(f"the server's answer is no JSON: {error}") from None
