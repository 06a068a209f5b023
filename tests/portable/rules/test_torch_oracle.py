"""The torch oracle against other ONNX runtimes op by op, and its gradients against finite differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

torch = pytest.importorskip("torch", reason="the oracle runs graphs in PyTorch")

import torch_oracle  # noqa: E402

F32, I64 = np.float32, np.int64


def floats(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return np.random.default_rng(shape).uniform(low, high, shape).astype(F32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=I64)


def build(
    op: str, opset: int, inputs: Sequence[np.ndarray | None], attributes: dict[str, Any], outputs: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, float inputs being graph inputs and all others initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None and x.dtype == F32}
    weights = [
        numpy_helper.from_array(x, n) for n, x in zip(names, inputs, strict=True) if x is not None and x.dtype != F32
    ]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **attributes)],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n, x in feeds.items()],
        [helper.make_empty_tensor_value_info(y) for y in results],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    shaped = onnx.shape_inference.infer_shapes(model)
    for output in shaped.graph.output:  # onnxruntime wants element types, not shapes
        output.type.tensor_type.ClearField("shape")
    return shaped, feeds


def case(op: str, opset: int, *inputs: np.ndarray | None, outputs: int = 1, skip: str = "", **attributes: Any) -> Any:
    """`skip` names the runtime that gets this case wrong or lacks it in some release."""
    told = "-".join(f"{k}={v}" for k, v in attributes.items() if not isinstance(v, TensorProto))
    return pytest.param(op, opset, inputs, attributes, outputs, skip, id=f"{op}-{opset}-{told}".replace(" ", ""))


X = floats(2, 4, 7, 6)
BIG = floats(1, 2, 9, 10)
WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [0, 1, 2, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "VALID"},
]
CEIL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
PADDED_CEIL: dict[str, Any] = {
    "kernel_shape": [3, 3],
    "strides": [3, 2],
    "pads": [1, 1, 0, 1],
    "ceil_mode": 1,
}
TRIMMED: dict[str, Any] = {"kernel_shape": [2, 3], "strides": [3, 2], "pads": [0, 0, 1, 2], "ceil_mode": 1}
LOWER: dict[str, Any] = {"kernel_shape": [2, 4], "strides": [1, 3], "auto_pad": "SAME_LOWER"}
SOFTMAXES = ("Softmax", "LogSoftmax")
CASES = [
    # elementwise
    *[case(op, 13, X) for op in ("Abs", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")],
    *[case(op, 13, X, X[:, :1] + 3) for op in ("Add", "Div", "Mul", "Sub")],
    *[case(op, 13, np.abs(X) + F32(0.1)) for op in ("Log", "Sqrt")],
    *[case(op, 13, X, X[:1], X[..., :1]) for op in ("Sum", "Max", "Min")],
    case("Div", 14, ints(7, -7, 9), ints(2, 2, -4)),
    case("Pow", 13, np.abs(X), floats(6)),
    case("Pow", 13, X, ints(3)),
    case("Clip", 10, X, min=-0.5, max=1.0),
    case("Clip", 10, X, max=1.0),
    case("Clip", 13, X, np.array(-0.5, F32), np.array(1.0, F32)),
    case("Clip", 13, X, None, np.array(1.0, F32)),
    case("Clip", 13, X, np.array(0.0, F32)),
    case("Clip", 13, X),
    case("LeakyRelu", 13, X),
    case("LeakyRelu", 13, X, alpha=0.3),
    case("PRelu", 16, X, floats(4, 1, 1)),
    case("HardSigmoid", 13, X),
    case("HardSigmoid", 13, X * F32(4), alpha=0.3, beta=0.4),
    case("HardSwish", 14, X * F32(3)),
    case("Gelu", 20, X),
    case("Gelu", 20, X, approximate="tanh"),
    case("Equal", 13, ints(1, 2, 3), ints(1, 5, 3)),
    *(case(op, 16, ints(1, 2, 3), ints(1, 5, 2)) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(case(op, 16, X[0] > 0, X[1] > 0) for op in ("And", "Or", "Xor")),
    case("Not", 16, X > 0),
    case("Where", 16, X[0, 0] > 0, X, X[:1]),
    case("Cast", 13, X, to=TensorProto.INT32),
    case("Cast", 13, X, to=TensorProto.BOOL),
    case("Cast", 13, ints(1, 0, 3), to=TensorProto.FLOAT),
    case("Dropout", 7, X),
    case("Dropout", 13, X, np.array(0.5, F32)),
    # linear
    *[case("MatMul", 13, floats(*a), floats(*b)) for a, b in [((3, 4), (4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5))]],
    case("Gemm", 13, floats(3, 4), floats(4, 5), floats(5)),
    case("Gemm", 13, floats(4, 3), floats(5, 4), floats(3, 1), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", 13, floats(3, 4), floats(4, 5)),
    # convolutions
    case("Conv", 11, floats(2, 4, 11), floats(6, 2, 3), floats(6), group=2, dilations=[2], pads=[2, 1]),
    case("Conv", 11, X, floats(3, 4, 3, 3)),
    case("Conv", 11, X, floats(8, 1, 3, 2), floats(8), group=4, strides=[2, 1], pads=[0, 1, 2, 0]),
    case("Conv", 11, X, floats(3, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("Conv", 11, X, floats(3, 4, 2, 4), strides=[1, 3], auto_pad="SAME_LOWER"),
    case("Conv", 11, X, floats(3, 4, 2, 2), strides=[2, 2], auto_pad="VALID"),
    case("Conv", 11, floats(1, 2, 5, 6, 4), floats(3, 2, 2, 3, 2), pads=[1, 0, 1, 0, 1, 0], strides=[1, 2, 1]),
    case("ConvTranspose", 11, floats(2, 4, 5), floats(4, 3, 3), floats(3), strides=[2], output_padding=[1]),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), floats(2), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), strides=[2, 3], pads=[0, 1, 2, 0], output_padding=[1, 2]),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), skip="reference", group=2, dilations=[2, 1]),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", 11, X, floats(4, 2, 4, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), strides=[2, 2], auto_pad="VALID"),
    case("ConvTranspose", 11, X, floats(4, 2, 3, 3), strides=[2, 2], output_shape=[14, 12], skip="reference"),
    # pools
    *[case("MaxPool", 12, BIG, **window) for window in (*WINDOWS, CEIL, PADDED_CEIL)],
    *[case("AveragePool", 11, BIG, **window) for window in (*WINDOWS, CEIL)],
    *[case("AveragePool", 11, BIG, count_include_pad=1, **window) for window in WINDOWS],
    *[case("MaxPool", 12, BIG, skip="reference", **LOWER), case("AveragePool", 11, BIG, **LOWER)],
    case("AveragePool", 11, BIG, skip="reference", **PADDED_CEIL),
    # onnxruntime 1.19 keeps windows that start in the padding, and counts what ceil_mode adds
    *[case(op, 11, BIG, skip="onnxruntime", **TRIMMED) for op in ("MaxPool", "AveragePool")],
    case("AveragePool", 11, BIG, skip="onnxruntime", count_include_pad=1, **CEIL),
    case("MaxPool", 12, BIG, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1]),
    case("MaxPool", 12, floats(2, 3, 9), kernel_shape=[3], strides=[2]),
    case("AveragePool", 19, BIG, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1]),
    case("AveragePool", 11, floats(1, 2, 5, 4, 6), kernel_shape=[2, 2, 2], pads=[1, 0, 0, 0, 1, 1]),
    *[case(op, 13, X) for op in ("GlobalAveragePool", "GlobalMaxPool")],
    *[case(op, 13, X[..., 0], skip="reference") for op in ("GlobalAveragePool", "GlobalMaxPool")],
    # normalisations
    case(
        "BatchNormalization",
        9,
        X,
        floats(4),
        floats(4),
        floats(4),
        floats(4, low=0.1),
        epsilon=1e-3,
        skip="reference",
    ),
    case("BatchNormalization", 15, X[:, :, 0, 0], floats(4), floats(4), floats(4), floats(4, low=0.1)),
    case("LayerNormalization", 17, X, floats(6), floats(6)),
    case("LayerNormalization", 17, X, floats(7, 6), axis=2, epsilon=1e-2),
    case("LayerNormalization", 17, X, floats(7, 6), floats(7, 6), axis=-2),
    case("InstanceNormalization", 13, X, floats(4), floats(4), epsilon=1e-2),
    case("LRN", 13, floats(7, 7, 2, 2), size=3, alpha=0.5, beta=0.6, bias=1.5),
    case("LRN", 13, floats(7, 7, 2, 2), size=4, alpha=0.5, skip="onnxruntime"),
    # softmax, both ways
    *[case(op, 11, X, skip="reference", axis=axis) for op in SOFTMAXES for axis in (0, 1, 2, -1)],
    *[case(op, 13, X, axis=axis) for op in SOFTMAXES for axis in (0, 1, 2, -1)],
    *[case(op, 11, X, skip="reference") for op in SOFTMAXES],
    *[case(op, 13, X) for op in SOFTMAXES],
    # shapes
    case("Concat", 13, X, X[:, :2], axis=1),
    case("Concat", 13, ints(1, 2), ints(3), axis=-1),
    case("Split", 11, X, outputs=2, axis=1),
    case("Split", 11, X, outputs=2, axis=-1, split=[2, 4]),
    case("Split", 13, X, ints(1, 2, 4), outputs=3, axis=2),
    case("Split", 13, X, outputs=3, axis=3),
    case("Split", 18, X, outputs=3, axis=2, num_outputs=3),
    case("Slice", 9, X, starts=[1, -3], ends=[2**31 - 1, -1], axes=[1, 3]),
    case("Slice", 9, X, starts=[0, 1], ends=[1, 9]),
    case("Slice", 13, X, ints(1, -100), ints(2**62, 5), ints(-2, 3), ints(2, 3)),
    case("Slice", 13, X, ints(1), ints(2)),
    case("Pad", 10, X, pads=[0, 0, 1, 2, 0, 3, 0, 1], value=1.5),
    case("Pad", 13, X, ints(0, 1, 0, -1, 0, 1, 2, -2), skip="reference"),
    case("Pad", 13, X, ints(0, 0, 1, 2, 1, 3, 0, 1), np.array(-1.5, F32)),
    case("Pad", 18, X, ints(1, 2, 3, 4), None, ints(3, -3)),
    case("Reshape", 13, X, ints(0, -1, 3)),
    case("Reshape", 14, np.zeros((0, 3), F32), ints(3, 0), allowzero=1),
    *[case("Flatten", 13, X, axis=axis) for axis in (0, 1, 3, 4, -1)],
    case("Transpose", 13, X),
    case("Transpose", 13, X, perm=[0, 2, 3, 1]),
    case("Squeeze", 11, X[:, :1, :1], axes=[1, -2]),
    case("Squeeze", 13, X[:, :1, :1], ints(2)),
    case("Squeeze", 13, X[:, :1, :1]),
    case("Unsqueeze", 11, X, axes=[4, 0], skip="reference"),
    case("Unsqueeze", 13, X, ints(-1, 1)),
    case("Shape", 13, X),
    case("Shape", 15, X, start=1, end=-1),
    case("Gather", 13, X, ints(2, -1, 0), axis=1),
    case("Gather", 13, X, np.array([[1, 0], [0, -1]], np.int32)),
    case("Gather", 13, X, np.array(3, I64), axis=-1),
    case("Expand", 13, X[:, :1], ints(3, 1, 4, 1, 6)),
    case("Expand", 13, X[:1, :1], ints(7, 1)),
    case("Range", 13, np.array(1, I64), np.array(9, I64), np.array(3, I64)),
    case("Range", 13, np.array(2, F32), np.array(-1, F32), np.array(-0.5, F32)),
    case("Constant", 13, value_floats=[1.5, 2.5]),
    case("Constant", 13, value_int=3),
    case("Constant", 13, value=numpy_helper.from_array(floats(2, 3))),
    case("ConstantOfShape", 9, ints(2, 3)),
    case("ConstantOfShape", 9, ints(2, 3), value=numpy_helper.from_array(ints(4))),
    # reductions
    *[case(op, 11, X, axes=[1, -1]) for op in ("ReduceMean", "ReduceSum", "ReduceL2")],
    *[case(op, 11, X, keepdims=0) for op in ("ReduceMean", "ReduceSum", "ReduceL2")],
    *[case(op, 18, X, ints(2, 0), keepdims=0) for op in ("ReduceMean", "ReduceSum", "ReduceL2")],
    *[case(op, 18, X) for op in ("ReduceMean", "ReduceSum", "ReduceL2")],
    *[case(op, 18, X, ints(), noop_with_empty_axes=1) for op in ("ReduceMean", "ReduceSum")],
    case("ReduceSum", 13, ints(1, 2, 3)),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small graphs are slower on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def expected(model: onnx.ModelProto, feeds: dict[str, np.ndarray], runtime: str) -> Any:
    if runtime == "reference":
        return ReferenceEvaluator(model).run(None, feeds)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def compared(runtime: str) -> list[Any]:
    """The cases that this runtime has right in all releases (a case's last entry names the one that has not)."""
    cases = (given if hasattr(given, "values") else pytest.param(*given) for given in CASES)
    return [pytest.param(*given.values[:5], id=given.id) for given in cases if given.values[5] != runtime]


@pytest.mark.parametrize(("op", "opset", "inputs", "attributes", "outputs"), compared("reference"))
def test_op_against_the_reference(op: str, opset: int, inputs: Any, attributes: dict[str, Any], outputs: int) -> None:
    check_op(op, opset, inputs, attributes, outputs, "reference")


@pytest.mark.parametrize(("op", "opset", "inputs", "attributes", "outputs"), compared("onnxruntime"))
def test_op_against_onnxruntime(op: str, opset: int, inputs: Any, attributes: dict[str, Any], outputs: int) -> None:
    check_op(op, opset, inputs, attributes, outputs, "onnxruntime")


def check_op(op: str, opset: int, inputs: Any, attributes: dict[str, Any], outputs: int, runtime: str) -> None:
    model, feeds = build(op, opset, inputs, attributes, outputs)
    found = list(torch_oracle.run(model, feeds).values())
    for y, want in zip(found, expected(model, feeds, runtime), strict=True):
        assert y.dtype == want.dtype
        assert y.shape == want.shape
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=2e-6)


