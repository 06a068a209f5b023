"""Files that skl2onnx writes by its defaults open, give scikit-learn's predictions, and train."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import missing
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, Ridge, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC

from adabet_onnx import ModelError, Trainer, export_model, make_artifacts, open_model, score, select
from adabet_onnx.model.head import new_head
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.training.logits import logits_session

FEATURES = 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((200, FEATURES)) * [1, 10, 0.1, 1, 5, 2] + [0, 3, 0, -8, 0, 1]).astype(np.float32)
    binary = (x[:, 0] * x[:, 2] > 0).astype(int)
    return x, {"binary": binary, "classes": binary + (x[:, 1] > 3), "numbers": x[:, :3] @ rng.standard_normal((3, 2))}


def exported(model, x, y, folder, **options):
    """The fitted model, and the file that skl2onnx makes of it."""
    if importlib.util.find_spec("skl2onnx") is None:
        missing("skl2onnx is not installed")
    import skl2onnx

    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations do not converge
        model.fit(x, y)
        onnx.save(skl2onnx.to_onnx(model, x[:1], **options), path)
    return model, path


def logits_of(model, x):
    return logits_session(model.graph, model.logits, model.name).run(None, {model.inputs[0].name: x})[0]


def softmax(logits):
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def network():
    return MLPClassifier((16,), max_iter=20, random_state=0)


STEPS = {
    "plain": (),
    "standard": (StandardScaler,),
    "min_max": (StandardScaler, MinMaxScaler),
    "robust": (RobustScaler,),
    "max_abs": (MaxAbsScaler,),
    "normalizer": (StandardScaler, Normalizer),
    "l1": (lambda: Normalizer("l1"),),
    "binarizer": (lambda: Binarizer(threshold=0.25),),
    "polynomial": (StandardScaler, lambda: PolynomialFeatures(2)),
}
PREDICTORS = {
    "mlp": network,
    "logistic": LogisticRegression,
    "sgd": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "rest": lambda: OneVsRestClassifier(LogisticRegression()),
}
PROBABILITIES = [
    *((steps, predictor, "classes") for steps in STEPS for predictor in ("mlp", "logistic")),
    *(("standard", predictor, "classes") for predictor in PREDICTORS),
    *(("standard", predictor, "binary") for predictor in PREDICTORS if predictor != "rest"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "predictor", "targets"), dict.fromkeys(PROBABILITIES))
def test_logits_give_the_probabilities(steps, predictor, targets, data, tmp_path):
    x, labels = data
    built = make_pipeline(*(make() for make in STEPS[steps]), PREDICTORS[predictor]())
    fitted, path = exported(built, x, labels[targets], tmp_path)
    model = open_model(path)
    assert model.doubt is None
    np.testing.assert_allclose(softmax(logits_of(model, x)), fitted.predict_proba(x), atol=2e-5)
    outputs = {value.name: value for value in model.graph.graph.outputs}
    assert "output_probability" not in outputs
    if "output_label" in outputs:
        session = onnxruntime.InferenceSession(model.proto().SerializeToString())
        assert np.array_equal(session.run(["output_label"], {"X": x})[0], fitted.predict(x))


@pytest.mark.parametrize("targets", ["binary", "classes"])
@pytest.mark.parametrize("predictor", [LinearSVC, RidgeClassifier, Perceptron, SGDClassifier])
def test_scores_without_probabilities(predictor, targets, data, tmp_path):
    x, labels = data
    built = make_pipeline(StandardScaler(), predictor())
    options = {"options": {id(built.steps[-1][1]): {"raw_scores": True}}} if predictor is LinearSVC else {}
    fitted, path = exported(built, x, labels[targets], tmp_path, **options)
    logits = logits_of(open_model(path), x)
    decided = fitted.decision_function(x)
    if targets == "binary":
        decided = np.stack([-decided, decided], 1)[:, -logits.shape[1] :]
    np.testing.assert_allclose(logits, decided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "predictor", [LinearRegression, Ridge, lambda: MLPRegressor(hidden_layer_sizes=(8,), max_iter=20)]
)
def test_regressors(predictor, data, tmp_path):
    x, targets = data
    built = make_pipeline(StandardScaler(), predictor())
    several = not isinstance(built.steps[-1][1], MLPRegressor)  # skl2onnx flattens the output of a network
    fitted, path = exported(built, x, targets["numbers"] if several else targets["numbers"][:, 0], tmp_path)
    model = open_model(path)
    np.testing.assert_allclose(logits_of(model, x), fitted.predict(x).reshape(len(x), -1), rtol=1e-3, atol=1e-3)
    assert len(model.layers) == (2 if "MatMul" in {layer.op_type for layer in model.layers} else 1)


def test_a_scaler_before_every_layer_is_none(data, tmp_path):
    x, labels = data
    _, path = exported(make_pipeline(StandardScaler(), network()), x, labels["classes"], tmp_path)
    model = open_model(path)
    assert [layer.op_type for layer in model.layers] == ["MatMul", "MatMul"]
    assert {node.op_type for node in model.graph.graph if "Scaler" in (node.name or "")} == {"Sub", "Mul"}
    said = " ".join(model.notes)
    assert (
        "'output_probability', a sequence of maps from class to number (ZipMap), was replaced by its input tensor"
        in said
    )
    assert "'Scaler' (Scaler) by Sub and Mul" in said


def test_names_of_classes_are_kept_and_strings_dropped(data, tmp_path):
    x, labels = data
    names = np.array(["cat", "dog", "eel"])[labels["classes"]]
    fitted, path = exported(make_pipeline(StandardScaler(), network()), x, names, tmp_path)
    model = open_model(path)
    assert model.metadata("classes") == ["cat", "dog", "eel"]
    assert [value.name for value in model.graph.graph.outputs] == ["out_activations_result"]
    said = " ".join(model.notes)
    assert "0 is 'cat', 1 is 'dog', 2 is 'eel'" in said
    assert "output 'output_label', the class as a string, was dropped" in said
    assert np.array_equal(fitted.classes_[logits_of(model, x).argmax(1)], fitted.predict(x))


def test_numbers_of_classes_are_kept_where_they_are_no_indices(data, tmp_path):
    x, labels = data
    _, path = exported(make_pipeline(StandardScaler(), LogisticRegression()), x, 10 * labels["classes"] + 5, tmp_path)
    model = open_model(path)
    assert model.metadata("classes") == ["5", "15", "25"]
    assert "labels are indices of the named classes: 0 is '5'" in " ".join(model.notes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["network", "linear"])
def test_training_and_export(kind, data, tmp_path):
    x, labels = data
    built = make_pipeline(StandardScaler(), network() if kind == "network" else LogisticRegression())
    fitted, path = exported(built, x, labels["classes"], tmp_path)
    model = open_model(path)
    moved, y = x + np.float32(1), labels["classes"].astype(np.int64)
    scores = score(model, (moved, y), scoring=Scoring(samples=64))
    folder = tmp_path / "artifacts"
    make_artifacts(model, select(scores, strategy="all"), folder)
    before = softmax(logits_of(model, moved))
    trainer = Trainer(folder)
    trainer.fit((moved, y), epochs=8, batch_size=20, learning_rate=0.03)
    export_model(folder, tmp_path / "adapted.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "adapted.onnx")
    label, after = session.run(None, {"X": moved})
    np.testing.assert_allclose(before, fitted.predict_proba(moved), atol=2e-5)
    loss = [-np.log(found[np.arange(len(y)), y]).mean() for found in (before, after)]
    assert loss[1] < loss[0] - 0.02
    assert np.array_equal(label, after.argmax(1))


def test_a_new_head_leaves_old_labels_out(data, tmp_path):
    x, labels = data
    _, path = exported(make_pipeline(StandardScaler(), network()), x, labels["classes"], tmp_path)
    made = new_head(open_model(path), 5)
    assert [list(value.shape) for value in made.graph.graph.outputs] == [["N", 5]]


def test_several_labels_open_by_the_remedy(data, tmp_path):
    """Columns 1 - p and p of several labels are not two classes; the message's remedy opens the file."""
    x, labels = data
    several = np.stack([labels["binary"], (x[:, 1] > 3).astype(int)], 1)
    fitted, path = exported(network(), x, several, tmp_path)
    with pytest.raises(ModelError, match=r"'add_result1', but the outputs change .* logits='add_result1'"):
        open_model(path)
    found = logits_of(open_model(path, logits="add_result1"), x)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), fitted.predict_proba(x), atol=2e-5)


