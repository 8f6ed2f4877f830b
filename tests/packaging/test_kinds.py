"""Each kind of source becomes a package whose samples reproduce through the path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import models
from tidemill.model.package import Package
from tidemill.model.samples import read_samples
from tidemill.prediction.columns import arrow_column
from tidemill.prediction.live import Live

BUILDERS = [
    models.onnx_trees,
    models.onnx_network,
    models.sklearn_pipeline,
    models.skops_pipeline,
    models.python_model,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)
def test_samples_reproduce(build: Callable[[Path], Package], models_dir: Path) -> None:
    package = build(models_dir)
    samples = read_samples(package)
    assert samples is not None
    inputs, expected = samples
    assert inputs.num_rows == 64
    live = Live.open(package)
    result = live.predict(live.intake.from_arrow(inputs))
    assert not result.problems
    for output in package.manifest.outputs:
        assert arrow_column(output, result.outputs[output.name]).equals(expected.column(output.name))
