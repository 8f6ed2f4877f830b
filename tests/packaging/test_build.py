"""Options that shape the signature, what is refused before anything is opened, and the package as plain data."""

import json
import pickle
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import models
from tests.packaging.graphs import doubler
from tidemill.errors import ConfigError, PackageError
from tidemill.model.package import open_package
from tidemill.model.profile import read_profile
from tidemill.model.samples import read_samples
from tidemill.packaging import PackageOptions, describe, package_model, parse_bound, parse_fill
from tidemill.prediction.live import Live


def trees(models_dir: Path, out: Path, **options: object) -> Live:
    models.onnx_trees(models_dir)
    given = msgspec.convert(
        {"like": str(models.cancer_table(models_dir)), "drop": ["target"], **options}, PackageOptions
    )
    return Live.open(package_model(models_dir / "trees.onnx", out, given).package)


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["m.pkl", "m.joblib", "m.pickle", "m.onnx", "m.skops", "m.model"])
def test_a_pickle_is_never_loaded_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "m.joblib":
        joblib.dump(Exploding(), path)
    else:
        path.write_bytes(pickle.dumps(Exploding()))
    for kind in (None, "sklearn"):
        with pytest.raises(PackageError, match="a pickle runs code when it is read, and is never loaded"):
            package_model(path, tmp_path / "out", msgspec.convert({"kind": kind}, PackageOptions))


def test_what_is_not_recognised_asks_for_a_kind(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(doubler(tmp_path / "m.onnx", ["n", 2]).read_bytes())
    with pytest.raises(PackageError, match=r"m\.bin: not recognised as a model; say which with --kind onnx\|sklearn"):
        package_model(tmp_path / "m.bin", tmp_path / "out")
    package_model(tmp_path / "m.bin", tmp_path / "out", PackageOptions(kind="onnx"))
    with pytest.raises(PackageError, match=r"gone\.onnx: no such file; expected a model file"):
        package_model(tmp_path / "gone.onnx", tmp_path / "out2")
    with pytest.raises(PackageError, match=r"is a directory; expected a model file"):
        package_model(tmp_path, tmp_path / "out2")


def test_an_existing_package_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source, out = doubler(tmp_path / "m.onnx", ["n", 2]), tmp_path / "out"
    package_model(source, out, PackageOptions(version="1"))
    with pytest.raises(PackageError, match="exists; choose another --out, or pass --overwrite"):
        package_model(source, out, PackageOptions(version="2"))
    assert open_package(out).version == "1"
    package_model(source, out, PackageOptions(version="2", overwrite=True))
    assert open_package(out).version == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out"]


def test_ranges_are_remembered_and_are_limits_only_when_asked(models_dir: Path, tmp_path: Path) -> None:
    live = trees(models_dir, tmp_path / "free")
    assert all(c.minimum is None and c.maximum is None for c in live.intake.inputs[0].columns)
    profile = read_profile(live.package)
    assert profile is not None
    assert (profile.table, profile.rows, len(profile.columns)) == ("cancer.parquet", 569, 30)
    radius = profile.columns[0]
    assert (radius.name, radius.minimum, radius.maximum) == ("mean_radius", 6.981, 28.11)
    bound = trees(models_dir, tmp_path / "bound", learn_bounds=True, bounds={"mean_texture": [0, None]})
    first, second = bound.intake.inputs[0].columns[:2]
    assert (first.minimum, first.maximum) == (6.981, 28.11)
    assert (second.minimum, second.maximum) == (0, None)


def test_threshold_labels_and_top_k(models_dir: Path, tmp_path: Path) -> None:
    live = trees(models_dir, tmp_path / "out", labels=["malignant", "benign"], threshold=0.9, top_k=1)
    samples = read_samples(live.package)
    assert samples is not None
    outputs = live.predict(live.intake.from_arrow(samples[0])).outputs
    scores = outputs["probabilities"]
    assert (outputs["above_threshold"] == (scores[:, 1] >= np.float32(0.9))).all()
    assert outputs["top_labels"][:, 0].tolist() == np.array(["malignant", "benign"])[scores.argmax(axis=1)].tolist()
    assert (outputs["top_scores"][:, 0] == scores.max(axis=1)).all()


def test_slo_name_tolerance_and_entity_key_are_kept(models_dir: Path, tmp_path: Path) -> None:
    table = pq.read_table(models.cancer_table(models_dir))
    table = table.append_column("patient", pa.array(np.arange(table.num_rows)))
    pq.write_table(table, tmp_path / "t.parquet")
    live = trees(
        models_dir,
        tmp_path / "out",
        like=str(tmp_path / "t.parquet"),
        entity_key=["patient"],
        name="cancer",
        version="2026.1",
        p99_ms=5,
        timeout_ms=50,
        tolerance={"probabilities": 1e-6},
        samples=10,
        rows_independent=False,
    )
    manifest = live.package.manifest
    assert (manifest.name, manifest.version, manifest.entity_key) == ("cancer", "2026.1", ("patient",))
    assert (manifest.slo.p99_ms, manifest.slo.timeout_ms) == (5, 50)
    assert manifest.outputs[1].tolerance == 1e-6
    assert manifest.rows_independent is False
    samples = read_samples(live.package)
    assert samples is not None
    assert samples[0].num_rows == 10
    assert "patient" not in samples[0].schema.names


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"labels": ["a", "b", "c"]}, "--labels: 3 given, but probabilities has 2 scores a row"),
        ({"tolerance": {"score": 0.1}}, "--tolerance score: no such output; the model has label, probabilities"),
        (
            {"fill": {"mean_radius": 0.0}},
            "--fill mean_radius: it is a column of X, whose missing cells",
        ),
        ({"bounds": {"mean_radius": [2, 1]}}, "minimum 2.0 of mean_radius is above its maximum 1.0"),
        ({"version": "one two"}, "version 'one two': expected at most 64 of the letters"),
        ({"version": "1\n"}, "version '1\\n': expected at most 64 of the letters"),
        ({"name": "a b"}, "name 'a b': expected at most 128 of the letters A to Z and a to z, digits and . _ -"),
        ({"name": "a" * 129}, "expected at most 128 of the letters"),
        ({"tolerance": {"probabilities": -1.0}}, "tolerance: expected `float` >= 0.0, got -1.0"),
        ({"tolerance": {"probabilities": float("nan")}}, "tolerance: expected `float` >= 0.0, got nan"),
        ({"threshold": float("nan")}, "threshold must be a number, got nan"),
        ({"top_k": 3}, "top_k = 3 asks for more than the 2 scores of probabilities"),
        ({"include": ["weights.bin"]}, "--include is for python models, and trees.onnx is onnx: leave it out"),
        ({"trusted": ["a.B"]}, "--trusted is for sklearn models"),
        ({"p99_ms": 0}, "p99_ms"),
    ],
)
def test_options_that_contradict_the_model(
    models_dir: Path, tmp_path: Path, options: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        trees(models_dir, tmp_path / "out", **options)
    assert told in str(caught.value)
    assert "not used" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_options_about_a_table_need_one(tmp_path: Path) -> None:
    source = doubler(tmp_path / "m.onnx", ["n", 2])
    for options, flag in (
        (PackageOptions(drop=("x",)), "--drop"),
        (PackageOptions(learn_bounds=True), "--learn-bounds"),
    ):
        with pytest.raises(ConfigError, match=f"{flag} is about the table of --like, which was not given"):
            package_model(source, tmp_path / "out", options)


def test_rows_outside_given_bounds_are_no_samples(models_dir: Path, tmp_path: Path) -> None:
    live = trees(models_dir, tmp_path / "out", bounds={"mean_radius": [None, 10]})
    assert live.package.manifest.origin is not None
    assert any("rows tried are refused by the signature" in n for n in live.package.manifest.origin.notes)
    samples = read_samples(live.package)
    assert samples is not None
    assert max(samples[0].column("mean_radius").to_pylist()) <= 10


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("age=0:120", ("age", (0.0, 120.0))),
        ("a=b=1:", ("a=b", (1.0, None))),
        ("x=:1e3", ("x", (None, 1000.0))),
        ("age=0", None),
        ("0:1", None),
        ("x=a:b", None),
    ],
)
def test_bounds_are_parsed(text: str, parsed: object) -> None:
    if parsed is None:
        with pytest.raises(ConfigError, match="expected NAME=MINIMUM:MAXIMUM"):
            parse_bound(text)
    else:
        assert parse_bound(text) == parsed


