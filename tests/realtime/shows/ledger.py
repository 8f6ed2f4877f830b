"""A model that writes down each mark that it computes, and what became of requests by three accounts of them."""

from collections import Counter
from pathlib import Path
from typing import Any

from tests.packages import make
from tests.realtime.http_client import eventually
from tests.realtime.replicas.serving import Callers
from tidemill.model.signature import Input, Output
from tidemill.observability.reading import total

# Each process has its own file, and every line of it is there before the answer leaves.
SOURCE = """
import os
import time
import numpy as np


class Model:
    inputs = {"mark": ("INT64", [-1]), "seconds": ("FP32", [-1])}
    outputs = {"mark": ("INT64", [-1]), "pid": ("INT64", [-1])}
    thread_safe = True

    def load(self, directory):
        self.file = os.open(os.path.join(LEDGER, str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def predict(self, rows):
        marks = [mark for mark in rows["mark"].tolist() if mark > 0]
        os.write(self.file, "".join([f"{mark}\\n" for mark in marks]).encode())
        WORK
        return {"mark": rows["mark"], "pid": np.full(len(rows["mark"]), os.getpid())}
"""
WAITS = 'time.sleep(float(rows["seconds"].max()))'
COMPUTES = """
        until = time.thread_time() + float(rows["seconds"].max())
        while time.thread_time() < until:
            sum(range(1000))
"""


class Ledger:
    """Where the models of one server write, and where its processes count."""

    def __init__(self, directory: Path) -> None:
        self.marks = directory / "marks"
        self.counters = directory / "counters"
        self.marks.mkdir()

    def package(self, directory: Path, work: str = WAITS, **manifest: Any) -> Path:
        """`marked` 1, as in replicas/serving.py, but it writes down what it computes before it is done."""
        inputs = [Input(name="mark", datatype="INT64"), Input(name="seconds", datatype="FP32", minimum=0, maximum=60)]
        outputs = [Output(name="mark", datatype="INT64"), Output(name="pid", datatype="INT64")]
        source = SOURCE.replace("LEDGER", repr(str(self.marks))).replace("WORK", work)
        return make(directory / "marked", "python", source, inputs, outputs, name="marked", **manifest).directory

    def computed(self) -> Counter[int]:
        """How often each mark was computed."""
        return Counter(int(mark) for file in self.marks.iterdir() for mark in file.read_text().split())

    def counted(self) -> Counter[str]:
        """What the server's processes, the dead ones included, counted: requests by outcome."""
        found: Counter[str] = Counter()
        for one in total(self.counters).series.values():
            if one.family == "tidemill_requests_total":
                found[one.labels["outcome"]] += int(one.values[0])
        return +found


def account(callers: Callers, ledger: Ledger) -> None:
    """Every request that was sent has one end, the same by the accounts of callers, model and counters."""
    answered, lost = callers.total, len(callers.lost)
    assert callers.sent == answered + callers.refused + lost
    computed = ledger.computed()
    twice = [mark for mark, times in computed.items() if times > 1]
    assert not twice, "computed twice"
    assert answered <= computed.total() <= answered + lost
    # A process may be gone with what it computed and had not counted; nothing else is.
    eventually(lambda: answered <= ledger.counted()["ok"] <= answered + lost)
    assert ledger.counted()["overloaded"] == callers.refused
    if not lost:
        assert set(ledger.counted()) <= {"ok", "overloaded"}
