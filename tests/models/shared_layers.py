"""Networks that apply a layer several times: Siamese, unrolled, with repeated blocks; and tensors merged or tied."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from .tiny import assemble, node, normal

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def info(name: str, shape: list[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def norm_nodes(kind: str, value: str, made: str, where: str) -> list[onnx.NodeProto]:
    """A normalisation or scale that uses the tensors ``norm.*``."""
    weights = {
        "BatchNormalization": ["norm.weight", "norm.bias", "norm.mean", "norm.var"],
        "LayerNormalization": ["norm.weight", "norm.bias"],
        "PRelu": ["norm.weight"],
    }
    if kind == "Mul":
        return [
            node("Mul", [value, "norm.weight"], [f"{made}/m"], f"{where}/scale"),
            node("Add", [f"{made}/m", "norm.bias"], [made], f"{where}/shift"),
        ]
    return [node(kind, [value, *weights[kind]], [made], where)]


def norm_values(kind: str, size: int) -> dict[str, np.ndarray]:
    """What `norm_nodes` uses."""
    keys = {"PRelu": ["weight"], "BatchNormalization": ["weight", "bias", "mean", "var"]}.get(kind, ["weight", "bias"])
    return {f"norm.{key}": np.abs(normal(size, i + 1)[:, 0]) + 0.5 for i, key in enumerate(keys)}


def siamese(*, bias: str = "Gemm", norm: str | None = None, before: bool = False, opset: int = 17) -> onnx.ModelProto:
    """|g(a) - g(b)| and fc, with g = f, Tanh, h: (N, 8) twice -> (N, 2); ``zero`` is the bias of both f and fc.

    Args:
        bias: "Gemm" (of Gemm), "Add" (MatMul and Add) or "none".
        norm: a normalisation or scale: after f, or before it.
        before: where it is.
        opset: of the model.
    """
    nodes, values = [], {
        "f.weight": normal(8, 8, scale=0.4),
        "f.bias": normal(8),
        "h.weight": normal(8, 6, scale=0.4),
        "zero": np.zeros(6, np.float32),
        "fc.weight": normal(6, 6, scale=0.4),
        "out.weight": normal(6, 2),
    }  # fmt: skip
    if bias == "none":
        values.pop("f.bias")
    for side in "ab":
        value = side
        if norm and before:
            nodes += norm_nodes(norm, value, f"{side}/n", f"/norm_{side}")
            value = f"{side}/n"
        if bias == "Gemm":
            nodes.append(node("Gemm", [value, "f.weight", "f.bias"], [f"{side}/f"], f"/f_{side}"))
        else:
            end = f"{side}/m" if bias == "Add" else f"{side}/f"
            nodes.append(node("MatMul", [value, "f.weight"], [end], f"/f_{side}"))
            if bias == "Add":
                nodes.append(node("Add", [f"{side}/m", "f.bias"], [f"{side}/f"], f"/f_{side}/add"))
        value = f"{side}/f"
        if norm and not before:
            nodes += norm_nodes(norm, value, f"{side}/n", f"/norm_{side}")
            value = f"{side}/n"
        nodes += [
            node("Tanh", [value], [f"{side}/t"], f"/tanh_{side}"),
            node("Gemm", [f"{side}/t", "h.weight", "zero"], [f"{side}/h"], f"/h_{side}"),
        ]
    nodes += [
        node("Sub", ["a/h", "b/h"], ["d"], "/sub"),
        node("Abs", ["d"], ["e"], "/abs"),
        node("Gemm", ["e", "fc.weight", "zero"], ["c"], "/fc"),
        node("Tanh", ["c"], ["ct"], "/tanh"),
        node("MatMul", ["ct", "out.weight"], ["logits"], "/out"),
    ]
    if norm:
        values |= norm_values(norm, 8)
    given = [info("a", ["N", 8]), info("b", ["N", 8])]
    return assemble(nodes, values, given, [info("logits", ["N", 2])], opset=opset)


def by_identity(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes of branch b use Identities of the tensors, and have one before their norm, as torch exports them."""
    weights = {initializer.name for initializer in proto.graph.initializer}
    again: dict[str, onnx.NodeProto] = {}
    for item in proto.graph.node:
        for position, name in enumerate(item.input):
            if name in weights and "_b" in item.name:
                again.setdefault(name, node("Identity", [name], [f"{name}/again"], f"/{name}/again"))
                item.input[position] = f"{name}/again"
            elif name == "b/f":
                again.setdefault(name, node("Identity", [name], ["b/f/again"], "/b/f/again"))
                item.input[position] = "b/f/again"
    body = [*[n for key, n in again.items() if key in weights], *proto.graph.node]
    if "b/f" in again:
        where = next(i for i, item in enumerate(body) if "b/f" in item.output)
        body.insert(where + 1, again["b/f"])
    del proto.graph.node[:]
    proto.graph.node.extend(body)
    onnx.checker.check_model(proto)
    return proto