@pytest.mark.parametrize(
    ("text", "value"), [("a=1", 1), ("a=1.5", 1.5), ("a=true", True), ("a=", ""), ("a=x=y", "x=y"), ("a", None)]
)
def test_fills_are_parsed(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(ConfigError, match="expected NAME=VALUE"):
            parse_fill(text)
    else:
        assert parse_fill(text) == ("a", value)
        assert type(parse_fill(text)[1]) is type(value)


def test_a_package_as_plain_data(models_dir: Path) -> None:
    package = models.sklearn_pipeline(models_dir)
    found = json.loads(json.dumps(describe(package)))
    assert (found["name"], found["version"], found["task"]) == ("pipeline", "1", "classification")
    assert found["fingerprint"] == Live.open(package).fingerprint
    assert found["samples"] == 64
    assert found["runtime"]["name"] == "onnx"
    assert found["runtime"]["version"].startswith("onnxruntime ")
    assert {f["name"] for f in found["files"]} == {"model.onnx", "samples.arrow", "profile.json"}
    assert all(f["bytes"] == package.path(f["name"]).stat().st_size for f in found["files"])
    home = next(i for i in found["inputs"] if i["name"] == "Home")
    assert home == {
        "name": "Home",
        "datatype": "BYTES",
        "shape": [-1],
        "nullable": True,
        "categories": ["ignore", "other", "owner", "parents", "priv", "rent"],
        "fill": "",
    }
    assert found["slo"] == {"p99_ms": 100.0, "timeout_ms": 30000.0}
    assert found["origin"]["kind"] == "sklearn"
