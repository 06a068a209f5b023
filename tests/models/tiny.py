"""Tiny ONNX models for tests, built by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node


def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
    """Normal float32 numbers, the same ones for the same shape."""
    return (scale * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)


def run(model: onnx.ModelProto | ir.Model, *inputs: np.ndarray, output: str | None = None) -> np.ndarray:
    """The first output, or the value of that name, in onnxruntime; inputs are given in the graph's order."""
    proto = onnx.ModelProto()
    proto.CopyFrom(ir.to_proto(model) if isinstance(model, ir.Model) else model)
    if output is not None:
        del proto.graph.output[:]
        proto.graph.output.append(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    stored = {tensor.name for tensor in proto.graph.initializer}
    names = [value.name for value in proto.graph.input if value.name not in stored]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected number where that is above 1; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max(initial=0)) / max(1.0, float(np.abs(expected).max(initial=0)))


def build(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, np.ndarray],
    *,
    input_shape: Sequence[int | str] = ("N", 3, 8, 8),
    output: str = "logits",
    output_shape: Sequence[int | str] | None = None,
    opset: int = 17,
    ir_version: int = 8,
    metadata: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """A model with one float32 input ``input`` and one float32 output; checked."""
    given = [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(input_shape))]
    if output_shape is None:
        output_shape = [input_shape[0], "classes"]
    made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(output_shape))]
    model = assemble(nodes, initializers, given, made, opset=opset, ir_version=ir_version)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def assemble(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, np.ndarray],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model of these parts; checked."""
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model)
    return model


def conv_net(
    *,
    seed: int = 0,
    classes: int = 4,
    norm: bool = True,
    softmax: bool = False,
    batch: int | str = "N",
    opset: int = 17,
) -> onnx.ModelProto:
    """conv1 - bn1 - Relu - conv2 - bn2 - Relu - GlobalAveragePool - fc on (N, 3, 8, 8) images."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    values: dict[str, np.ndarray] = {"conv1.weight": normal(6, 3, 3, 3), "conv2.weight": normal(8, 6, 3, 3)}
    nodes: list[onnx.NodeProto] = []
    value = "input"
    for index, channels in ((1, 6), (2, 8)):
        conv = helper.make_node("Conv", [value, f"conv{index}.weight"], [f"c{index}"], f"/conv{index}", pads=[1] * 4)
        nodes.append(conv)
        value = f"c{index}"
        if norm:
            for key in ("weight", "bias", "running_mean", "running_var"):
                values[f"bn{index}.{key}"] = normal(channels)
            values[f"bn{index}.weight"] += 1
            values[f"bn{index}.running_var"] = 0.5 + rng.random(channels).astype(np.float32)
            keys = [f"bn{index}.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
            nodes.append(helper.make_node("BatchNormalization", [value, *keys], [f"b{index}"], f"/bn{index}"))
            value = f"b{index}"
        nodes.append(helper.make_node("Relu", [value], [f"r{index}"], f"/relu{index}"))
        value = f"r{index}"
    values["fc.weight"], values["fc.bias"] = normal(classes, 8), normal(classes)
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"], "/pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "/flatten"))
    last = "scores" if softmax else "logits"
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], [last], "/fc", transB=1))
    if softmax:
        nodes.append(helper.make_node("Softmax", [last], ["logits"], "/softmax", axis=1))
    return build(nodes, values, input_shape=(batch, 3, 8, 8), output_shape=(batch, classes), opset=opset)


