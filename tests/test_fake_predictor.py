"""The fake predictor: answers and refuses as the real server does, without the model."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests import models
from tests.assurance.support import twice
from tests.realtime import packages
from tests.realtime.serving import served
from tidemill import AsyncClient, Client
from tidemill.errors import InputError, ModelError, NotFound, Overloaded, RowsRejected, Unauthenticated
from tidemill.model.samples import read_samples
from tidemill.testing import FakePredictor

GOOD: dict[str, Any] = {"age": [41, 20], "city": ["Bern", "Genève"], "income": [1.0, 2.0]}
BAD: dict[str, Any] = {"age": [41, 200], "city": ["Bern", "Rome"], "income": [1.0, 2.0]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages.tabular(tmp_path_factory.mktemp("fake"))


def score(columns: dict[str, Any]) -> dict[str, Any]:
    return {"score": [int(age) * 2 for age in columns["age"]]}


def test_a_function_answers_in_place_of_the_model(home):
    fake = FakePredictor(home, score)
    with Client("http://fake", transport=fake) as client:
        assert client.predict("tabular", GOOD)["score"].tolist() == [82.0, 40.0]
    (call,) = fake.calls
    assert call["city"].tolist() == ["Bern", "Genève"]


def test_it_is_the_same_in_an_event_loop(home):
    async def run() -> list[float]:
        async with AsyncClient("http://fake", transport=FakePredictor(home, score)) as client:
            await client.wait_ready("tabular")
            found = await client.predict("tabular", GOOD)
            return found["score"].tolist()

    assert asyncio.run(run()) == [82.0, 40.0]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("data", [BAD, {"age": [1]}, {"agee": [1]}, {"age": ["x"], "city": ["Bern"], "income": [1]}])
def test_what_is_wrong_is_refused_in_the_words_of_the_server(home, data, binary):
    fake = FakePredictor(home, score)
    with served([home]) as real:
        errors: list[Exception] = []
        for url, transport in ((f"http://{real.address}", None), ("http://fake", fake)):
            with Client(url, transport=transport, binary=binary) as client, pytest.raises(InputError) as found:
                client.predict("tabular", data)
            errors.append(found.value)
    assert type(errors[0]) is type(errors[1])
    assert str(errors[0]) == str(errors[1])


def test_metadata_is_the_servers(home):
    with served([home]) as real, Client(f"http://{real.address}") as client:
        there = client.metadata("tabular")
    with Client("http://fake", transport=FakePredictor(home)) as client:
        assert client.metadata("tabular") == client.metadata("tabular", "1") == there
        assert client.server()["name"] == "tidemill"
        with pytest.raises(NotFound, match="the fake has the model 'tabular' only"):
            client.metadata("other")


def test_bad_rows_fail_alone(home):
    with Client("http://fake", transport=FakePredictor(home, score)) as client:
        found = client.predict("tabular", BAD, on_bad_row="partial")
    assert found.statuses == ("ok", "rejected")
    assert found["score"][0] == 82.0
    assert {problem.field for problem in found.problems} == {"age", "city"}


def test_failures_come_as_ordered_and_pass(home):
    fake = FakePredictor(home, score)
    fake.fail(Overloaded("full", retry_after=0.001), times=2)
    with Client("http://fake", transport=fake, retries=2) as client:
        assert client.predict("tabular", GOOD)["score"][0] == 82.0, "the third attempt"
        fake.fail(Overloaded("full", retry_after=0.001), times=3)
        with pytest.raises(Overloaded, match="full"):
            client.predict("tabular", GOOD)
        fake.fail(Unauthenticated("who?"))
        with pytest.raises(Unauthenticated, match="who"):
            client.predict("tabular", GOOD)
        assert client.predict("tabular", GOOD)["score"][0] == 82.0
    assert len(fake.calls) == 2, "a refused call is none"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda columns: {"score": np.zeros(3)}, "rows"),
        (lambda columns: {}, "score"),
        (lambda columns: {"score": ["high"] * len(columns["age"])}, "declared FP64"),
        (lambda columns: 1 / 0, "division by zero"),
    ],
)
def test_an_answer_that_is_none_fails_as_a_models_would(home, answer, says):
    with (
        Client("http://fake", transport=FakePredictor(home, answer)) as client,
        pytest.raises(ModelError, match=says),
    ):
        client.predict("tabular", GOOD)


def test_without_a_function_or_samples_answers_are_fillers(home):
    with Client("http://fake", transport=FakePredictor(home)) as client:
        assert client.predict("tabular", GOOD)["score"].tolist() == [0.0, 0.0]
        with pytest.raises(RowsRejected):
            client.predict("tabular", BAD)


@pytest.mark.parametrize("make", [models.onnx_trees, models.sklearn_pipeline, models.python_model])
def test_samples_are_answered_as_recorded(models_dir, make):
    """Packages with transforms and derived outputs: nothing of the model is run, and the answers are the model's."""
    package = make(models_dir)
    samples = read_samples(package)
    assert samples is not None
    order = pa.array(range(samples[0].num_rows - 1, -1, -1))
    with Client("http://fake", transport=FakePredictor(package.directory)) as client:
        for given, recorded in (samples, [part.take(order) for part in samples]):
            answered = client.predict(package.name, given).to_arrow()
            for column in recorded.schema.names:
                assert answered.column(column).to_pylist() == recorded.column(column).to_pylist()


def test_a_row_that_is_no_sample_gets_the_answer_of_its_place(tmp_path):
    home = twice(tmp_path).directory
    with Client("http://fake", transport=FakePredictor(home)) as client:
        assert client.predict("tiny", {"x": [7.0, 3.0, 7.5, 50.0, 8.0]})["score"].tolist() == [
            2.0,
            6.0,
            6.0,
            100.0,
            2.0,
        ]
