"""What every runtime must do, over a package of each kind. A new runtime adds its case to `cases.py`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.runtimes import packages
from tests.runtimes.cases import Case
from tests.runtimes.compare import assert_same
from tidemill.errors import IntegrityError, PackageError
from tidemill.model.package import Package, open_package
from tidemill.model.signature import Input, Output
from tidemill.prediction.live import Live
from tidemill.prediction.result import Result
from tidemill.rows import Rows


def _outputs(live: Live) -> tuple[Output, ...]:
    return live.package.manifest.outputs


def _merged(parts: list[Result]) -> Result:
    return Result(Rows.concat([p.outputs for p in parts]), [q for p in parts for q in p.problems])


def test_gives_the_declared_outputs_for_every_row(case: Case, live: Live) -> None:
    rows = case.rows(live.intake, 33, 1)
    result = live.predict(rows)
    assert result.statuses() == ["ok"] * 33
    for output in _outputs(live):
        array = result.outputs[output.name]
        assert array.dtype == output.type.dtype
        assert array.shape == (33, *output.shape[1:])
    raw = live.runtime.run(rows)
    assert {o.name for o in _outputs(live) if o.source is None} <= raw.columns.keys()


def test_rows_one_at_a_time_are_the_rows_of_one_call(case: Case, live: Live) -> None:
    rows = case.rows(live.intake, 40, 2)
    single = _merged([live.predict(rows.slice(i, i + 1)) for i in range(40)])
    assert_same(single, live.predict(rows), _outputs(live))


@pytest.mark.parametrize("size", [2, 7, 16, 39])
def test_pieces_of_any_size_are_the_rows_of_one_call(case: Case, live: Live, size: int) -> None:
    rows = case.rows(live.intake, 40, 3)
    pieces = Live(live.package, live.runtime, call_rows=size).predict(rows)
    assert_same(pieces, live.predict(rows), _outputs(live))


def test_order_does_not_matter(case: Case, live: Live) -> None:
    rows = case.rows(live.intake, 50, 4)
    order = np.random.default_rng(0).permutation(50)
    shuffled = live.predict(rows.take(order))
    expected = live.predict(rows)
    assert_same(shuffled, Result(expected.outputs.take(order)), _outputs(live))


def test_threads_get_the_answers_that_one_would_get(case: Case, live: Live) -> None:
    calls = [case.rows(live.intake, 1 + i % 9, i) for i in range(60)]
    expected = [live.predict(c) for c in calls]
    together = threading.Barrier(6)

    def work(start: int) -> list[Result]:
        together.wait()
        return [live.predict(calls[(start + i) % 60]) for i in range(60)]

    with ThreadPoolExecutor(6) as pool:
        for start, found in zip(range(0, 60, 10), pool.map(work, range(0, 60, 10)), strict=True):
            for i, result in enumerate(found):
                assert_same(result, expected[(start + i) % 60], _outputs(live))


def test_no_rows_give_no_rows(case: Case, live: Live) -> None:
    result = live.predict(case.rows(live.intake, 5, 5).slice(0, 0))
    assert result.n == 0
    assert result.problems == []
    assert [a.dtype for a in result.outputs.columns.values()] == [o.type.dtype for o in _outputs(live)]


def test_changes_nothing_in_the_rows_it_is_given(case: Case, live: Live) -> None:
    rows = case.rows(live.intake, 12, 6)
    before = {name: array.copy() for name, array in rows.columns.items()}
    for array in [*rows.columns.values(), *rows.valid.values()]:
        array.flags.writeable = False  # as views of a request body and of Arrow buffers are
    assert live.predict(rows).statuses() == ["ok"] * 12
    for name, array in rows.columns.items():
        assert array.tobytes() == before[name].tobytes()


def test_its_version_is_part_of_the_fingerprint(case: Case, live: Live) -> None:
    assert live.fingerprint == live.package.fingerprint(live.runtime.version)
    assert live.fingerprint != live.package.fingerprint(live.runtime.version + ".1")
    assert any(digit in live.runtime.version for digit in "0123456789")


def test_loads_the_same_package_twice_alike(case: Case, live: Live) -> None:
    rows = case.rows(live.intake, 20, 8)
    again = Live.open(open_package(live.package.directory))
    assert again.fingerprint == live.fingerprint
    assert_same(again.predict(rows), live.predict(rows), _outputs(live))


def test_refuses_a_tampered_artifact(case: Case, tmp_path: Path) -> None:
    package = case.build(tmp_path / "p")
    name = package.manifest.runtime.artifact
    path = package.path(name)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=name):
        open_package(package.directory)


def rebuilt(
    package: Package,
    target: Path,
    *,
    artifact: bytes | None = None,
    inputs: Sequence[Input] = (),
    outputs: Sequence[Output] = (),
) -> Package:
    """The package with another artefact, or with inputs and outputs added to its signature."""
    manifest = package.manifest
    return packages.make(
        target,
        manifest.runtime.name,
        artifact or package.path(manifest.runtime.artifact).read_bytes(),
        [*manifest.inputs, *inputs],
        [*manifest.outputs, *outputs],
        spec={"trusted": manifest.runtime.trusted},
    )


def test_refuses_an_artifact_that_is_none(case: Case, tmp_path: Path) -> None:
    package = case.build(tmp_path / "p")
    with pytest.raises(PackageError, match=package.manifest.runtime.artifact):
        Live.open(rebuilt(package, tmp_path / "q", artifact=b"\x00 not a model \xff"))


def test_refuses_a_signature_that_is_not_the_models(case: Case, tmp_path: Path) -> None:
    moon = Input(name="moon_phase", datatype="FP32")
    with pytest.raises(PackageError, match="moon_phase"):
        Live.open(rebuilt(case.build(tmp_path / "p"), tmp_path / "q", inputs=[moon]))


def test_refuses_an_output_that_the_model_does_not_give(case: Case, tmp_path: Path) -> None:
    stars = Output(name="horoscope", datatype="FP32")
    with pytest.raises(PackageError, match="horoscope"):
        Live.open(rebuilt(case.build(tmp_path / "p"), tmp_path / "q", outputs=[stars]))
