"""The reference pages say what the code says today."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jsonschema_rs
import pytest

from tidemill import errors
from tidemill.batch.job import JobFile
from tidemill.config import decode
from tidemill.errors import ConfigError
from tidemill.realtime import ServeOptions

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"


@pytest.mark.parametrize(
    "name",
    [
        "cli.md",
        "job.schema.json",
        "metrics.md",
        "model.schema.json",
        "profile.schema.json",
        "run-manifest.schema.json",
        "run-record.schema.json",
        "server.schema.json",
    ],
)
def test_a_reference_page_is_current(name: str) -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", REFERENCE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (REFERENCE / name).read_text(encoding="utf-8")
    assert written == module.pages()[name], "run `make docs`"


SERVER = {
    "host": "127.0.0.1",
    "repository": {"directory": "models", "load": ["churn"]},
    "aliases": {"churn": {"champion": "1"}},
    "endpoints": {"churn": {"default": "champion", "split": {"weights": {"champion": 95, "2": 5}}}},
    "auth": {"certificates": {"spiffe://corp/shop": ["infer:churn*", "read"]}},
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"host": "a host"}, False),
        ({"aliases": {"churn": {"the champion": "1"}}}, False),
        ({"auth": {"certificates": {"shop": ["everything"]}}}, False),
    ],
)
def test_the_schema_of_a_server_takes_what_the_server_takes(change: dict[str, object], right: bool) -> None:
    schema = json.loads((REFERENCE / "server.schema.json").read_text(encoding="utf-8"))
    assert jsonschema_rs.validator_for(schema).is_valid(SERVER | change) is right
    if right:
        decode(SERVER | change, ServeOptions, "server.toml")
    else:
        with pytest.raises(ConfigError):
            decode(SERVER | change, ServeOptions, "server.toml")


JOB = {
    "name": "nightly",
    "package": "model",
    "source": {"uri": "postgresql://dw/crm", "table": "subscribers"},
    "sink": {"uri": "s3://lake/scores", "mode": "overwrite", "key": []},
    "gate": {"max_null_rate": {"score": 0.1}},
    "hooks": {"webhook": "https://hooks.example/x", "command": {"argv": ["notify"]}},
}


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({}, True),
        ({"source": "in/"}, True),
        ({"errors": {"rate": 0.1}}, False),
        ({"gate": {"max_ks": 2}}, False),
        ({"hooks": {"command": []}}, False),
        ({"name": "a b"}, False),
    ],
)
def test_the_schema_of_a_job_takes_what_a_job_takes(change: dict[str, object], right: bool) -> None:
    schema = json.loads((REFERENCE / "job.schema.json").read_text(encoding="utf-8"))
    assert jsonschema_rs.validator_for(schema).is_valid(JOB | change) is right
    if right:
        decode(JOB | change, JobFile, "job.toml")
    else:
        with pytest.raises(ConfigError):
            decode(JOB | change, JobFile, "job.toml")


def test_the_errors_that_can_be_caught_are_drawn() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    kinds = [name for name in errors.__all__ if name != "Problem"]
    assert [name for name in kinds if f" {name} " not in page and f"\n{name}\n" not in page] == []
