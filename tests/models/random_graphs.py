"""Small random graphs for property tests: hypothesis draws their structure, a seed their numbers.

Every block takes a value and gives one; a graph is some blocks and a head. Features can be switched on one by one:
`FEATURES` names all of them, `graphs(features)` draws from those given. A drawn graph records its operators, the
vectors shared by several applications of one layer (`Drawn.whole`), and its features.

What a trained tensor is, in the reference (tests/helpers/reference_step.py): an initializer of two or more axes is one
tensor, whoever uses it; a vector that several nodes use is one tensor for each of them, but for those in `Drawn.whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from models import tiny
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]  # of one sample
Draw = Callable[[Any], Any]
BATCH = 4
_EPSILON = 1e-2  # of norms: with a small one, two features that are nearly equal make 1e-4 of what float32 rounds


@dataclass
class Drawn:
    """A random graph.

    Attributes:
        proto: the model; its batch is dynamic.
        features: of its blocks, in order.
        whole: vectors that stay one tensor though several nodes use them: the biases of a layer applied repeatedly.
        logits: what the loss takes: (N, classes) or (N, tokens, classes), whatever follows it.
        loss: that fits its outputs.
        dtype: of the input.
    """

    proto: onnx.ModelProto
    features: list[str]
    whole: set[str]
    loss: str
    logits: str

    @property
    def operators(self) -> set[str]:
        """Of all nodes, those in branches too."""

        def inside(graph: onnx.GraphProto) -> set[str]:
            found = set()
            for node in graph.node:
                found.add(node.op_type)
                for attribute in node.attribute:
                    if attribute.type == onnx.AttributeProto.GRAPH:
                        found |= inside(attribute.g)
            return found

        return inside(self.proto.graph)

    def __repr__(self) -> str:
        lines = [f"{', '.join(self.features)} ({self.loss}, opset {self.proto.opset_import[0].version})"]
        for node in self.proto.graph.node:
            lines.append(f"  {list(node.output)} = {node.op_type}({', '.join(node.input)})")
        return "\n".join(lines)


@dataclass
class Net:
    """A graph in the making."""

    draw: Draw
    rng: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    count: int = 0

    def add(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; returns the name of its first output (the others end in .1, .2, ...)."""
        self.count += 1
        name = f"{op.lower()}{self.count}"
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), made, f"/{name}", **attributes))
        return name

    def weight(self, *shape: int, kind: str = "weight", scale: float | None = None, shift: float = 0.0) -> str:
        """One more float initializer, normal."""
        self.count += 1
        name = f"layer{self.count}.{kind}"
        if scale is None:
            scale = 1 / np.sqrt(max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 0.3
        self.values[name] = (shift + scale * self.rng.standard_normal(shape)).astype(np.float32)
        return name

    def ints(self, *numbers: int) -> str:
        """One more initializer of integers."""
        self.count += 1
        self.values[f"ints{self.count}"] = np.array(numbers, np.int64)
        return f"ints{self.count}"

    def pick(self, *options: Any) -> Any:
        """One of these."""
        return self.draw(st.sampled_from(options))

    def size(self) -> int:
        """A small extent."""
        return int(self.draw(st.integers(2, 5)))


Block = Callable[[Net, str, Shape], tuple[str, Shape]]
_BLOCKS: dict[str, tuple[tuple[int, ...], Block]] = {}  # feature -> (ranks of a sample, block)


def _block(feature: str, *ranks: int) -> Callable[[Block], Block]:
    def register(block: Block) -> Block:
        _BLOCKS[feature] = (ranks, block)
        return block

    return register


# --- layers ---------------------------------------------------------------------------------------------------


def _dense(net: Net, x: str, width: int, out: int) -> str:
    """A Gemm of (N, width), in one of its forms."""
    turned = net.pick(True, False)
    w = net.weight(*((out, width) if turned else (width, out)))
    attributes: dict[str, Any] = {"transB": 1} if turned else {}
    if net.pick(True, False, False):
        attributes |= {"alpha": 0.5, "beta": 1.5}
    bias = net.pick("none", "vector", "row")
    given = [x, w]
    if bias != "none":
        given.append(net.weight(*((out,) if bias == "vector" else (1, out)), kind="bias", scale=0.3))
    return net.add("Gemm", given, **attributes)


@_block("gemm", 1)
def _gemm(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    out = net.size()
    return _dense(net, x, shape[0], out), (out,)


@_block("matmul", 1, 2)
def _matmul(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    out = net.size()
    y = net.add("MatMul", [x, net.weight(shape[-1], out)])
    if net.pick(True, False):
        y = net.add("Add", net.pick([y, b := net.weight(out, kind="bias")], [b, y]))
    return y, (*shape[:-1], out)


@_block("activation", 1, 2, 3)
def _activation(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    ops = ["Tanh", "Sigmoid", "Elu", "Softplus", "Relu", "LeakyRelu", "Softsign", "Selu"]
    return net.add(net.pick(*ops), [x]), shape


@_block("composite activation", 1, 2, 3)
def _composite(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    kind = net.pick("swish", "gelu")
    if kind == "swish":
        return net.add("Mul", [x, net.add("Sigmoid", [x])]), shape
    net.values |= {
        "root2": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    y = net.add("Add", [net.add("Erf", [net.add("Div", [x, "root2"])]), "one"])
    return net.add("Mul", [net.add("Mul", [x, y]), "half"]), shape


@_block("layer norm", 1, 2)
def _layer_norm(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    if net.opset < 17:
        return _activation(net, x, shape)
    given = [x, net.weight(shape[-1], kind="scale", shift=1.0)]
    if net.pick(True, False):
        given.append(net.weight(shape[-1], kind="bias"))
    return net.add("LayerNormalization", given, axis=net.pick(-1, len(shape)), epsilon=_EPSILON), shape


@_block("scale", 1, 2)
def _scale(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    op = net.pick("Mul", "Add", "Sub")
    return net.add(op, [x, net.weight(shape[-1], kind="scale", shift=1.0 if op == "Mul" else 0.0)]), shape


@_block("conv", 3)
def _conv(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    channels, kernel = shape[0], net.pick(1, 3)
    group = net.pick(1, channels)
    out = channels if group > 1 else net.size()
    given = [x, net.weight(out, channels // group, kernel, kernel)]
    if net.pick(True, False):
        given.append(net.weight(out, kind="bias"))
    pads = {"pads": [kernel // 2] * 4} if net.pick(True, False) else {"auto_pad": "SAME_UPPER"}
    y = net.add("Conv", given, group=group, kernel_shape=[kernel, kernel], **pads)
    return y, (out, *shape[1:])


@_block("conv 1d", 2)
def _conv_1d(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Over the tokens: channels come last, but for the Conv."""
    out = net.size()
    y = net.add("Transpose", [x], perm=[0, 2, 1])
    y = net.add("Conv", [y, net.weight(out, shape[1], 3), net.weight(out, kind="bias")], pads=[1, 1])
    return net.add("Transpose", [y], perm=[0, 2, 1]), (shape[0], out)


@_block("transposed conv", 3)
def _conv_transpose(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    out = net.size()
    y = net.add("ConvTranspose", [x, net.weight(shape[0], out, 3, 3), net.weight(out, kind="bias")], pads=[1] * 4)
    return y, (out, *shape[1:])


@_block("norms of images", 3)
def _image_norm(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    c = shape[0]
    given = [x, net.weight(c, kind="scale", shift=1.0), net.weight(c, kind="bias")]
    if net.pick(True, False):
        return net.add("InstanceNormalization", given, epsilon=_EPSILON), shape
    mean, variance = net.weight(c, kind="running_mean"), net.weight(c, kind="running_var")
    net.values[variance] = np.square(net.values[variance]) + np.float32(0.5)
    return net.add("BatchNormalization", [*given, mean, variance]), shape


@_block("pool", 3)
def _pool(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    op = net.pick("MaxPool", "AveragePool")
    return net.add(op, [x], kernel_shape=[3, 3], pads=[1] * 4), shape


@_block("recurrent, time-major inside", 2)
def _recurrent(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    units, (op, gates) = 3, net.pick(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    y = net.add("Transpose", [x], perm=[1, 0, 2])
    given = [y, net.weight(1, gates * units, shape[1]), net.weight(1, gates * units, units)]
    if net.pick(True, False):
        given.append(net.weight(1, 2 * gates * units, kind="bias", scale=0.3))
    y = net.add(op, given, hidden_size=units)
    y = net.add("Squeeze", [y, net.ints(1)])
    return net.add("Transpose", [y], perm=[1, 0, 2]), (shape[0], units)


# --- structure ------------------------------------------------------------------------------------------------


@_block("residual", 1, 2, 3)
def _residual(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    if len(shape) == 3:
        y = net.add("Conv", [x, net.weight(shape[0], shape[0], 3, 3)], pads=[1] * 4)
    else:
        y = net.add("MatMul", [x, net.weight(shape[-1], shape[-1])])
    return net.add(net.pick("Add", "Sum"), net.pick([x, net.add("Tanh", [y])], [y, x])), shape


@_block("branches", 1, 2)
def _branches(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    first, second = net.size(), net.size()
    ends = [net.add("MatMul", [x, net.weight(shape[-1], width)]) for width in (first, second)]
    ends[1] = net.add("Sigmoid", [ends[1]])
    return net.add("Concat", ends, axis=net.pick(-1, len(shape))), (*shape[:-1], first + second)


@_block("gate", 1, 2)
def _gate(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    y = net.add("MatMul", [x, net.weight(shape[-1], shape[-1])])
    return net.add("Mul", [x, net.add("Sigmoid", [y])]), shape


@_block("split", 1, 2)
def _split(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Two parts of a doubled width, one of them gating the other."""
    width = net.size()
    y = net.add("MatMul", [x, net.weight(shape[-1], 2 * width)])
    axis = net.pick(-1, len(shape))
    y = net.add("Split", [y, net.ints(width, width)], outputs=2, axis=axis)
    return net.add("Mul", [y, net.add("Tanh", [f"{y}.1"])]), (*shape[:-1], width)


@_block("slices", 1, 2)
def _slices(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    axis = net.pick(-1, len(shape))
    first = net.add("Slice", [x, net.ints(0), net.ints(1), net.ints(axis)])
    last = net.add("Gather", [x, net.ints(shape[-1] - 1)], axis=axis)
    return net.add("Concat", [x, first, last], axis=axis), (*shape[:-1], shape[-1] + 2)


@_block("odd axes", 1, 2)
def _odd_axes(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Softmax and means over axes named from either end, also over tokens."""
    axis = net.pick(*range(1, len(shape) + 1))
    named = net.pick(axis, axis - len(shape) - 1)
    kind = net.pick("softmax", "centred", "deviation")
    if kind == "softmax":
        return net.add("Mul", [x, net.add("Softmax", [x], axis=named)]), shape
    if net.opset >= 18:
        mean = net.add("ReduceMean", [x, net.ints(named)], keepdims=1)
    else:
        mean = net.add("ReduceMean", [x], axes=[named], keepdims=1)
    return net.add("Sub" if kind == "centred" else "Mul", [x, mean]), shape


@_block("batch in another axis", 1, 2)
def _turned(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """A layer on (F, N), or on (T, N, C) or (T, C, N)."""
    if len(shape) == 1:
        out = net.size()
        y = net.add("Transpose", [x], perm=[1, 0])
        y = net.add("MatMul", [net.weight(out, shape[0]), y])
        if net.pick(True, False):
            y = net.add("Add", [y, net.weight(out, 1, kind="bias", scale=0.3)])
        return net.add("Transpose", [y], perm=[1, 0]), (out,)
    out = net.size()
    y = net.add("Transpose", [x], perm=[1, 0, 2])
    y = net.add("MatMul", [y, net.weight(shape[1], out)])
    if net.pick(True, False):
        y = net.add("Add", [y, net.weight(out, kind="bias")])
    return net.add("Transpose", [y], perm=[1, 0, 2]), (shape[0], out)


@_block("channels last", 3)
def _channels_last(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    out = net.size()
    y = net.add("Transpose", [x], perm=[0, 2, 3, 1])
    y = net.add("Add", [net.add("MatMul", [y, net.weight(shape[0], out)]), net.weight(out, kind="bias")])
    return net.add("Transpose", [y], perm=[0, 3, 1, 2]), (out, *shape[1:])


@_block("attention", 2)
def _attention(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    q, k, v = (net.add("MatMul", [x, net.weight(shape[1], shape[1])]) for _ in range(3))
    scores = net.add("MatMul", [q, net.add("Transpose", [k], perm=[0, 2, 1])])
    return net.add("MatMul", [net.add("Softmax", [scores], axis=net.pick(-1, 2)), v]), shape


@_block("dropout", 1, 2, 3)
def _dropout(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    net.values["ratio"] = np.array(0.5, np.float32)
    return net.add("Dropout", [x, "ratio"]), shape


@_block("detour", 1, 2, 3)
def _detour(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Shapes there and back."""
    if net.pick(True, False):
        y = net.add("Unsqueeze", [x, net.ints(1)])
        return net.add("Squeeze", [net.add("Tanh", [y]), net.ints(1)]), shape
    y = net.add("Reshape", [x, net.ints(0, -1)])
    return net.add("Reshape", [net.add("Sigmoid", [y]), net.ints(0, *shape)]), shape


# --- sharing --------------------------------------------------------------------------------------------------


@_block("shared weight", 1, 2)
def _shared_weight(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """One matrix, used twice."""
    w = net.weight(shape[-1], shape[-1])
    y = net.add("Tanh", [net.add("MatMul", [x, w])])
    return net.add("Add", [net.add("MatMul", [y, w]), x]), shape


@_block("shared vector", 1, 2)
def _shared_vector(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Two layers whose biases an exporter stored once, as they were equal."""
    b = net.weight(shape[-1], kind="bias")
    y = net.add("Tanh", [net.add("Add", [net.add("MatMul", [x, net.weight(shape[-1], shape[-1])]), b])])
    return net.add("Add", [net.add("MatMul", [y, net.weight(shape[-1], shape[-1])]), b]), shape


@_block("shared layer", 1)
def _shared_layer(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """Siamese: weight and bias are used by two nodes, so both are one tensor."""
    w, b = net.weight(shape[0], shape[0]), net.weight(shape[0], kind="bias")
    net.whole.add(b)
    one = net.add("Gemm", [x, w, b])
    other = net.add("Gemm", [net.add("Sigmoid", [x]), w, b])
    return net.add("Sub", [net.add("Tanh", [one]), net.add("Tanh", [other])]), shape


# --- what other parts of the package have to see through --------------------------------------------------------


@_block("computed weight", 1, 2)
def _computed_weight(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """A chain of constants computes the weight: transposed, scaled, concatenated, or normed."""
    out = net.size()
    kind = net.pick("turned", "scaled", "joined", "normed")
    if kind == "turned":
        w = net.add("Transpose", [net.weight(out, shape[-1])], perm=[1, 0])
    elif kind == "scaled":
        w = net.add("Mul", [net.weight(shape[-1], out), net.weight(1, out, kind="g", shift=1.0)])
    elif kind == "joined":
        w = net.add("Concat", [net.weight(shape[-1], out), net.weight(shape[-1], 1)], axis=1)
        out += 1
    else:
        v = net.weight(shape[-1], out)
        w = net.add("Div", [v, net.add("Sqrt", [_sum(net, net.add("Mul", [v, v]), 0)])])
    return net.add("MatMul", [x, w]), (*shape[:-1], out)


def _sum(net: Net, x: str, axis: int) -> str:
    return net.add("ReduceSum", [x, net.ints(axis)], keepdims=1)


def _if(net: Net, x: str, shape: Shape, condition: str) -> tuple[str, Shape]:
    """Both branches read the outer value and an outer weight; one has a weight of its own."""
    net.count += 1
    name, outer = f"if{net.count}", net.weight(shape[-1], shape[-1])
    own = numpy_helper.from_array(
        (0.4 * net.rng.standard_normal((shape[-1], shape[-1]))).astype(np.float32), f"{name}.own"
    )
    branches = []
    for key, weight, extra in (("then", outer, []), ("else", own.name, [own])):
        made = f"{name}/{key}"
        nodes = [
            helper.make_node("MatMul", [x, weight], [f"{made}/m"], f"/{made}/m"),
            helper.make_node("Add", [f"{made}/m", x], [made], f"/{made}/a"),
        ]
        output = helper.make_tensor_value_info(made, TensorProto.FLOAT, None)
        branches.append(helper.make_graph(nodes, key, [], [output], extra))
    net.nodes.append(
        helper.make_node("If", [condition], [name], f"/{name}", then_branch=branches[0], else_branch=branches[1])
    )
    return name, shape


@_block("if, constant", 1, 2)
def _if_constant(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    net.count += 1
    condition = f"condition{net.count}"
    net.values[condition] = np.array(net.pick(True, False))
    return _if(net, x, shape, condition)


@_block("if, computed", 1, 2)
def _if_computed(net: Net, x: str, shape: Shape) -> tuple[str, Shape]:
    """By the number of samples, which is known only when it runs."""
    net.values["none"] = np.array(0, np.int64)
    samples = net.add("Gather", [net.add("Shape", ["input"]), "none"])
    return _if(net, x, shape, net.add(net.pick("Greater", "Less"), [samples, "none"]))


FEATURES: tuple[str, ...] = (*_BLOCKS, "probabilities", "tokens", "time-major logits")


# --- graphs ---------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: Draw, features: Collection[str] = FEATURES) -> Drawn:
    """Random graphs with blocks of these features, on vectors, tokens or images."""
    net = Net(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sampled_from([13, 17, 20])))
    rank = draw(st.sampled_from([1, 1, 2, 2, 3]))
    extents: Shape = tuple(net.size() for _ in range(rank))
    x, shape, used = "input", extents, []
    for _ in range(draw(st.integers(1, 5))):
        fitting = [name for name, (ranks, _) in _BLOCKS.items() if len(shape) in ranks and name in features]
        name = draw(st.sampled_from(fitting))
        x, shape = _BLOCKS[name][1](net, x, shape)
        used.append(name)
    logits, x, shape, loss, ends = _head(net, x, shape, features)
    used += ends
    whole_shape = [shape[0], "N", *shape[1:]] if "time-major logits" in ends else ["N", *shape]
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, whole_shape)
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *extents])
    proto = tiny.assemble(net.nodes, net.values, [given], [output], opset=net.opset)
    return Drawn(proto, used, net.whole, loss, logits)


def _head(net: Net, x: str, shape: Shape, features: Collection[str]) -> tuple[str, str, Shape, str, list[str]]:
    """Logits (N, classes), or of every token; the model's output; shape, loss and features."""
    classes, used = int(net.draw(st.integers(2, 4))), []
    loss = net.pick("cross-entropy", "cross-entropy", "mse")
    if len(shape) == 2 and "tokens" in features and net.pick(True, False, False):
        x = net.add("MatMul", [x, net.weight(shape[1], classes)])
        if "time-major logits" in features and net.pick(True, False):
            turned = net.add("Transpose", [x], perm=[1, 0, 2])
            return x, turned, (shape[0], classes), loss, ["tokens", "time-major logits"]
        return x, x, (shape[0], classes), loss, ["tokens"]
    if len(shape) == 3 and net.pick(True, False):
        x, shape = net.add("GlobalAveragePool", [x]), (shape[0], 1, 1)
    if len(shape) > 1:
        x = net.add("Flatten", [x])
    x = logits = _dense(net, x, int(np.prod(shape)), classes)
    if loss == "cross-entropy" and "probabilities" in features and net.pick(True, False, False):
        used.append("probabilities")
        x = _probabilities(net, x)
    return logits, x, (classes,), loss, used


def _probabilities(net: Net, x: str) -> str:
    return net.add(net.pick("Softmax", "LogSoftmax"), [x], axis=net.pick(1, -1))
