"""One small trainable model for each operator: a learned vector, the operator, and a linear head.

`check` predicts for each backend whether the vector can be trained through the operator; the tests compare this with
creating artifacts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests, in which models is

from models import tiny
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

node = helper.make_node


@dataclass(frozen=True)
class OperatorCase:
    """The nodes between the trained vector ``h`` and the head, whose input is the last node's first output.

    Attributes:
        nodes: the nodes; the first one is the tested operator.
        shape: of one sample of ``h``.
        constants: further inputs.
        low: added to ``h``, which is otherwise between -1.5 and 1.5.
        opset: of the model.
    """

    nodes: tuple[onnx.NodeProto, ...]
    shape: tuple[int, ...] = (3, 4)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    low: float = 0.0
    opset: int = 17

    def model(self) -> onnx.ModelProto:
        """Layers ``a`` (the vector) and ``head``."""
        rng = np.random.default_rng(7)
        vector = (self.low + rng.uniform(-0.4, 0.4, self.shape)).astype(np.float32)
        nodes = [
            node("Tanh", ["input"], ["t"], "tanh"),
            node("Add", ["t", "a.bias"], ["h"], "a"),
            *self.nodes,
            node("Cast", [self.nodes[-1].output[0]], ["float"], "cast", to=TensorProto.FLOAT),
            node("Flatten", ["float"], ["flat"], "flatten"),
        ]
        for i, made in enumerate(nodes):
            made.name = made.name or f"op_{i}"
        stored = {"a.bias": vector, **self.constants}
        width = self._width(nodes, stored)
        nodes.append(node("MatMul", ["flat", "head.weight"], ["logits"], "head"))
        stored["head.weight"] = tiny.normal(width, 3)
        ir_version = 8 if self.opset <= 18 else 9
        return tiny.build(nodes, stored, input_shape=["N", *self.shape], opset=self.opset, ir_version=ir_version)

    def _width(self, nodes: Sequence[onnx.NodeProto], stored: dict[str, np.ndarray]) -> int:
        model = tiny.build(nodes, stored, input_shape=["N", *self.shape], output="flat", opset=self.opset, ir_version=9)
        x = np.zeros((2, *self.shape), np.float32)
        try:
            flat = tiny.run(model, x)
        except Exception:  # no kernel in this onnxruntime
            flat = ReferenceEvaluator(model).run(None, {"input": x})[0]
        return int(flat.shape[1])


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def one(
    op_type: str,
    *constants: np.ndarray | None,
    shape: tuple[int, ...] = (3, 4),
    low: float = 0.0,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    at: int = 0,
    **attributes: Any,
) -> OperatorCase:
    """A node with the inputs ``h`` and constants (None: omitted); ``at``: position of ``h``."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    named = {n: c for n, c in zip(names, constants, strict=True) if c is not None}
    inputs = [*names[:at], "h", *names[at:]]
    return OperatorCase((node(op_type, inputs, list(outputs), **attributes),), shape, named, low, opset)


def _hidden(*shape: int) -> np.ndarray:
    return tiny.normal(*shape, scale=0.5)


def turned(op_type: str, *constants: np.ndarray, **attributes: Any) -> OperatorCase:
    """A node of ``h`` with its last axis first, so that constants need not repeat the batch."""
    names = [f"c{i}" for i in range(len(constants))]
    nodes = (
        node("Transpose", ["h"], ["turned"], perm=[2, 0, 1]),
        node(op_type, ["turned", *names], ["made"], **attributes),
        node("Transpose", ["made"], ["y"], perm=[1, 2, 0]),
    )
    return OperatorCase(nodes, constants=dict(zip(names, constants, strict=True)))


IMAGE = (2, 6, 6)
SEQUENCE = (4, 3)  # as (N, steps, width); recurrent layers want the steps first


