"""Every answer goes to whom it belongs: answers with marks of their own, none crossed, over many pipelined connections.

`TIDEMILL_ISOLATION=10000000` asks for as many (`make isolation`); without it there are some.
"""

import os
from pathlib import Path

import pytest

from tests.realtime import packages
from tests.realtime.marks import Callers, Marker
from tests.realtime.serving import process

ANSWERS = int(os.environ.get("TIDEMILL_ISOLATION", "200000"))


@pytest.mark.timeout(60 + ANSWERS / 1000)
@pytest.mark.parametrize(("model", "share", "bad"), [("echo", 0.75, 0.0), ("echo_python", 0.25, 0.005)])
def test_no_answer_is_crossed(tmp_path: Path, model: str, share: float, bad: float) -> None:
    """On the event loop (ONNX), and from threads with calls among them whose rows make the model raise (Python)."""
    package = packages.echo(tmp_path) if model == "echo" else packages.echo_python(tmp_path)
    patient = {"max_wait": 60.0}  # what is refused on a busy machine shows nothing
    with process(tmp_path, [package], batching=patient) as server:
        callers = Callers(int(server.address.rpartition(":")[2]), Marker(model, 1, bad), 24, 2)
        callers.run(round(ANSWERS * share))
    assert (callers.merged_bad > 0) == (bad > 0)