def test_unknown_op_is_named() -> None:
    model, feeds = build("Hardmax", 13, [X], {}, 1)
    with pytest.raises(NotImplementedError, match="Hardmax"):
        torch_oracle.run(model, feeds)


CLASSES, IMAGES = 4, 3


def small_net() -> onnx.ModelProto:
    """Two convolutions, one of them grouped and padded on one side only, with everything that may come between."""
    weights = {
        "w1": floats(4, 2, 3, 3),
        "b1": floats(4),
        "scale": floats(4, low=0.5),
        "shift": floats(4) + F32(0.1),
        "mean": floats(4) / F32(4),
        "var": floats(4, low=0.5),
        "w2": floats(4, 2, 2, 2),
        "w3": floats(CLASSES, 8) / F32(2),
        "b3": floats(CLASSES),
        "unused": floats(2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], strides=[2, 1], pads=[1, 0, 0, 1]),
        helper.make_node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
        helper.make_node("LeakyRelu", ["n1"], ["r1"], alpha=0.2),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], group=2, pads=[0, 1, 1, 0]),
        helper.make_node("Tanh", ["c2"], ["t2"]),
        helper.make_node("Add", ["r1", "t2"], ["a2"]),
        helper.make_node("AveragePool", ["a2"], ["p2"], kernel_shape=[2, 3], pads=[0, 1, 0, 1]),
        helper.make_node("MaxPool", ["p2"], ["m2"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        helper.make_node("ReduceMean", ["m2"], ["g2"], axes=[3], keepdims=0),
        helper.make_node("Flatten", ["g2"], ["f2"]),
        helper.make_node("Gemm", ["f2", "w3", "b3"], ["y"], transB=1),
        helper.make_node("Softmax", ["y"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [IMAGES, 2, 8, 5])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [IMAGES, CLASSES])],
        [numpy_helper.from_array(w.astype(F32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


NET, FEEDS = small_net(), {"x": floats(IMAGES, 2, 8, 5)}
WEIGHTS = {w.name: numpy_helper.to_array(w).astype(np.float64) for w in NET.graph.initializer}


def numpy_loss(loss: str, y: np.ndarray, labels: np.ndarray) -> float:
    if loss == "cross-entropy":
        return float(np.mean(np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(y)), labels]))
    if loss == "bce-with-logits":
        p = 1 / (1 + np.exp(-y))
        return float(-np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p)))
    return float(np.mean((y - labels) ** 2 if loss == "mse" else np.abs(y - labels)))


