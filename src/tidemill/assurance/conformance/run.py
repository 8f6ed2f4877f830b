"""Finding out what a server has, and holding it to every case."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tidemill.assurance.conformance.case import Chapter, Failed, Level, Outcome, Result, Skipped, expect, held, of
from tidemill.assurance.conformance.grpc_about import GRPC
from tidemill.assurance.conformance.grpc_errors import GRPC_ERRORS
from tidemill.assurance.conformance.grpc_infer import GRPC_INFERENCE
from tidemill.assurance.conformance.hostile import HOSTILE
from tidemill.assurance.conformance.http import HTTP
from tidemill.assurance.conformance.rest_about import HEALTH, METADATA
from tidemill.assurance.conformance.rest_binary import BINARY
from tidemill.assurance.conformance.rest_errors import ERRORS, LEFT_OPEN
from tidemill.assurance.conformance.rest_infer import INFERENCE
from tidemill.assurance.conformance.subject import Subject, read_outputs
from tidemill.assurance.conformance.tensors import Tensor, differ, from_json, make, specs
from tidemill.assurance.conformance.wire import Grpc, Rest
from tidemill.errors import ConfigError

__all__ = ["CHAPTERS", "Report", "run"]

CHAPTERS: Sequence[Chapter] = (
    HEALTH,
    METADATA,
    INFERENCE,
    ERRORS,
    LEFT_OPEN,
    BINARY,
    HTTP,
    GRPC,
    GRPC_INFERENCE,
    GRPC_ERRORS,
)
# So many requests may run out of time before the server is left alone.
PATIENCE = 3
HINT = "give one that the model takes with --input FILE.json"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run. `server` is what it calls itself; `grpc` is "" where that was not asked."""

    url: str
    grpc: str
    server: str
    model: str
    results: Sequence[Result]

    @property
    def passed(self) -> bool:
        """Whether no required case failed."""
        return not any(r.outcome is Outcome.FAIL and r.case.level is Level.REQUIRED for r in self.results)

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        return sum(r.outcome is outcome and level in (None, r.case.level) for r in self.results)


def run(
    url: str,
    grpc: str | None = None,
    model: str | None = None,
    given: Path | None = None,
    hostile: bool = False,
) -> Report:
    """Hold a server to every case, one after another.

    `hostile` adds requests that have been seen to end a server's process.
    `given` is a file with an inference request whose inputs are used as the sample. Raises ConfigError where nobody
    answers, the file is no such request, or the server does not tell its models and `model` is None.
    """
    rest = Rest(url)
    calls = None if grpc is None else Grpc(grpc)
    try:
        if calls is not None:
            calls.connect()
        subject, server = _discover(rest, calls, url, model, None if given is None else _sample(given))
        results: list[Result] = []
        ended, late = "", 0
        for chapter in (*CHAPTERS, HOSTILE) if hostile else CHAPTERS:
            for case in chapter.cases:
                result = Result(chapter.name, case, Outcome.SKIPPED, ended)
                if not ended:
                    result = held(chapter.name, case, subject, time.monotonic)
                    late += result.late
                    if late == PATIENCE:
                        ended = f"{late} requests had no answer in time, the last at {chapter.name}: {case.name}"
                    elif result.lost and not rest.reachable():
                        ended = f"the server has ended at {chapter.name}: {case.name}"
                results.append(result)
    finally:
        rest.close()
        if calls is not None:
            calls.close()
    return Report(url, grpc or "", server, subject.model, results)


def _discover(
    rest: Rest, calls: Grpc | None, url: str, model: str | None, sample: Sequence[Tensor] | None
) -> tuple[Subject, str]:
    """The server as it describes itself. What it describes wrongly is left out: cases tell of it."""
    try:
        about = rest.send("GET", "/v2")
    except Failed as error:
        raise ConfigError(f"{url}: {error}") from None
    doc = _read(about.body)
    server = f"{doc.get('name', '')} {doc.get('version', '')}".strip() or "a server without a name"
    subject = Subject(rest, calls, model or _first_model(rest), extensions=_strings(doc.get("extensions")))
    try:
        described = _read(subject.get(subject.path()).body)
    except Failed:
        described = {}
    subject.versions = _strings(described.get("versions"))
    try:
        subject.inputs, subject.outputs = specs(described, "inputs"), specs(described, "outputs")
        subject.sample = sample or [make(one) for one in subject.inputs]
    except (Failed, Skipped) as reason:
        subject.sample, subject.why = sample, f"no sample: {reason}; {HINT}"
    if not subject.sample:
        subject.sample, subject.why = None, subject.why or f"the metadata describes no inputs: {HINT}"
    else:
        _try(subject, subject.sample)
    return subject, server


def _try(subject: Subject, sample: Sequence[Tensor]) -> None:
    """Have the sample answered, twice, to know what the same request is answered."""
    body = {"inputs": [t.json() for t in sample]}
    try:
        subject.answer = read_outputs(subject.post(body))
        expect(subject.answer, "no outputs")
        subject.repeats = not differ(read_outputs(subject.post(body)), subject.answer)
    except Failed as fault:
        subject.answer, subject.why = None, f"the sample is not answered ({fault}): {HINT}"


def _first_model(rest: Rest) -> str:
    """The first model of the repository index that is ready. Raises ConfigError."""
    try:
        found = _models(rest.send("POST", "/v2/repository/index", b"{}").json())
    except Failed:
        found = []
    if not found:
        raise ConfigError("the server does not tell its models: name one with --model NAME")
    return found[0]


def _models(index: Any) -> list[str]:
    return [of(one, "name", str) for one in index if one.get("state") == "READY"] if isinstance(index, list) else []


def _sample(given: Path) -> Sequence[Tensor]:
    try:
        doc = orjson.loads(given.read_bytes())
        return [from_json(tensor) for tensor in of(doc, "inputs", list)]
    except (Failed, orjson.JSONDecodeError) as error:
        raise ConfigError(f'{given}: expected an inference request, {{"inputs": […]}}: {error}') from None


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _strings(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
