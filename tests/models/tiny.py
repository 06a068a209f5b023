"""Tiny ONNX models for tests, built by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    given = [helper.make_tensor_value_info("input", TensorProto.FLOAT, list(input_shape))]
    if output_shape is None:
        output_shape = [input_shape[0], "classes"]
    made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(output_shape))]
    graph = helper.make_graph(list(nodes), "tiny", given, made, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
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