def labels_for(loss: str) -> np.ndarray:
    if loss == "cross-entropy":
        return np.array([2, 0, 3])
    targets = floats(IMAGES, CLASSES)
    return (targets > 0).astype(F32) if loss == "bce-with-logits" else targets


def loss_with(loss: str, values: dict[str, np.ndarray]) -> float:
    """The loss in float64 with other weights: a feed takes the place of an initializer of its name."""
    logits = onnx.ModelProto()
    logits.CopyFrom(NET)
    logits.graph.output[0].name = "y"
    y = torch_oracle.run(logits, {**FEEDS, **values}, dtype=torch.float64)["y"]
    return numpy_loss(loss, y, labels_for(loss))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "mse", "bce-with-logits", "l1"])
def test_gradients_are_finite_differences(loss: str) -> None:
    value, found = torch_oracle.gradients(
        NET, FEEDS, labels_for(loss), list(WEIGHTS), loss=loss, logits="y", dtype=torch.float64
    )
    assert value == pytest.approx(loss_with(loss, {}), rel=1e-12)
    assert list(found) == list(WEIGHTS)
    assert not found["unused"].any()
    step = 1e-6
    for name, weight in WEIGHTS.items():
        assert found[name].shape == weight.shape
        assert found[name].dtype == np.float64
        for index in np.ndindex(weight.shape):
            shift = np.zeros_like(weight)
            shift[index] = step
            ends = [loss_with(loss, {name: weight + sign * shift}) for sign in (1, -1)]
            assert found[name][index] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8), name