def one_node(op_type, outputs=1, *, dtype=TensorProto.FLOAT, **attributes):
    """An operator of ai.onnx.ml before a Gemm, on FEATURES columns."""
    weight = np.random.default_rng(1).standard_normal((FEATURES, 3)).astype(np.float32)
    nodes = [
        helper.make_node(op_type, ["x"], ["made"], op_type.lower(), domain="ai.onnx.ml", **attributes),
        helper.make_node("Gemm", ["made", "fc.weight"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", dtype, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [onnx.numpy_helper.from_array(weight, "fc.weight")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Scaler", {"offset": [1.0] * FEATURES, "scale": [0.5] * FEATURES}),
        ("Scaler", {"offset": [0.0], "scale": [1.0]}),
        ("Imputer", {"imputed_value_floats": [1.0] * FEATURES, "replaced_value_float": float("nan")}),
        ("Imputer", {"imputed_value_floats": [7.0], "replaced_value_float": 0.0}),
        ("Normalizer", {"norm": "L2"}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "MAX"}),
        ("Binarizer", {"threshold": 0.3}),
    ],
)
def test_operators_as_the_runtime_computes_them(op_type, attributes):
    proto = one_node(op_type, **attributes)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((9, FEATURES)).astype(np.float32)
    x[1], x[2, 3] = 0, 0
    if op_type == "Imputer" and np.isnan(attributes["replaced_value_float"]):
        x[2, 3] = np.nan
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    model = open_model(proto)
    assert all(node.domain == "" for node in model.graph.graph)
    np.testing.assert_allclose(logits_of(model, x), expected, rtol=1e-5, atol=1e-5)


