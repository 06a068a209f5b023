# /// script
# requires-python = ">=3.10"
# dependencies = ["joblib", "numpy>=1.26", "onnx>=1.18", "onnxruntime>=1.17", "scikit-learn>=1.3"]
# ///
"""Convert an MLPClassifier or MLPRegressor of scikit-learn, alone or after scalers in a Pipeline, to ONNX.

  uv run converters/from_sklearn.py model.joblib -o model.onnx

or with pip: pip install joblib numpy onnx onnxruntime scikit-learn; python converters/from_sklearn.py ...

A pickle is best read by the release of scikit-learn that wrote it: uv run --with scikit-learn==1.4.2 ...

The graph gives logits, without the final softmax, logistic function or exponential. A binary classifier, which has one
logit z in scikit-learn, gets the two logits -z/2 and z/2, whose softmax is the same, so that it trains like any other.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from converting import IR_VERSION, OPSET, ConversionError, Feeds, ModelInput, failing, finish, parse, parser, run, say
from onnx import helper, numpy_helper

ACTIVATIONS = {"identity": None, "logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
SCALERS = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")


def main(arguments: list[str] | None = None) -> None:
    """Read, convert, compare and write."""
    argparser = parser(__doc__ or "")
    argparser.add_argument("model", type=Path, help="a file written by joblib.dump or pickle.dump; a pickle runs code")
    options = parse(argparser, arguments)
    if not options.model.is_file():
        argparser.error(f"{options.model} does not exist or is not a file")
    model = load(options.model)
    scalers, network = take_apart(model)
    if hasattr(network, "classes_") and options.classes is None:
        options.classes = [str(name) for name in network.classes_]
    if is_binary(network):
        say("The one logit z of this binary classifier becomes the two logits -z/2 and z/2, with the same softmax.")
    proto, named = build(scalers, network)
    x = ModelInput("x", (network.n_features_in_,))
    finish(
        proto,
        [x],
        lambda feeds: predicted(model, feeds["x"].astype(np.float64)),
        named,
        options,
        view=lambda logits: predictions_of(network, logits),
    )


def load(path: Path) -> Any:
    """Unpickle the file, which runs any code that it names."""
    say(f"{path} is a pickle, and reading a pickle runs the code in it: convert only files that you trust.")
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    with failing(f"{path} cannot be read"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = joblib.load(path)
    for warning in caught:
        if issubclass(warning.category, InconsistentVersionWarning):
            say(f"Warning: {warning.message}")
            break
    return model


def take_apart(model: Any) -> tuple[list[Any], Any]:
    """Return the scalers and the network of a model or Pipeline.

    Raises:
        ConversionError: the Pipeline has other steps, or is not fitted.
    """
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    *scalers, network = steps or [None]
    if not isinstance(network, (MLPClassifier, MLPRegressor)):
        raise ConversionError(
            f"the file holds {type(network).__name__}, not an MLPClassifier or MLPRegressor (or a Pipeline that ends "
            "in one). Other models of scikit-learn have no layers to retrain."
        )
    for scaler in scalers:
        if type(scaler).__name__ not in SCALERS or getattr(scaler, "clip", False):
            step = "MinMaxScaler(clip=True)" if getattr(scaler, "clip", False) else type(scaler).__name__
            raise ConversionError(
                f"the Pipeline has the step {step}; only {', '.join(SCALERS)} (without clip) are converted. Apply the "
                "others to the data itself, and convert the rest of the Pipeline (model[i:])."
            )
    for step in (*scalers, network):
        with failing("the model is not fitted"):
            check_is_fitted(step)
    return scalers, network


def offset_and_scale(scaler: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the offset that a fitted scaler subtracts and the scale that it then divides by, in float64."""
    scale = np.ones(scaler.n_features_in_) if scaler.scale_ is None else np.asarray(scaler.scale_)
    kind = type(scaler).__name__
    if kind == "MinMaxScaler":  # x * scale_ + min_
        return -scaler.min_ / scale, 1 / scale
    offset = None
    if kind == "StandardScaler" and scaler.with_mean:  # mean_ exists without it too
        offset = scaler.mean_
    elif kind == "RobustScaler":
        offset = scaler.center_
    return np.zeros(scaler.n_features_in_) if offset is None else np.asarray(offset), scale


def build(scalers: list[Any], network: Any) -> tuple[onnx.ModelProto, Feeds]:
    """Build the graph; return it and its parameters by name."""
    features = network.coefs_[0].shape[0]
    nodes: list[onnx.NodeProto] = []
    named: Feeds = {}
    value = "x"
    for index, scaler in enumerate(scalers):
        for operator, part, array in zip(("Sub", "Div"), ("offset", "scale"), offset_and_scale(scaler), strict=True):
            name = f"scalers.{index}.{part}"
            named[name] = np.asarray(array, np.float32)
            nodes.append(helper.make_node(operator, [value, name], [f"{name}d"], name=name))
            value = f"{name}d"
    last = len(network.coefs_) - 1
    for index, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        if index == last and is_binary(network):
            weight, bias = np.hstack([-weight / 2, weight / 2]), np.hstack([-bias / 2, bias / 2])
        layer = f"layers.{index}"
        named[f"{layer}.coefs"] = weight.astype(np.float32)
        named[f"{layer}.intercepts"] = bias.astype(np.float32)
        output = "logits" if index == last else f"{layer}.sum"
        nodes.append(helper.make_node("Gemm", [value, f"{layer}.coefs", f"{layer}.intercepts"], [output], name=layer))
        value = output
        activation = ACTIVATIONS[network.activation]
        if index != last and activation:
            value = f"{layer}.activation"
            nodes.append(helper.make_node(activation, [output], [value], name=value))
    outputs = named[f"layers.{last}.intercepts"].size
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(array, name) for name, array in named.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="scikit-learn"), named


def is_binary(network: Any) -> bool:
    """Return whether it is a classifier of two classes with one logit."""
    return network.out_activation_ == "logistic" and network.n_outputs_ == 1


def predicted(model: Any, x: np.ndarray) -> np.ndarray:
    """Return scikit-learn's predictions: probabilities, or a regressor's values as (N, outputs)."""
    values = model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)
    return np.asarray(values).reshape(len(x), -1)


def predictions_of(network: Any, logits: np.ndarray) -> np.ndarray:
    """Convert logits to the form of `predicted`."""
    if network.out_activation_ in ("identity", "exp"):  # exp: with the Poisson loss
        return np.exp(logits) if network.out_activation_ == "exp" else logits
    if network.out_activation_ == "logistic" and not is_binary(network):
        return 1 / (1 + np.exp(-logits))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    run(main)
