"""`job.toml`: a run that is made again and again: the options of `tidemill score`, and what is around them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec

from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.jobs.gate import Gate
from tidemill.batch.jobs.hooks import Hooks
from tidemill.batch.jobs.metrics import Metrics
from tidemill.batch.options import RUN_ID, Positive, ScoreOptions, Seconds
from tidemill.batch.places import Mode, parse_place
from tidemill.batch.targets import Guarantee, Target, open_target
from tidemill.config import Config, decode
from tidemill.errors import ConfigError

__all__ = ["GROUPED", "EngineTable", "Errors", "Job", "JobFile", "Limits", "read_job"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z"
Option = str | bool | int | float
_MOST_BYTES = 1 << 20
# Options of a run that a job file keeps in a table.
GROUPED = {
    "max_error_rate": ("errors", "max_rate"),
    "max_errors": ("errors", "max_rows"),
    "transient_tries": ("errors", "transient_tries"),
    "shard_tries": ("errors", "shard_tries"),
    "on_poisoned_shard": ("errors", "on_poisoned_shard"),
    "call_timeout": ("limits", "call_timeout"),
    "shard_timeout": ("limits", "shard_timeout"),
    "run_timeout": ("limits", "run_timeout"),
    "worker_memory": ("limits", "worker_memory"),
}


class Errors(Config, frozen=True, kw_only=True):
    """What may go wrong: `max_rate` and `max_rows` are the share and the number of rows that may become dead letters
    (none given: any). The others are those of `tidemill score`.
    """

    max_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    max_rows: Annotated[int, msgspec.Meta(ge=0)] | None = None
    transient_tries: Positive = 5
    shard_tries: Positive = 3
    on_poisoned_shard: Literal["fail", "quarantine"] = "fail"


class Limits(Config, frozen=True, kw_only=True):
    """Seconds that a model call, a try of a shard and a run may take, and bytes that a worker process may have."""

    call_timeout: Seconds | None = None
    shard_timeout: Seconds | None = None
    run_timeout: Seconds | None = None
    worker_memory: Positive | None = None


class EngineTable(EngineOptions, frozen=True, kw_only=True):
    """Where shards are scored. `price_per_hour` is what its machines cost together, in any currency."""

    price_per_hour: Annotated[float, msgspec.Meta(ge=0)] | None = None


class JobFile(Config, frozen=True, kw_only=True):
    """What a job file says.

    `source` and `sink` are places, or tables of a `uri` and its options (of a sink also `mode` and `key`). `guarantee`
    is the least that the sink must promise. The other options are those of `tidemill score`.
    """

    name: Annotated[str, msgspec.Meta(pattern=NAME)]
    package: str
    source: str | dict[str, Option]
    sink: str | dict[str, Option | list[str]]
    mode: Mode | None = None
    key: tuple[str, ...] = ()
    guarantee: Guarantee | None = None
    select: tuple[str, ...] = ()
    pass_through: tuple[str, ...] = ()
    dead_letters: str | None = None
    stage: str | None = None
    run_id: Annotated[str, msgspec.Meta(pattern=RUN_ID)] | None = None
    chunk_rows: Positive = 16_384
    call_rows: Positive | None = None
    workers: Positive | None = None
    errors: Errors = Errors()
    limits: Limits = Limits()
    engine: EngineTable = EngineTable()
    gate: Gate = Gate()
    hooks: Hooks = Hooks()
    metrics: Metrics = Metrics()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job file understood: what `tidemill score` is given, and what is around it. Paths are absolute.

    A run of `tidemill score` is one of a job without a name, of which nothing else is asked.
    """

    name: str = ""
    package: str
    source: str
    sink: str
    options: ScoreOptions
    guarantee: Guarantee | None = None
    price_per_hour: float | None = None
    gate: Gate = Gate()
    hooks: Hooks = Hooks()
    metrics: Metrics = Metrics()

    def target(self) -> Target:
        """Where its output becomes visible. Raises ConfigError, MissingExtra."""
        return open_target(parse_place(self.sink), self.options.mode, self.options.key)