def mlp(*, seed: int = 0, features: int = 10, hidden: int = 16, classes: int = 3) -> onnx.ModelProto:
    """MatMul + Add, LayerNormalization, Relu, MatMul + Add on (N, features)."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (0.4 * rng.standard_normal(shape)).astype(np.float32)

    values = {
        "hidden.weight": normal(features, hidden),
        "hidden.bias": normal(hidden),
        "norm.weight": 1 + normal(hidden),
        "norm.bias": normal(hidden),
        "out.weight": normal(hidden, classes),
        "out.bias": normal(classes),
    }
    nodes = [
        helper.make_node("MatMul", ["input", "hidden.weight"], ["m1"], "/hidden/MatMul"),
        helper.make_node("Add", ["m1", "hidden.bias"], ["a1"], "/hidden/Add"),
        helper.make_node("LayerNormalization", ["a1", "norm.weight", "norm.bias"], ["n1"], "/norm", axis=-1),
        helper.make_node("Relu", ["n1"], ["r1"], "/relu"),
        helper.make_node("MatMul", ["r1", "out.weight"], ["m2"], "/out/MatMul"),
        helper.make_node("Add", ["m2", "out.bias"], ["logits"], "/out/Add"),
    ]
    return build(nodes, values, input_shape=("N", features), output_shape=("N", classes))


def attention(layout: str, *, batch: int | str = 1, heads: int = 2, size: int = 4, length: int = 5) -> onnx.ModelProto:
    """One attention layer on (1, length, heads * size), with the batch of one repeated in every Reshape.

    ``layout``: "four axes" (batch, heads, length, size); "heads merged into the batch", as (heads, length, size);
    or "sequence first", where tokens come before the batch.
    """
    h, d, s, c = heads, size, length, heads * size
    targets = {
        "four axes": ([1, -1, h, d], [0, 2, 1, 3], None),
        "heads merged into the batch": ([1, s, h, d], [0, 2, 1, 3], [h, s, d]),
        "sequence first": ([s, h, d], [1, 0, 2], None),
    }
    split, swap, merge = targets[layout]
    values = {"split": np.array(split), "fc.weight": normal(s * c, 3)}
    nodes, tokens = [], "input"
    if layout == "sequence first":
        nodes.append(node("Transpose", ["input"], ["tokens"], "tokens", perm=[1, 0, 2]))
        tokens = "tokens"
    for key in ("query", "key", "value"):
        values[f"{key}.weight"] = normal(c, c, scale=0.2 + len(key) / 10)
        nodes += [
            node("MatMul", [tokens, f"{key}.weight"], [f"{key}/m"], f"/{key}"),
            node("Reshape", [f"{key}/m", "split"], [f"{key}/r"], f"/{key}/reshape"),
            node("Transpose", [f"{key}/r"], [f"{key}/t"], f"/{key}/transpose", perm=swap),
        ]
        if merge:
            values["merge"] = np.array(merge)
            nodes.append(node("Reshape", [f"{key}/t", "merge"], [f"{key}/h"], f"/{key}/merge"))
    suffix = "h" if merge else "t"
    nodes += [
        node(
            "Transpose",
            [f"key/{suffix}"],
            ["key/last"],
            "/key/last",
            perm=[0, 1, 3, 2] if layout == "four axes" else [0, 2, 1],
        ),
        node("MatMul", [f"query/{suffix}", "key/last"], ["scores"], "/scores"),
        node("Softmax", ["scores"], ["weights"], "/softmax", axis=-1),
        node("MatMul", ["weights", f"value/{suffix}"], ["mixed"], "/mix"),
    ]
    value = "mixed"
    if merge:
        values["unmerge"] = np.array([1, h, s, d])
        nodes.append(node("Reshape", [value, "unmerge"], ["unmerged"], "/unmerge"))
        value = "unmerged"
    values["join"] = np.array([s, 1, c] if layout == "sequence first" else [1, s, c])
    nodes += [
        node("Transpose", [value], ["swapped"], "/swap", perm=swap),
        node("Reshape", ["swapped", "join"], ["joined"], "/join"),
    ]
    value = "joined"
    if layout == "sequence first":
        nodes.append(node("Transpose", [value], ["last"], "/last", perm=[1, 0, 2]))
        value = "last"
    values["flat"] = np.array([1, -1])
    nodes += [
        node("Reshape", [value, "flat"], ["features"], "/flat"),
        node("MatMul", ["features", "fc.weight"], ["logits"], "/fc"),
    ]
    return build(nodes, values, input_shape=(batch, s, c), output_shape=(batch, 3))


def recurrent(steps: int = 5, width: int = 4, units: int = 6, classes: int = 3) -> onnx.ModelProto:
    """A bidirectional LSTM, a GRU of each kind, an RNN and fc on (N, steps, width)."""
    nodes = [node("Transpose", ["input"], ["x0"], "/turn", perm=[1, 0, 2])]
    values: dict[str, np.ndarray] = {"flat": np.array([0, 0, -1], np.int64)}
    layers = (
        ("lstm", "LSTM", 4, 2, {"direction": "bidirectional"}),
        ("gru", "GRU", 3, 1, {}),
        ("linear", "GRU", 3, 1, {"linear_before_reset": 1, "direction": "reverse"}),
        ("rnn", "RNN", 1, 1, {}),
    )
    inputs = width
    for i, (name, op_type, gates, directions, attributes) in enumerate(layers):
        values[f"{name}.w"] = normal(directions, gates * units, inputs)
        values[f"{name}.r"] = normal(directions, gates * units, units)
        values[f"{name}.b"] = normal(directions, 2 * gates * units)
        given = [f"x{i}", f"{name}.w", f"{name}.r", f"{name}.b"]
        nodes += [
            node(op_type, given, [f"y{i}"], f"/{name}", hidden_size=units, **attributes),
            node("Transpose", [f"y{i}"], [f"t{i}"], f"/{name}/turn", perm=[0, 2, 1, 3]),
            node("Reshape", [f"t{i}", "flat"], [f"x{i + 1}"], f"/{name}/flat"),
        ]
        inputs = directions * units
    values["fc.weight"] = normal(steps * units, classes)
    nodes += [
        node("Transpose", [f"x{len(layers)}"], ["back"], "/back", perm=[1, 0, 2]),
        node("Flatten", ["back"], ["features"], "/flatten"),
        node("MatMul", ["features", "fc.weight"], ["logits"], "/fc"),
    ]
    return build(nodes, values, input_shape=["N", steps, width])