def test_gradients_take_the_first_output_by_default() -> None:
    target = labels_for("mse")
    by_name = torch_oracle.gradients(NET, FEEDS, target, ["w1"], loss="mse", logits="probabilities")
    value, found = torch_oracle.gradients(NET, FEEDS, target, ["w1"], loss="mse")
    assert value == by_name[0]
    np.testing.assert_array_equal(found["w1"], by_name[1]["w1"])


def test_labels_do_not_broadcast() -> None:
    with pytest.raises(ValueError, match="labels of shape"):
        torch_oracle.gradients(NET, FEEDS, floats(CLASSES), ["w1"], loss="mse")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_train_takes_the_steps_by_hand(optimizer: str) -> None:
    names, lr, decay, eps = ["w2", "w3", "b3"], 0.05, 0.1, 1e-6
    batches = [({"x": FEEDS["x"] * F32(k)}, (labels_for("cross-entropy") + k) % CLASSES) for k in (1, 2, 3)]
    losses, final = torch_oracle.train(
        NET, batches, names, optimizer=optimizer, lr=lr, eps=eps, weight_decay=decay, logits="y"
    )
    net = onnx.ModelProto()
    net.CopyFrom(NET)
    values = {name: WEIGHTS[name] for name in names}
    first = {name: np.zeros_like(v) for name, v in values.items()}
    second = {name: np.zeros_like(v) for name, v in values.items()}
    for k, (feeds, labels) in enumerate(batches, 1):
        for weight in net.graph.initializer:
            if weight.name in values:
                weight.CopyFrom(numpy_helper.from_array(values[weight.name], weight.name))
        value, slopes = torch_oracle.gradients(net, feeds, labels, names, logits="y")
        assert losses[k - 1] == pytest.approx(value, rel=1e-12)
        for name, g in slopes.items():
            if optimizer == "sgd":
                values[name] = values[name] - lr * (g + decay * values[name])
                continue
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            step = first[name] / (1 - 0.9**k) / (np.sqrt(second[name] / (1 - 0.999**k)) + eps)
            values[name] = values[name] * (1 - lr * decay) - lr * step
    for name in names:
        assert np.abs(final[name] - WEIGHTS[name]).max() > 1e-3
        np.testing.assert_allclose(final[name], values[name], rtol=1e-9, atol=1e-12)
    assert [w.SerializeToString() for w in NET.graph.initializer] == [
        w.SerializeToString() for w in small_net().graph.initializer
    ]
