"""From scikit-learn: logits that give the predictions of the source, and the README's chain."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import onnxruntime
import pytest
from converter_runs import convert, need, operators, run_chain, values

from adabet_onnx import open_model

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def python():
    return need("sklearn", "joblib")


def fitted(steps, x, y):
    """The steps as a fitted Pipeline."""
    from sklearn.pipeline import make_pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations do not converge
        return make_pipeline(*steps).fit(x, y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 6)) * [1, 10, 0.1, 1, 5, 2] + [0, 3, 0, -8, 0, 1]
    return x, x[:, :3] @ rng.standard_normal((3, 4))


def test_chain(python, data, tmp_path):
    import joblib
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    x, targets = data
    y = np.digitize(targets[:, 0], np.quantile(targets[:, 0], [0.25, 0.5, 0.75]))
    layers = (16, 16, 16, 16, 16, 16, 16, 16, 16)
    joblib.dump(fitted([StandardScaler(), MLPClassifier(layers, max_iter=20)], x, y), tmp_path / "model.joblib")
    np.savez(tmp_path / "data.npz", x=(x + 0.5).astype(np.float32), y=y)
    adapted = run_chain(python, "scikit-learn", tmp_path)
    assert "scalers.0.offset" in values(adapted)
    model = open_model(tmp_path / "model.onnx")
    assert [layer.name for layer in model.layers] == [f"layers.{index}" for index in range(10)]
    assert model.metadata("classes") == ["0", "1", "2", "3"]


def test_every_kind_of_network_and_scaler(python, data, tmp_path):
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

    x, targets = data
    few = {"hidden_layer_sizes": (5, 4), "max_iter": 10}
    cases = {
        "binary": ([MinMaxScaler((-1, 1)), MLPClassifier(activation="tanh", **few)], targets[:, 0] > 0),
        "labels": ([MaxAbsScaler(), MLPClassifier(activation="logistic", **few)], targets > 0),
        "regressor": ([RobustScaler(), StandardScaler(with_std=False), MLPRegressor(**few)], targets[:, 0]),
        "regressors": ([StandardScaler(with_mean=False), MLPRegressor(activation="identity", **few)], targets),
    }
    models = {name: fitted(steps, x, y) for name, (steps, y) in cases.items()}
    for name, model in models.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(model))
    found = convert(python, "from_sklearn", *([f"{name}.pkl", "-o", f"{name}.onnx"] for name in models), cwd=tmp_path)
    for (name, model), (code, said) in zip(models.items(), found, strict=True):
        assert code == 0, said
        assert "runs the code in it" in said
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        logits = session.run(None, {"x": x.astype(np.float32)})[0]
        assert logits.dtype == np.float32
        if name == "binary":
            assert "two logits -z/2 and z/2" in said
            assert (logits.argmax(1) == model.predict(x)).mean() > 0.99  # except ties due to rounding
        elif name == "labels":
            assert ((logits > 0) == model.predict(x)).mean() > 0.99
        else:
            expected = model.predict(x).reshape(len(x), -1)
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        assert operators(tmp_path / f"{name}.onnx").count("Gemm") == 3


def test_what_is_refused(python, data, tmp_path):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import MinMaxScaler

    x, targets = data
    y = targets.argmax(1)
    cases = {
        "logistic": (fitted([LogisticRegression()], x, y), "holds LogisticRegression, not an MLPClassifier"),
        "pca": (fitted([PCA(3), MLPClassifier(max_iter=2)], x, y), "has the step PCA"),
        "clip": (fitted([MinMaxScaler(clip=True), MLPClassifier(max_iter=2)], x, y), r"MinMaxScaler(clip=True)"),
        "fresh": (MLPClassifier(), "is not fitted"),
        "list": ([1, 2], "holds list"),
    }
    for name, (model, _) in cases.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(model))
    (tmp_path / "broken.pkl").write_bytes(b"\x80nonsense")
    expected = {name: (1, message) for name, (_, message) in cases.items()}
    expected |= {"broken": (1, "cannot be read"), "none": (2, "does not exist")}
    found = convert(python, "from_sklearn", *([f"{name}.pkl", "-o", "m.onnx"] for name in expected), cwd=tmp_path)
    for (code, message), (left, said) in zip(expected.values(), found, strict=True):
        assert left == code, said
        assert message in said
    assert not list(tmp_path.glob("*.onnx"))