def test_integers_into_a_scaler():
    proto = one_node("Scaler", dtype=TensorProto.INT64, offset=[2.0], scale=[0.25])
    x = np.arange(4 * FEATURES).reshape(4, FEATURES)
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(logits_of(open_model(proto), x), expected, rtol=1e-5)


def test_coefficients_that_contradict_each_other():
    proto = one_node("LinearRegressor", targets=FEATURES, coefficients=[1.0] * 7, intercepts=[0.0] * FEATURES)
    with pytest.raises(ModelError, match=r"'linearregressor' \(ai.onnx.ml.LinearRegressor\) has 7 coefficients and 6"):
        open_model(proto)


@pytest.mark.parametrize("targets", ["binary", "classes"])
@pytest.mark.parametrize("predictor", ["network", "logistic"])
def test_a_column_for_each_class(predictor, targets, data, tmp_path):
    """zipmap="columns" makes one output per class, none of which is the logits."""
    x, labels = data
    names = np.array(["no", "yes", "maybe"])[labels[targets]]
    make = {"network": lambda: MLPClassifier((8,), max_iter=20), "logistic": LogisticRegression}[predictor]
    built = make()
    fitted, path = exported(built, x, names, tmp_path, options={id(built): {"zipmap": "columns"}})
    model = open_model(path)
    np.testing.assert_allclose(softmax(logits_of(model, x)), fitted.predict_proba(x), atol=2e-5)
    assert len(model.graph.graph.outputs) == 1
    assert any("one column for each class, were replaced by" in note for note in model.notes)
    assert model.metadata("classes") == sorted(set(names))
