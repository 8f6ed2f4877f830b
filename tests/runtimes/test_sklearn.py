"""scikit-learn through skops: the estimator sees what it was fitted on, and answers by the names of its outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.runtimes import packages
from tests.runtimes.packages import PEOPLE_INPUTS, people, pipeline, sklearn_package
from tidemill.errors import PackageError
from tidemill.model.signature import Column, Input, Output
from tidemill.prediction.live import Live

LABEL = Output(name="label", datatype="BYTES")


def answer(live: Live, frame: pd.DataFrame):
    return live.predict(live.intake.from_arrow(pa.RecordBatch.from_pandas(frame, preserve_index=False)))


def test_a_data_frame_pipeline_answers_as_scikit_learn_does(tmp_path: Path) -> None:
    frame, target = people()
    model = pipeline(RandomForestClassifier(15, random_state=0)).fit(frame, target)
    outputs = [LABEL, Output(name="probabilities", datatype="FP64", shape=(-1, 2))]
    live = Live.open(sklearn_package(tmp_path / "p", model, PEOPLE_INPUTS, outputs))
    fresh, _ = people(60, seed=9)
    result = answer(live, fresh)
    assert not result.problems
    assert result.outputs["label"].tolist() == model.predict(fresh).tolist()
    assert result.outputs["probabilities"].tolist() == model.predict_proba(fresh).tolist()


def test_the_frame_has_the_order_it_was_fitted_in(tmp_path: Path) -> None:
    frame, target = people()
    model = pipeline(LogisticRegression()).fit(frame, target)
    live = Live.open(sklearn_package(tmp_path / "p", model, PEOPLE_INPUTS[::-1], [LABEL]))
    assert answer(live, frame).outputs["label"].tolist() == model.predict(frame).tolist()


def test_missing_text_is_nan_where_pandas_had_nan_and_none_where_it_had_none(tmp_path: Path) -> None:
    """CSV gives NaN, Parquet and SQL give None; to an encoder they are two categories."""
    words = np.array(["a", "b", "a", "b", None, "a"], object)
    target = [0, 1, 0, 1, 1, 0]
    for name, missing in (("none", None), ("nan", np.nan)):
        frame = pd.DataFrame({"w": [missing if w is None else w for w in words]}, dtype=object)
        model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, target)
        inputs = [Input(name="w", datatype="BYTES", nullable=True)]
        outputs = [Output(name="probabilities", datatype="FP64", shape=(-1, 2))]
        live = Live.open(sklearn_package(tmp_path / name, model, inputs, outputs))
        result = live.predict(live.intake.from_lists({"w": (None, ["a", None])}))
        assert not result.problems
        np.testing.assert_allclose(result.outputs["probabilities"], model.predict_proba(frame.iloc[[0, 4]]))


def test_an_imputer_of_none_is_given_none(tmp_path: Path) -> None:
    frame = pd.DataFrame({"w": np.array(["a", "b", "a", None], object)})
    model = make_pipeline(
        SimpleImputer(missing_values=None, strategy="constant", fill_value="b"), OrdinalEncoder(), LinearRegression()
    ).fit(frame, [0.0, 1.0, 0.0, 1.0])
    inputs = [Input(name="w", datatype="BYTES", nullable=True)]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="value", datatype="FP64")]))
    result = live.predict(live.intake.from_lists({"w": (None, [None, "a"])}))
    np.testing.assert_allclose(result.outputs["value"], [1, 0], atol=1e-12)


def test_integers_that_may_be_missing_are_floats_as_pandas_reads_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1.0, 2.0, np.nan, 4.0], "flag": np.array([True, False, True, False])})
    model = make_pipeline(SimpleImputer(), LinearRegression()).fit(frame, [1.0, 2.0, 3.0, 4.0])
    inputs = [Input(name="n", datatype="INT64", nullable=True), Input(name="flag", datatype="BOOL")]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="value", datatype="FP64")]))
    rows = live.intake.from_lists({"n": (None, [1, 2, None, 4]), "flag": (None, [True, False, True, False])})
    np.testing.assert_allclose(live.predict(rows).outputs["value"], model.predict(frame), atol=1e-12)


def test_a_nullable_column_has_one_dtype_whatever_the_call_holds(tmp_path: Path) -> None:
    """What one row holds must not decide how its neighbours are read."""
    frame = pd.DataFrame({"n": [1.0, 2.0, np.nan], "b": [True, False, None]})
    model = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(frame)
    inputs = [Input(name="n", datatype="INT64", nullable=True), Input(name="b", datatype="BOOL", nullable=True)]
    outputs = [Output(name="transformed", datatype="FP64", shape=(-1, 6))]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, outputs))
    together = live.intake.from_records([{"n": 1, "b": True}, {}])
    alone = together.slice(0, 1)
    whole = live.intake.from_records([{"n": 1, "b": True}])
    for rows in (together, alone, whole):
        assert live.runtime._frame(rows).dtypes.tolist() == frame.dtypes.tolist()
        assert live.predict(rows).outputs["transformed"][0].tolist() == [1, 0, 0, 0, 1, 0]
    assert live.predict(together).outputs["transformed"][1].tolist() == [0, 0, 1, 0, 0, 1]


def test_one_tensor_is_given_as_an_array(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(40, 3))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, features[:, 0] > 0)
    inputs = [Input(name="X", datatype="FP64", shape=(-1, 3))]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="label", datatype="BOOL")]))
    assert (
        live.predict(live.intake.from_arrays({"X": features})).outputs["label"].tolist()
        == model.predict(features).tolist()
    )


def test_one_tensor_of_named_columns_is_the_frame_it_was_fitted_on(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["c", "a", "b"])
    model = LinearRegression().fit(frame, frame["a"] * 2 - frame["b"])
    columns = tuple(Column(name=n) for n in ("a", "b", "c"))  # another order than it was fitted in
    inputs = [Input(name="X", datatype="FP64", shape=(-1, 3), columns=columns)]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="value", datatype="FP64")]))
    result = live.predict(live.intake.from_arrays({n: frame[n].to_numpy() for n in frame}))
    # BLAS rounds by the memory layout of its matrix.
    np.testing.assert_allclose(result.outputs["value"], model.predict(frame), rtol=0, atol=1e-12)


def test_scalar_inputs_of_a_model_fitted_on_an_array_stand_side_by_side(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(40, 2))
    model = LinearRegression().fit(features, features[:, 0])
    inputs = [Input(name="u", datatype="FP64"), Input(name="v", datatype="FP64")]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="value", datatype="FP64")]))
    result = live.predict(live.intake.from_arrays({"v": features[:, 1], "u": features[:, 0]}))
    assert result.outputs["value"].tolist() == model.predict(features).tolist()


def test_a_text_model_reads_documents(tmp_path: Path) -> None:
    documents = ["printer is on fire", "cannot log in", "fire in the printer room", "password forgotten"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(documents, ["hw", "access", "hw", "access"])
    inputs = [Input(name="text", datatype="BYTES")]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [LABEL]))
    result = live.predict(live.intake.from_lists({"text": (None, ["fire!", "log in"])}))
    assert result.outputs["label"].tolist() == model.predict(["fire!", "log in"]).tolist()


@pytest.mark.parametrize(
    ("output", "method"),
    [
        (Output(name="label", datatype="INT64"), "predict"),
        (Output(name="value", datatype="INT64"), "predict"),
        (Output(name="probabilities", datatype="FP64", shape=(-1, 2)), "predict_proba"),
        (Output(name="decision", datatype="FP64"), "decision_function"),
    ],
)
def test_each_output_is_a_method(output: Output, method: str, tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(30, 2))
    model = LogisticRegression().fit(features, (features[:, 1] > 0).astype(np.int64))
    inputs = [Input(name="X", datatype="FP64", shape=(-1, 2))]
    live = Live.open(sklearn_package(tmp_path / "p", model, inputs, [output]))
    found = live.predict(live.intake.from_arrays({"X": features})).outputs[output.name]
    assert found.tolist() == getattr(model, method)(features).tolist()


def test_a_sparse_transform_is_given_dense(tmp_path: Path) -> None:
    frame = pd.DataFrame({"w": np.array(["a", "b"], object)})
    outputs = [Output(name="transformed", datatype="FP64", shape=(-1, 2))]
    live = Live.open(
        sklearn_package(tmp_path / "p", OneHotEncoder().fit(frame), [Input(name="w", datatype="BYTES")], outputs)
    )
    result = live.predict(live.intake.from_lists({"w": (None, ["b", "a"])}))
    assert result.outputs["transformed"].tolist() == [[0, 1], [1, 0]]


def test_outputs_have_the_names_of_the_convention(tmp_path: Path) -> None:
    features = np.arange(8.0).reshape(4, 2)
    inputs = [Input(name="X", datatype="FP64", shape=(-1, 2))]
    model = SGDClassifier(random_state=0).fit(features, [0, 1, 0, 1])
    with pytest.raises(PackageError, match="output 'verdict': a scikit-learn model's outputs are named label, value,"):
        Live.open(sklearn_package(tmp_path / "p", model, inputs, [Output(name="verdict", datatype="INT64")]))
    with pytest.raises(PackageError, match="output 'probabilities': SGDClassifier has no predict_proba"):
        Live.open(sklearn_package(tmp_path / "q", model, inputs, [Output(name="probabilities", datatype="FP64")]))


def test_after_may_rename_what_the_model_gives(tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(30, 2))
    model = LogisticRegression().fit(features, features[:, 1] > 0)
    package = sklearn_package(
        tmp_path / "p",
        model,
        [Input(name="X", datatype="FP64", shape=(-1, 2))],
        [Output(name="risk", datatype="FP64")],
        files={"transform.py": "def after(rows):\n    return {'risk': rows['probabilities'][:, 1]}\n"},
        transform="transform.py",
    )
    live = Live.open(package)
    found = live.predict(live.intake.from_arrays({"X": features})).outputs["risk"]
    assert found.tolist() == model.predict_proba(features)[:, 1].tolist()


def test_a_column_that_before_leaves_out_is_named(tmp_path: Path) -> None:
    frame, target = people()
    package = sklearn_package(
        tmp_path / "p",
        pipeline(LogisticRegression()).fit(frame, target),
        PEOPLE_INPUTS,
        [LABEL],
        files={"transform.py": "def before(rows):\n    return {'age': rows['age'], 'city': rows['city']}\n"},
        transform="transform.py",
    )
    result = answer(Live.open(package), frame[:1])
    assert "no column 'income' for the model; transform.before gave age, city" in result.problems[0].message


def test_a_forest_computes_a_row_in_one_thread(tmp_path: Path) -> None:
    """Threads inside a call would add the trees' votes in any order; the package may ask for them."""
    package = packages.forest_package(tmp_path / "p")
    assert _forest(Live.open(package)).n_jobs == 1
    manifest = package.manifest
    asked = packages.make(
        tmp_path / "q",
        "sklearn",
        package.path("model.skops").read_bytes(),
        manifest.inputs,
        manifest.outputs,
        spec={"trusted": manifest.runtime.trusted, "threads": 2},
    )
    assert _forest(Live.open(asked)).n_jobs == 2


def _forest(live: Live) -> RandomForestClassifier:
    return live.runtime._methods[0][1].__self__.steps[-1][1]


def test_a_tree_must_be_trusted_by_name(tmp_path: Path) -> None:
    package = packages.forest_package(tmp_path / "p")
    assert "sklearn.tree._tree.Tree" in package.manifest.runtime.trusted
    other = packages.make(
        tmp_path / "q",
        "sklearn",
        package.path("model.skops").read_bytes(),
        package.manifest.inputs,
        package.manifest.outputs,
        spec={"trusted": ("numpy.dtype",)},
    )
    with pytest.raises(
        PackageError, match=r"not trusted: sklearn\.tree\._tree\.Tree; .* name them in runtime\.trusted"
    ):
        Live.open(other)