def read_job(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> Job:
    """Read a job file, with single fields replaced (`errors.max_rate=0.1`, a TOML value or else a text).

    Relative paths start at the file's directory, those of `changes` at the working directory. Raises ConfigError naming
    every problem with its path.
    """
    file = Path(path)
    raw = _load(file)
    given = [_change(text) for text in changes]
    # Problems of the file are told before those of the changes, so that each is looked for where it stands.
    if not given:
        return _job(decode(raw, JobFile, file.name), file)
    for keys, value in given:
        _put(raw, keys, _from_here(keys, value))
    return _job(decode(raw, JobFile, f"{file.name} with --set"), file)


def _load(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"{file}: is no job file: it is larger than {_MOST_BYTES:,} bytes")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, nesting without end
        raise ConfigError(f"{file.name}: {error}") from None


def _change(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value`: the value as TOML where it is that, else as it stands."""
    name, equals, value = text.partition("=")
    keys = tuple(k.strip() for k in name.split("."))
    if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", k) for k in keys):
        raise ConfigError(f"--set {text!r}: expected FIELD=VALUE, as errors.max_rate=0.01")
    try:
        read = tomllib.loads(f"v = {value}")
    except (ValueError, RecursionError):
        return keys, value
    return keys, read["v"] if len(read) == 1 else value


def _put(raw: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    *tables, last = keys
    for i, key in enumerate(tables):
        inner = raw.setdefault(key, {})
        if not isinstance(inner, dict):
            if keys[:1] not in (("source",), ("sink",)):
                raise ConfigError(f"--set {'.'.join(keys)}: {'.'.join(keys[: i + 1])} is no table in the file")
            inner = raw[key] = {"uri": inner}
        raw = inner
    raw[last] = value


_PATH_FIELDS = frozenset(
    {"package", "source", "sink", "source.uri", "sink.uri", "stage", "dead_letters", "metrics.textfile"}
)


def _from_here(keys: tuple[str, ...], value: Any) -> Any:
    """Paths of the command line are meant from where it is."""
    return _anchored(value, Path.cwd()) if ".".join(keys) in _PATH_FIELDS and isinstance(value, str) else value


class _SinkOwn(Config, frozen=True, kw_only=True):
    """What of a sink's table is no option of its place."""

    mode: Mode | None = None
    key: tuple[str, ...] = ()


class _Sink(Config, frozen=True, kw_only=True):
    sink: _SinkOwn


def _job(file: JobFile, path: Path) -> Job:
    root = path.resolve().parent
    problems: list[str] = []
    own = _SinkOwn()
    sink = dict(file.sink) if isinstance(file.sink, dict) else file.sink
    if isinstance(sink, dict):
        try:
            given = {k: sink.pop(k) for k in _SinkOwn.__struct_fields__ if k in sink}
            own = decode({"sink": given}, _Sink, path.name).sink
        except ConfigError as error:
            problems += error.problems
    places = {}
    for name, place in (("package", file.package), ("source", file.source), ("sink", sink)):
        try:
            places[name] = _anchored(_uri(place), root)
            parse_place(places[name])
        except ConfigError as error:
            problems += [f"{path.name}: {name}: {p}" for p in error.problems]
    for name in ("mode", "key"):
        if getattr(own, name) and getattr(file, name):
            problems.append(f"{path.name}: {name}: is said in the sink's table, too; say it once")
    if problems:
        raise ConfigError(problems)
    options = {name: getattr(file, name) for name in ScoreOptions.__struct_fields__ if name not in GROUPED}
    options |= {name: getattr(getattr(file, table), field) for name, (table, field) in GROUPED.items()}
    options |= {
        "dead_letters": file.dead_letters and _anchored(file.dead_letters, root),
        "stage": file.stage and _anchored(file.stage, root),
        "mode": own.mode or file.mode or "create",
        "key": own.key or file.key,
        "engine": EngineOptions(**{f: getattr(file.engine, f) for f in EngineOptions.__struct_fields__}),
    }
    return Job(
        name=file.name,
        package=places["package"],
        source=places["source"],
        sink=places["sink"],
        options=ScoreOptions(**options),
        guarantee=file.guarantee,
        price_per_hour=file.engine.price_per_hour,
        gate=file.gate,
        hooks=file.hooks,
        metrics=msgspec.structs.replace(
            file.metrics, textfile=file.metrics.textfile and _anchored(file.metrics.textfile, root)
        ),
    )


def _uri(place: str | Mapping[str, Any]) -> str:
    """A place's text, with the options of its table as the query."""
    if isinstance(place, str):
        return place
    options = dict(place)
    uri = options.pop("uri", None)
    if not isinstance(uri, str):
        raise ConfigError("uri: required, a text, but " + ("missing" if uri is None else f"got {type(uri).__name__}"))
    if not options:
        return uri
    if not parse_place(uri).scheme:
        raise ConfigError(f"{min(options)}: a path takes no options; got {uri!r}")
    wrong = next((k for k, v in options.items() if isinstance(v, list)), None)
    if wrong is not None:
        raise ConfigError(f"{wrong}: expected a text, a number or a truth value, got a list")
    query = "&".join(f"{quote(k, safe='')}={quote(_text(v), safe='')}" for k, v in options.items())
    return f"{uri}{'&' if '?' in uri else '?'}{query}"


def _text(value: Option) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _anchored(place: str, root: Path) -> str:
    """A place whose relative path, if it has one, starts at a directory."""
    try:
        parsed = parse_place(place)
    except ConfigError:
        return place  # is told where it is used
    if not parsed.scheme:
        # The slash at the end of an output tells that it is a directory.
        return str(root / parsed.body) + ("/" if parsed.body.endswith("/") else "")
    if not parsed.local or not parsed.body.strip("/"):
        return place
    rest = place.removeprefix(f"{parsed.scheme}:")
    database = parsed.scheme in ("sqlite", "duckdb")
    # In `sqlite:///file.db` three slashes come before any path, in `sqlite:////file.db` before an absolute one.
    slashes = "///" if database and rest.startswith("///") else ""
    rest = rest.removeprefix(slashes)
    if rest.startswith(("/", "file://")):
        return place
    return f"{parsed.scheme}:{slashes}{quote(str(root)) if database else root}/{rest}"