def _recurrent(
    op_type: str, gates: int, *inputs: str, directions: int = 1, used: int = 0, **attributes: Any
) -> OperatorCase:
    """`inputs`: names of those after W and R. `used`: which output is."""
    width, hidden = SEQUENCE[1], 5
    constants = {
        "w": _hidden(directions, gates * hidden, width),
        "r": _hidden(directions, gates * hidden, hidden),
        "b": _hidden(directions, 2 * gates * hidden),
        "lengths": np.array([2, 3, 1, 3], np.int32),
    }
    given = inputs or ("b",)
    outputs = [*["", "", ""][:used], "y"]
    nodes = (
        node(op_type, ["steps", "w", "r", *given], outputs, "rnn", hidden_size=hidden, **attributes),
        node("Transpose", ["y"], ["z"], "back", perm=[1, 0, 2] if used else [2, 0, 1, 3]),
    )
    before = node("Transpose", ["h"], ["steps"], "turn", perm=[1, 0, 2])
    return OperatorCase((before, *nodes), SEQUENCE, {name: constants[name] for name in ("w", "r", *given) if name})


POSITIVE = {"low": 2.0}  # above 0.6, with the tanh
WEIGHT = _hidden(4, 2, 3, 3)
_UNARY = (
    "Abs Asinh Atan Ceil Cos Cosh Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Neg Relu Round Selu "
    "Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh Celu ThresholdedRelu Shrink Softmax LogSoftmax Hardmax "
    "MeanVarianceNormalization Dropout"
)
_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
CASES: dict[str, OperatorCase] = {
    **{op: one(op, shape=IMAGE if op.startswith("Mean") else (3, 4)) for op in _UNARY.split()},
    **{
        op: OperatorCase((node("Mul", ["h", "small"], ["s"]), node(op, ["s"], ["y"])), constants={"small": number(0.6)})
        for op in ("Acos", "Asin", "Atanh")
    },
    "Acosh": one("Acosh", low=3.0),
    "Log": one("Log", **POSITIVE),
    "Sqrt": one("Sqrt", **POSITIVE),
    "Reciprocal": one("Reciprocal", **POSITIVE),
    "Mish": one("Mish", opset=18),
    "Gelu": one("Gelu", opset=20),
    "Gelu tanh": one("Gelu", opset=20, approximate="tanh"),
    "Add": one("Add", _hidden(4)),
    "Sub": one("Sub", _hidden(3, 1)),
    "Mul": one("Mul", _hidden(4)),
    "Div": one("Div", np.abs(_hidden(4)) + 1),
    "Div by": one("Div", _hidden(4), at=1, **POSITIVE),
    "Pow": one("Pow", number(3)),
    "Pow of": one("Pow", np.abs(_hidden(4)) + 1, at=1),
    "Mod": one("Mod", number(0.7), fmod=1),
    "PRelu": one("PRelu", _hidden(4)),
    "Max": one("Max", _hidden(3, 4)),
    "Min": one("Min", _hidden(3, 4)),
    "Mean": one("Mean", _hidden(3, 4)),
    "Sum": one("Sum", _hidden(3, 4), _hidden(4)),
    "Clip": one("Clip", number(-0.5), number(0.5)),
    "Max of three": one("Max", _hidden(3, 4), _hidden(4)),
    "Max of one": one("Max"),
    "Clip from below": one("Clip", number(-0.2)),
    "Clip from above": one("Clip", None, number(0.2)),
    "Softmax along another axis": one("Softmax", axis=1),
    "LogSoftmax along another axis": one("LogSoftmax", axis=1),
    "Softmax 12": one("Softmax", axis=1, opset=12),
    "TopK along another axis": one("TopK", ints(2), outputs=("y", "i"), axis=1, largest=0),
    "Unsqueeze 12": one("Unsqueeze", axes=[1], opset=12),
    "Squeeze 12": one("Squeeze", axes=[1], shape=(1, 4), opset=12),
    "ReduceSum 12": one("ReduceSum", axes=[2], keepdims=0, opset=12),
    "Pad with a number": one("Pad", ints(0, 1, 0, 0, 0, 2), number(0.5)),
    "Pad negative": one("Pad", ints(0, -1, 0, 0, 0, 0)),
    "Where of the condition": OperatorCase(
        (
            node("Greater", ["h", "zero"], ["m"]),
            node("Where", ["m", "h", "other"], ["y"]),
        ),
        constants={"zero": number(0), "other": _hidden(3, 4)},
    ),
    "Where": one("Where", _hidden(3, 4) > 0, _hidden(3, 4), at=1),
    "Cast": one("Cast", to=TensorProto.DOUBLE),
    "CastLike": one("CastLike", np.zeros(1, np.float32)),
    "MatMul": one("MatMul", _hidden(4, 5)),
    "MatMul vector": one("MatMul", _hidden(4)),
    "Gemm": one("Gemm", _hidden(5, 4), _hidden(5), shape=(4,), transB=1),
    "Einsum": one("Einsum", _hidden(4, 5), equation="bij,jk->bik"),
    "Conv": one("Conv", WEIGHT, shape=IMAGE, pads=[1] * 4),
    "Conv strided": one("Conv", WEIGHT, shape=IMAGE, pads=[1] * 4, strides=[2, 2]),
    "Conv grouped": one("Conv", _hidden(4, 1, 3, 3), shape=IMAGE, group=2, dilations=[2, 2]),
    "Conv auto_pad": one("Conv", WEIGHT, shape=IMAGE, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv 1-D": one("Conv", _hidden(4, 3, 3), shape=(3, 9)),
    "Conv 3-D": one("Conv", _hidden(4, 2, 2, 2, 2), shape=(2, 4, 4, 4)),
    "ConvTranspose": one("ConvTranspose", _hidden(2, 3, 3, 3), shape=IMAGE, strides=[2, 2]),
    "ConvTranspose grouped": one("ConvTranspose", _hidden(2, 2, 2, 2), shape=IMAGE, group=2),
    "MaxPool": one("MaxPool", shape=IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool overlapping": one("MaxPool", shape=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "MaxPool dilated": one("MaxPool", shape=IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    "MaxPool 1-D": one("MaxPool", shape=(3, 9), kernel_shape=[3], strides=[2]),
    "MaxPool 3-D": one("MaxPool", shape=(2, 4, 4, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
    "MaxPool ceil": one("MaxPool", shape=(2, 7, 7), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "MaxPool indices": one("MaxPool", shape=IMAGE, kernel_shape=[2, 2], outputs=("y", "i")),
    "AveragePool 1-D": one("AveragePool", shape=(3, 9), kernel_shape=[3], strides=[2]),
    "AveragePool 3-D": one("AveragePool", shape=(2, 4, 4, 4), kernel_shape=[2, 2, 2]),
    "AveragePool padded": one("AveragePool", shape=IMAGE, kernel_shape=[3, 3], pads=[1] * 4),
    "AveragePool counting": one("AveragePool", shape=IMAGE, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "AveragePool": one("AveragePool", shape=IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool ceil": one("AveragePool", shape=(2, 7, 7), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "LpPool": one("LpPool", shape=IMAGE, kernel_shape=[2, 2]),
    "GlobalAveragePool": one("GlobalAveragePool", shape=IMAGE),
    "GlobalMaxPool": one("GlobalMaxPool", shape=IMAGE),
    "GlobalLpPool": one("GlobalLpPool", shape=IMAGE),
    "BatchNormalization": one(
        "BatchNormalization", _hidden(2), _hidden(2), _hidden(2), np.abs(_hidden(2)) + 1, shape=IMAGE
    ),
    "LayerNormalization": one("LayerNormalization", 1 + _hidden(4), _hidden(4)),
    "LayerNormalization, scale like bias": one("LayerNormalization", _hidden(4), _hidden(4)),
    "LayerNormalization, two axes": one("LayerNormalization", _hidden(3, 4), shape=(2, 3, 4), axis=-2),
    "GroupNormalization": one("GroupNormalization", _hidden(4), _hidden(4), shape=(4, 5), num_groups=2, opset=21),
    "InstanceNormalization": one("InstanceNormalization", _hidden(2), _hidden(2), shape=IMAGE),
    "LRN": one("LRN", shape=(5, 3, 3), size=3),
    "LRN even": one("LRN", shape=(5, 3, 3), size=4),
    "LpNormalization": one("LpNormalization"),
    **{op: one(op, axes=[2], keepdims=0, **(POSITIVE if "Log" in op else {})) for op in _REDUCTIONS.split()},
    "ReduceSum": one("ReduceSum", ints(2), keepdims=0),
    "ReduceL2 kept": one("ReduceL2", axes=[2]),
    "ReduceLogSumExp kept": one("ReduceLogSumExp", axes=[2]),
    "ReduceL2 18": one("ReduceL2", ints(2), keepdims=0, opset=18),
    "ReduceLogSumExp 18": one("ReduceLogSumExp", ints(2), keepdims=0, opset=18),
    "ReduceMean of all": one("ReduceMean", axes=[1, 2], keepdims=0),
    "ReduceMean 18": one("ReduceMean", ints(2), opset=18),
    "ReduceMax 18": one("ReduceMax", ints(2), opset=18),
    "CumSum": one("CumSum", np.array(2, np.int64)),
    "TopK": one("TopK", ints(2), outputs=("y", "i")),
    "Compress": one("Compress", np.array([1, 0, 1, 1], bool), axis=2),
    "Concat": OperatorCase((node("Neg", ["h"], ["n"]), node("Concat", ["h", "n"], ["y"], axis=2))),
    "Split": OperatorCase(
        (
            node("Split", ["h", "parts"], ["p", "q"], axis=2),
            node("Concat", ["q", "p"], ["y"], axis=2),
        ),
        constants={"parts": ints(1, 3)},
    ),
    "Split, one part unused": one("Split", ints(1, 3), axis=2, outputs=("y", "rest")),
    "Split, equal parts": OperatorCase(
        (
            node("Split", ["h"], ["p", "q"], axis=2, num_outputs=2),
            node("Mul", ["q", "p"], ["y"]),
        ),
        opset=18,
    ),
    "Slice": one("Slice", ints(1), ints(4), ints(2), ints(2)),
    "Slice strided": one("Slice", ints(0), ints(4), ints(2), ints(2)),
    "Slice backwards": one("Slice", ints(3), ints(0), ints(2), ints(-1)),
    "Gather": one("Gather", ints(2, 0, 2), axis=2),
    "GatherND": turned("GatherND", np.array([[1], [3], [1]])),
    "GatherElements": OperatorCase(
        (
            node("Shape", ["h"], ["s"]),
            node("Expand", ["at", "s"], ["index"]),
            node("GatherElements", ["h", "index"], ["y"], axis=2),
        ),
        constants={"at": np.array([[[2, 0, 1, 1], [3, 3, 1, 0], [0, 1, 2, 3]]])},
    ),
    "ScatterElements": OperatorCase(
        (
            node("Shape", ["h"], ["s"]),
            node("Expand", ["at", "s"], ["index"]),
            node("Neg", ["h"], ["n"]),
            node("ScatterElements", ["h", "index", "n"], ["y"], axis=2),
        ),
        constants={"at": np.array([[[2, 0, 1, 3], [3, 2, 1, 0], [0, 1, 2, 3]]])},
    ),
    "Tile": one("Tile", ints(1, 2, 1)),
    "Expand": OperatorCase(
        (
            node("Unsqueeze", ["h", "one"], ["u"]),
            node("Expand", ["u", "to"], ["y"]),
        ),
        constants={"one": ints(1), "to": ints(1, 2, 1, 1)},
    ),
    "Reshape": one("Reshape", ints(0, 2, -1)),
    "Flatten": one("Flatten", axis=1),
    "Squeeze": one("Squeeze", ints(1), shape=(1, 4)),
    "Unsqueeze": one("Unsqueeze", ints(1)),
    "Transpose": one("Transpose", perm=[0, 2, 1]),
    "Trilu": one("Trilu"),
    "Pad": one("Pad", ints(0, 1, 0, 0, 0, 2)),
    "Pad reflect": one("Pad", ints(0, 1, 0, 0, 0, 2), mode="reflect"),
    "Pad edge": one("Pad", ints(0, 1, 0, 0, 0, 2), mode="edge"),
    "DepthToSpace": one("DepthToSpace", shape=(4, 3, 3), blocksize=2),
    "SpaceToDepth": one("SpaceToDepth", shape=(2, 4, 4), blocksize=2),
    "Resize": one("Resize", None, np.array([1, 1, 2, 2], np.float32), shape=IMAGE, mode="linear"),
    "Resize nearest": one("Resize", None, np.array([1, 1, 2, 2], np.float32), shape=IMAGE, mode="nearest"),
    "ReverseSequence": OperatorCase(
        (
            node("Transpose", ["h"], ["t1"], perm=[1, 2, 0]),
            node("ReverseSequence", ["t1", "lengths"], ["r"], batch_axis=1, time_axis=0),
            node("Transpose", ["r"], ["z"], perm=[2, 0, 1]),
        ),
        constants={"lengths": ints(3, 2, 1, 3)},
    ),
    "ArgMax": one("ArgMax", axis=2),
    "LSTM": _recurrent("LSTM", 4),
    "LSTM bidirectional": _recurrent("LSTM", 4, directions=2, direction="bidirectional"),
    "LSTM backwards": _recurrent("LSTM", 4, direction="reverse"),
    "LSTM without a bias": _recurrent("LSTM", 4, ""),
    "LSTM, last state": _recurrent("LSTM", 4, used=1),
    "LSTM, last cell": _recurrent("LSTM", 4, used=2),
    "LSTM of lengths": _recurrent("LSTM", 4, "b", "lengths"),
    "LSTM, other activations": _recurrent("LSTM", 4, activations=["Sigmoid", "Relu", "Relu"]),
    "LSTM, clipped": _recurrent("LSTM", 4, clip=0.5),
    "GRU": _recurrent("GRU", 3),
    "GRU without a bias": _recurrent("GRU", 3, ""),
    "GRU, last state": _recurrent("GRU", 3, used=1),
    "GRU of lengths": _recurrent("GRU", 3, "b", "lengths"),
    "GRU, other activations": _recurrent("GRU", 3, activations=["Sigmoid", "Relu"]),
    "GRU backwards": _recurrent("GRU", 3, direction="reverse"),
    "GRU linear": _recurrent("GRU", 3, linear_before_reset=1),
    "RNN": _recurrent("RNN", 1),
}


def tried(case: OperatorCase) -> dict[str, Any]:
    """The result of training the vector without `check`: an error, and the gradients' difference."""
    import tempfile

    from adabet_onnx import AdabetError, Choices, make_artifacts, open_model
    from adabet_onnx.selection.record import Selection
    from adabet_onnx.training import artifacts

    artifacts.obstacles_to = lambda prepared, backend: None  # type: ignore[assignment]
    model = open_model(case.model())
    selection = Selection(model.sha256, "layers", ("a",), ("a.bias",))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, *case.shape)).astype(np.float32)
    found: dict[str, Any] = {"difference": None}
    gradients = []
    for backend in ("portable", "ort"):
        found[backend] = None
        with tempfile.TemporaryDirectory() as folder:
            try:
                made = make_artifacts(
                    model,
                    selection,
                    Path(folder) / "a",
                    backend=backend,
                    loss="mse",
                    choices=Choices(optimizer="sgd"),
                    check=False,
                )
                session = made.session(made.initial, threads=1)
                session.gradients({"input": x}, np.ones((4, 3), np.float32))
                gradients.append(session.gradient("a.bias"))
            except AdabetError as error:
                found[backend] = str(error)
    if len(gradients) == 2:
        largest = max(1e-3, float(np.abs(gradients[0]).max()))
        found["difference"] = float(np.abs(gradients[0] - gradients[1]).max()) / largest
    return found


if __name__ == "__main__":
    import json

    for name in sys.argv[1:]:
        print(json.dumps({"case": name, **tried(CASES[name])}), flush=True)