def siamese_lstm() -> onnx.ModelProto:
    """One LSTM for two sequences (4, N, 5), to (N, 3)."""
    values = {"lstm.w": normal(1, 24, 5), "lstm.r": normal(1, 24, 6), "lstm.b": normal(1, 48), "axis": np.array([0])}
    values["fc.weight"] = normal(6, 3)
    nodes = []
    for side in "ab":
        nodes += [
            node("Transpose", [side], [f"{side}/x"], f"/turn_{side}", perm=[1, 0, 2]),
            node("LSTM", [f"{side}/x", "lstm.w", "lstm.r", "lstm.b"], ["", f"{side}/h"], f"/l_{side}", hidden_size=6),
            node("Squeeze", [f"{side}/h", "axis"], [f"{side}/s"], f"/squeeze_{side}"),
        ]
    nodes += [
        node("Mul", ["a/s", "b/s"], ["m"], "/mul"),
        node("MatMul", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    given = [info("a", ["N", 4, 5]), info("b", ["N", 4, 5])]
    return assemble(nodes, values, given, [info("logits", ["N", 3])])


def unrolled(steps: int = 4, *, at_once: bool = False, norm: bool = False) -> onnx.ModelProto:
    """h = tanh(x_t W + h U + b), maybe normalised, ``steps`` times from zero, and fc: (N, steps, 5) -> (N, 3).

    Args:
        steps: of time.
        at_once: x W is computed for all steps at once and sliced.
        norm: h is normalised (LayerNormalization) before the next step.
    """
    values = {
        "w.weight": normal(5, 6),
        "u.weight": normal(6, 6),
        "b": normal(6),
        "zero": np.array(0, np.float32),
        "axis": np.array([1]),
        "start": normal(5, 6) * 0,
        "fc.weight": normal(6, 3),
    }
    if norm:
        values |= norm_values("LayerNormalization", 6)
    nodes = []
    if at_once:
        nodes.append(node("MatMul", ["input", "w.weight"], ["xw"], "/w"))
    for t in range(steps):
        values[f"from{t}"], values[f"to{t}"] = np.array([t]), np.array([t + 1])
        source = "xw" if at_once else "input"
        nodes += [
            node("Slice", [source, f"from{t}", f"to{t}", "axis"], [f"s{t}"], f"/slice{t}"),
            node("Squeeze", [f"s{t}", "axis"], [f"x{t}"], f"/squeeze{t}"),
        ]
        value = f"x{t}"
        if not at_once:
            nodes.append(node("MatMul", [value, "w.weight"], [f"w{t}"], f"/w{t}"))
            value = f"w{t}"
        if t == 0:
            nodes.append(node("MatMul", ["x0", "start"], ["h"], "/start")) if not at_once else nodes.append(
                node("Mul", ["x0", "zero"], ["h"], "/start")
            )
        nodes += [
            node("MatMul", ["h" if t == 0 else f"h{t - 1}", "u.weight"], [f"u{t}"], f"/u{t}"),
            node("Add", [value, f"u{t}"], [f"p{t}"], f"/sum{t}"),
            node("Add", [f"p{t}", "b"], [f"q{t}"], f"/bias{t}"),
            node("Tanh", [f"q{t}"], [f"r{t}" if norm else f"h{t}"], f"/tanh{t}"),
        ]
        if norm:
            nodes += norm_nodes("LayerNormalization", f"r{t}", f"h{t}", f"/norm{t}")
    if at_once:
        values.pop("start")
    else:
        values.pop("zero")
    nodes.append(node("MatMul", [f"h{steps - 1}", "fc.weight"], ["logits"], "/fc"))
    return assemble(nodes, values, [info("input", ["N", steps, 5])], [info("logits", ["N", 3])])


def repeated(times: int = 3) -> onnx.ModelProto:
    """A block of two dense layers, each with a residual and a LayerNormalization after it, ``times`` times (ALBERT)."""
    values = {"in.weight": normal(5, 6), "fc.weight": normal(6, 3)}
    for key in ("one", "two"):
        values |= {f"{key}.weight": normal(6, 6), f"{key}.bias": normal(6)}
        values |= {f"norm_{key}.weight": normal(6) + 1, f"norm_{key}.bias": normal(6, scale=0.1)}
    nodes = [node("MatMul", ["input", "in.weight"], ["x"], "/in")]
    value = "x"
    for t in range(times):
        for key in ("one", "two"):
            made = f"{key}{t}"
            nodes += [
                node("MatMul", [value, f"{key}.weight"], [f"{made}/m"], f"/{made}/mm"),
                node("Add", [f"{made}/m", f"{key}.bias"], [f"{made}/a"], f"/{made}/add"),
                node("Tanh", [f"{made}/a"], [f"{made}/t"], f"/{made}/tanh"),
                node("Add", [f"{made}/t", value], [f"{made}/r"], f"/{made}/residual"),
                node("LayerNormalization", [f"{made}/r", f"norm_{key}.weight", f"norm_{key}.bias"], [made], f"/{made}"),
            ]
            value = made
    nodes.append(node("MatMul", [value, "fc.weight"], ["logits"], "/fc"))
    return assemble(nodes, values, [info("input", ["N", 5])], [info("logits", ["N", 3])])


def norms_merged() -> onnx.ModelProto:
    """Two LayerNormalizations of one network that an exporter gave one scale and one shift, as they had at first."""
    values = {"a.weight": normal(5, 6), "b.weight": normal(6, 6), "fc.weight": normal(6, 3)}
    values |= {"one": np.ones(6, np.float32), "zero": np.zeros(6, np.float32)}
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a"),
        node("LayerNormalization", ["m", "one", "zero"], ["n"], "/n1"),
        node("MatMul", ["n", "b.weight"], ["o"], "/b"),
        node("LayerNormalization", ["o", "one", "zero"], ["p"], "/n2"),
        node("MatMul", ["p", "fc.weight"], ["logits"], "/fc"),
    ]
    return assemble(nodes, values, [info("input", ["N", 5])], [info("logits", ["N", 3])])


def embedding_and_head() -> onnx.ModelProto:
    """One table in a Gather and, transposed, in the last MatMul."""
    values = {"tokens.weight": normal(11, 5), "axes": np.array([1])}
    nodes = [
        node("Gather", ["tokens.weight", "ids"], ["e"], "/embed"),
        node("ReduceMean", ["e"], ["m"], "/mean", axes=[1], keepdims=0),
        node("Transpose", ["tokens.weight"], ["t"], "/turn", perm=[1, 0]),
        node("MatMul", ["m", "t"], ["logits"], "/out"),
    ]
    values.pop("axes")
    return assemble(nodes, values, [info("ids", ["N", 6], INT64)], [info("logits", ["N", 11])])


def tied_dense() -> onnx.ModelProto:
    """One square matrix and one bias in a Gemm and, transposed, in another: tied, the bias too."""
    values = {"w.weight": normal(6, 6), "w.bias": normal(6), "fc.weight": normal(6, 3), "fc.bias": normal(3)}
    nodes = [
        node("Gemm", ["input", "w.weight", "w.bias"], ["a"], "/first"),
        node("Tanh", ["a"], ["b"], "/tanh"),
        node("Gemm", ["b", "w.weight", "w.bias"], ["c"], "/second", transB=1),
        node("Gemm", ["c", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    return assemble(nodes, values, [info("input", ["N", 6])], [info("logits", ["N", 3])])


def two_biases() -> onnx.ModelProto:
    """One matrix in two nodes whose biases are not the same: two layers."""
    values = {"w.weight": normal(6, 6), "one": normal(6), "two": normal(6) + 1, "fc.weight": normal(6, 3)}
    nodes = [
        node("Gemm", ["input", "w.weight", "one"], ["a"], "/first"),
        node("Tanh", ["a"], ["b"], "/tanh"),
        node("Gemm", ["b", "w.weight", "two"], ["c"], "/second"),
        node("MatMul", ["c", "fc.weight"], ["logits"], "/fc"),
    ]
    return assemble(nodes, values, [info("input", ["N", 6])], [info("logits", ["N", 3])])


def bias_once() -> onnx.ModelProto:
    """One matrix in two nodes, a bias added after the second alone."""
    values = {"w.weight": normal(6, 6), "w.bias": normal(6), "fc.weight": normal(6, 3)}
    nodes = [
        node("MatMul", ["input", "w.weight"], ["a"], "/first"),
        node("Tanh", ["a"], ["b"], "/tanh"),
        node("MatMul", ["b", "w.weight"], ["c"], "/second"),
        node("Add", ["c", "w.bias"], ["d"], "/add"),
        node("MatMul", ["d", "fc.weight"], ["logits"], "/fc"),
    ]
    return assemble(nodes, values, [info("input", ["N", 6])], [info("logits", ["N", 3])])


def two_scales(*, dilated: bool = True) -> onnx.ModelProto:
    """One convolution and its bias at two dilations (TridentNet), summed: one layer."""
    values = {"c.weight": normal(4, 3, 3, 3), "c.bias": normal(4), "fc.weight": normal(4, 3)}
    nodes = [
        node("Conv", ["input", "c.weight", "c.bias"], ["a"], "/c1", pads=[1] * 4),
        node("Conv", ["input", "c.weight", "c.bias"], ["b"], "/c2", pads=[2 if dilated else 1] * 4, dilations=[2] * 2),
        node("Relu", ["a"], ["ra"], "/r1"),
        node("Relu", ["b"], ["rb"], "/r2"),
        node("Add", ["ra", "rb"], ["s"], "/sum"),
        node("GlobalAveragePool", ["s"], ["p"], "/pool"),
        node("Flatten", ["p"], ["q"], "/flat"),
        node("MatMul", ["q", "fc.weight"], ["logits"], "/fc"),
    ]
    return assemble(nodes, values, [info("input", ["N", 3, 8, 8])], [info("logits", ["N", 3])])
