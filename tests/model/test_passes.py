"""Each repair alone: the graph computes the same before and after, and the repair had its effect."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import ModelError
from adabet_onnx.model.passes.average_pool import AveragePoolToConv
from adabet_onnx.model.passes.batchnorm import DecomposeBatchNormalization
from adabet_onnx.model.passes.constants import FoldShapeArithmetic
from adabet_onnx.model.passes.inference_only import RemoveInferenceNoOps
from adabet_onnx.model.passes.layer_norm import CompleteLayerNormalization
from adabet_onnx.model.passes.logits_only import LogitsOnly
from adabet_onnx.model.passes.pads import ExplicitPads, MergePads
from adabet_onnx.model.passes.reserved_names import RenameClashes
from adabet_onnx.model.passes.unshare import UnshareVectors, tied_tensors
from adabet_onnx.model.shapes import infer_shapes

BATCH = 2


def graph_of(
    nodes: Sequence[onnx.NodeProto], values: dict[str, np.ndarray], shape: Sequence[int], *, opset: int = 19
) -> ir.Model:
    """A graph from `input` (N, *shape) to `logits`, whose shape is left open."""
    proto = tiny.build(nodes, values, input_shape=("N", *shape), opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(proto)


def same_after(graph: ir.Model, step: ir.passes.InPlacePass, *inputs: np.ndarray, modified: bool = True) -> None:
    """Apply a pass in place: it returns whether it modified the graph, and the output stays the same."""
    if not inputs:
        inputs = (normal(BATCH, *(int(extent) for extent in graph.graph.inputs[0].shape[1:]), scale=1.0),)
    names = [value.name for value in graph.graph.outputs]
    before = tiny.run(graph, *inputs)
    assert step(graph).modified == modified
    assert [value.name for value in graph.graph.outputs] == names
    assert tiny.difference(tiny.run(graph, *inputs), before) <= 1e-5


def operators(graph: ir.Model) -> list[str]:
    return [item.op_type for item in graph.graph]


# --- BatchNormalization --------------------------------------------------------------------------------------

STATISTICS = ("bn.scale", "bn.bias", "bn.mean", "bn.var")


def statistics(channels: int) -> dict[str, np.ndarray]:
    values = {name: normal(channels, scale=0.3 + 0.1 * i) for i, name in enumerate(STATISTICS)}
    values["bn.scale"] += 1
    values["bn.var"] = 0.3 + np.abs(values["bn.var"])
    return values


def decompose(graph: ir.Model, *trainable: str) -> DecomposeBatchNormalization:
    return DecomposeBatchNormalization(trainable, infer_shapes(graph))


@pytest.mark.parametrize("spatial", [(), (5,), (4, 5), (3, 4, 2)], ids=["2-D", "3-D", "4-D", "5-D"])
@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ((), ["Mul", "Add"]),
        (("bn.scale",), ["Mul", "Add", "Mul", "Add"]),
        (("bn.bias",), ["Mul", "Add", "Add"]),
        (("bn.scale", "bn.bias"), ["Mul", "Add", "Mul", "Add"]),
    ],
    ids=["frozen", "scale", "bias", "both"],
)
def test_batchnorm_is_decomposed(spatial: tuple[int, ...], trainable: tuple[str, ...], expected: list[str]) -> None:
    """As the graph's output, and with an epsilon that matters."""
    bn = node("BatchNormalization", ["input", *STATISTICS], ["logits"], "bn", epsilon=0.05)
    graph = graph_of([bn], statistics(6), (6, *spatial))
    same_after(graph, decompose(graph, *trainable))
    assert [op for op in operators(graph) if op != "Reshape"] == expected
    for name in trainable:  # the trained tensors still exist, with their shapes, and are used once
        value = graph.graph.initializers[name]
        np.testing.assert_array_equal(value.const_value.numpy(), statistics(6)[name])
        assert len(value.uses()) == 1


def conv_bn(*, bias: bool, more: Sequence[onnx.NodeProto] = (), rank: int = 2) -> ir.Model:
    values = {**statistics(5), "conv.weight": normal(5, 3, *[3] * rank)}
    if bias:
        values["conv.bias"] = normal(5)
    nodes = [
        node("Conv", ["input", "conv.weight", *(["conv.bias"] if bias else [])], ["c"], "conv", pads=[1] * 2 * rank),
        node("BatchNormalization", ["c", *STATISTICS], ["logits" if not more else "b"], "bn"),
        *more,
    ]
    return graph_of(nodes, values, (3, *[6] * rank))


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ((), []),
        (("bn.scale",), ["Mul", "Add"]),
        (("bn.bias",), ["Add"]),
        (("bn.scale", "bn.bias"), ["Mul", "Add"]),
    ],
    ids=["frozen", "scale", "bias", "both"],
)
def test_batchnorm_folds_into_a_frozen_conv(
    bias: bool, rank: int, trainable: tuple[str, ...], expected: list[str]
) -> None:
    graph = conv_bn(bias=bias, rank=rank)
    same_after(graph, decompose(graph, *trainable))
    assert [op for op in operators(graph) if op != "Reshape"] == ["Conv", *expected]


@pytest.mark.parametrize("trainable", ["conv.weight", "conv.bias"])
def test_batchnorm_does_not_fold_into_a_trainable_conv(trainable: str) -> None:
    graph = conv_bn(bias=True)
    same_after(graph, decompose(graph, trainable))
    assert operators(graph) == ["Conv", "Mul", "Add"]
    conv = next(iter(graph.graph))
    assert [value.name for value in conv.inputs] == ["input", "conv.weight", "conv.bias"]


def test_batchnorm_does_not_fold_where_the_convolution_is_used_elsewhere() -> None:
    graph = conv_bn(bias=True, more=[node("Add", ["b", "c"], ["logits"], "sum")])
    same_after(graph, decompose(graph))
    assert operators(graph) == ["Conv", "Mul", "Add", "Add"]


def test_batchnorm_does_not_fold_where_the_convolution_is_an_output() -> None:
    graph = conv_bn(bias=True)
    value = graph.graph.node("conv").outputs[0]
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.graph.outputs.append(value)
    x = normal(BATCH, 3, 6, 6)
    before = tiny.run(graph, x, output="c")
    same_after(graph, decompose(graph), x)
    assert tiny.difference(tiny.run(graph, x, output="c"), before) <= 1e-5


def test_a_weight_shared_by_two_convolutions_stays_for_the_other() -> None:
    values = {**statistics(3), "conv.weight": normal(3, 3, 3, 3)}
    nodes = [
        node("Conv", ["input", "conv.weight"], ["c1"], "conv1", pads=[1] * 4),
        node("BatchNormalization", ["c1", *STATISTICS], ["b1"], "bn1"),
        node("Conv", ["b1", "conv.weight"], ["c2"], "conv2", pads=[1] * 4),
        node("BatchNormalization", ["c2", *STATISTICS], ["logits"], "bn2"),
    ]
    graph = graph_of(nodes, values, (3, 6, 6))
    same_after(graph, decompose(graph))
    assert operators(graph) == ["Conv", "Conv"]


def test_batchnorm_in_training_mode_is_refused() -> None:
    bn = node("BatchNormalization", ["input", *STATISTICS], ["logits", "m", "v"], "bn", training_mode=1)
    graph = graph_of([bn], statistics(6), (6, 4, 4))
    with pytest.raises(ModelError, match="training mode"):
        decompose(graph)(graph)


def test_batchnorm_with_computed_statistics_is_refused() -> None:
    nodes = [
        node("Abs", ["bn.var"], ["positive"], "abs"),
        node("BatchNormalization", ["input", *STATISTICS[:3], "positive"], ["logits"], "bn"),
    ]
    graph = graph_of(nodes, statistics(6), (6, 4, 4))
    with pytest.raises(ModelError, match="positive"):
        decompose(graph)(graph)


def test_without_batchnorm_nothing_happens() -> None:
    graph = graph_of([node("Relu", ["input"], ["logits"], "relu")], {}, (4,))
    same_after(graph, decompose(graph), modified=False)


# --- explicit pads -------------------------------------------------------------------------------------------


def window(operator: str, shape: Sequence[int], **attributes: Any) -> ir.Model:
    """One Conv or pooling; a Conv has no kernel_shape, so that its weight's shape has to tell."""
    values, inputs = {}, ["input"]
    if operator == "Conv":
        kernel = attributes.pop("kernel_shape")
        values["weight"] = normal(3, shape[0], *kernel)
        inputs.append("weight")
    return graph_of([node(operator, inputs, ["logits"], "window", **attributes)], values, shape)


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pads_in_one_dimension(training: None, operator: str, mode: str) -> None:
    """Every small kernel, stride and length, with both kinds of rounding, as in the training runtime.

    (Newer releases reject pooling with a stride above the kernel size.)
    """
    for extent, kernel, stride, ceil in itertools.product((5, 6, 7), (1, 2, 3, 4), (1, 2, 3), (0, 1)):
        attributes = {"kernel_shape": [kernel], "strides": [stride], "auto_pad": mode}
        if operator != "Conv":
            attributes["ceil_mode"] = ceil
        graph = window(operator, (2, extent), **attributes)
        step = ExplicitPads(infer_shapes(graph))
        if mode != "VALID" and -(-extent // stride) * stride - stride + kernel < extent - 1:
            with pytest.raises(ModelError, match="auto_pad"):
                step(graph)
            continue
        same_after(graph, step)
        assert "auto_pad" not in next(iter(graph.graph)).attributes


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("extents", [(7, 8), (8, 7)], ids=str)
def test_pads_in_two_dimensions(operator: str, mode: str, extents: tuple[int, int]) -> None:
    graph = window(operator, (2, *extents), kernel_shape=[3, 4], strides=[2, 3], auto_pad=mode)
    same_after(graph, ExplicitPads(infer_shapes(graph)))
    if mode != "VALID":
        pads = list(next(iter(graph.graph)).attributes.get_ints("pads"))
        assert sum(pads) > 0
        larger = [0, 1] if mode == "SAME_LOWER" else [2, 3]
        smaller = [2, 3] if mode == "SAME_LOWER" else [0, 1]
        assert all(pads[a] >= pads[b] for a, b in zip(larger, smaller, strict=True))


PADS = {
    "around": ([0, 0, 1, 2, 0, 0, 3, 0], {}, True),
    "nothing": ([0] * 8, {}, True),
    "of channels": ([0, 1, 1, 1, 0, 1, 1, 1], {}, False),
    "cut off": ([0, 0, -1, 0, 0, 0, 1, 1], {}, False),
    "reflected": ([0, 0, 1, 1, 0, 0, 1, 1], {"mode": "reflect"}, False),
    "ones": ([0, 0, 1, 1, 0, 0, 1, 1], {"value": 1.0}, False),
    "zeros": ([0, 0, 1, 1, 0, 0, 1, 1], {"value": 0.0}, True),
    "of some axes": ([1, 1], {"axes": [2]}, False),
}


@pytest.mark.parametrize(
    ("case", "opset"),
    [(case, opset) for case, (_, given, _) in PADS.items() for opset in (10, 19) if opset == 19 or "axes" not in given],
)
def test_a_pad_becomes_part_of_the_convolution(case: str, opset: int) -> None:
    """In addition to the convolution's own pads; the Pad stays if another node reads it."""
    pads, given, merged = PADS[case]
    values, inputs, attributes = {"weight": normal(3, 4 if case == "of channels" else 2, 3, 2)}, ["input"], {}
    if opset == 10:
        attributes = {"pads": pads} | given
    else:
        values["pads"] = np.array(pads)
        inputs.append("pads")
        if "value" in given or "axes" in given:
            values["value"] = np.array(given.get("value", 0.0), np.float32)
            inputs.append("value")
        if "axes" in given:
            values["axes"] = np.array(given["axes"])
            inputs.append("axes")
        attributes = {"mode": given["mode"]} if "mode" in given else {}
    nodes = [
        node("Pad", inputs, ["padded"], "pad", **attributes),
        node("Conv", ["padded", "weight"], ["a"], "conv", pads=[1, 0, 0, 1], strides=[2, 1]),
        node("ReduceMax", ["padded"], ["largest"], "largest"),
        node("Add", ["a", "largest"], ["logits"], "add"),
    ]
    graph = graph_of(nodes, values, (2, 7, 8), opset=opset)
    same_after(graph, MergePads(), modified=merged)
    conv = next(item for item in graph.graph if item.op_type == "Conv")
    assert (conv.inputs[0] is graph.graph.inputs[0]) == merged


def test_a_pad_stays_before_other_windows_and_pads_of_their_own_kind() -> None:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    for operator, attributes in (("MaxPool", {"kernel_shape": [2, 2]}), ("Conv", {"auto_pad": "SAME_UPPER"})):
        inputs = ["padded", "weight"] if operator == "Conv" else ["padded"]
        nodes = [
            node("Pad", ["input", "pads"], ["padded"], "pad"),
            node(operator, inputs, ["logits"], "window", **attributes),
        ]
        weight = {"weight": normal(3, 2, 2, 2)} if operator == "Conv" else {}
        same_after(graph_of(nodes, {"pads": pads, **weight}, (2, 6, 6)), MergePads(), modified=False)


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool"])
def test_pads_of_a_valid_dilated_window(operator: str) -> None:
    graph = window(operator, (2, 9, 9), kernel_shape=[3, 2], dilations=[2, 3], auto_pad="VALID")
    same_after(graph, ExplicitPads(infer_shapes(graph)))


def test_pads_of_a_dilated_conv() -> None:
    """onnxruntime itself refuses this one; the size must be that of the input."""
    graph = window("Conv", (2, 9, 9), kernel_shape=[3, 2], dilations=[2, 3], auto_pad="SAME_UPPER")
    ExplicitPads(infer_shapes(graph))(graph)
    assert list(next(iter(graph.graph)).attributes.get_ints("pads")) == [2, 1, 2, 2]
    assert tiny.run(graph, normal(1, 2, 9, 9)).shape == (1, 3, 9, 9)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_dilated_pooling_with_auto_pad_is_refused(operator: str) -> None:
    """onnxruntime leaves the dilation out of its padding, so its output is smaller than the standard's."""
    graph = window(operator, (2, 9, 9), kernel_shape=[3, 3], dilations=[2, 2], auto_pad="SAME_UPPER")
    with pytest.raises(ModelError, match="explicit pads"):
        ExplicitPads(infer_shapes(graph))(graph)


def test_pads_need_a_known_size() -> None:
    graph = window("Conv", (2, 9, 9), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    with pytest.raises(ModelError, match="unknown"):
        ExplicitPads({})(graph)


def test_explicit_pads_stay() -> None:
    graph = window("Conv", (2, 9, 9), kernel_shape=[3, 3], pads=[1, 0, 2, 1], auto_pad="NOTSET")
    same_after(graph, ExplicitPads(infer_shapes(graph)), modified=False)


# --- AveragePool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include", [0, 1], ids=["pads do not count", "pads count"])
@pytest.mark.parametrize("ceil", [0, 1], ids=["floor", "ceil"])
def test_average_pool_in_one_dimension(include: int, ceil: int) -> None:
    """Every small window, also those that extend past the end.

    Refused where onnxruntime 1.19 and 1.32 differ: 1.32 leaves out a window of padding alone, and where padding counts
    it does not count elements beyond the padding.
    """
    for extent, kernel, stride, before, after in itertools.product((5, 6, 8), (1, 2, 3), (1, 2, 3), (0, 1), (0, 1, 2)):
        if max(before, after) >= kernel:
            continue
        graph = window(
            "AveragePool",
            (2, extent),
            kernel_shape=[kernel],
            strides=[stride],
            pads=[before, after],
            count_include_pad=include,
            ceil_mode=ceil,
        )
        step = AveragePoolToConv(infer_shapes(graph))
        start = -(-(extent + before + after - kernel) // stride) * stride - before  # of the last window
        if ceil and (start >= extent or (include and start + kernel > extent + after)):
            with pytest.raises(ModelError, match="ceil_mode"):
                step(graph)
            continue
        same_after(graph, step)
        assert set(operators(graph)) <= {"Conv", "Mul"}


@pytest.mark.parametrize("include", [0, 1], ids=["pads do not count", "pads count"])
@pytest.mark.parametrize("ceil", [0, 1], ids=["floor", "ceil"])
@pytest.mark.parametrize(
    ("extents", "attributes"),
    [
        ((8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ((7, 9), {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 0]}),
        ((7, 8), {"kernel_shape": [2, 3], "strides": [2, 2]}),
        ((6, 5), {"kernel_shape": [3, 3], "pads": [2, 1, 1, 2]}),
        ((9, 8), {"kernel_shape": [3, 2], "strides": [2, 2], "dilations": [2, 3], "pads": [1, 1, 0, 1]}),
        ((4, 4), {"kernel_shape": [4, 4]}),
        ((5, 6, 4), {"kernel_shape": [3, 2, 2], "strides": [2, 2, 1], "pads": [1, 0, 1, 1, 0, 0]}),
    ],
    ids=str,
)
def test_average_pool(extents: tuple[int, ...], attributes: dict[str, Any], include: int, ceil: int) -> None:
    graph = window("AveragePool", (3, *extents), count_include_pad=include, ceil_mode=ceil, **attributes)
    if ceil and include and extents in [(7, 9), (7, 8), (9, 8)]:
        with pytest.raises(ModelError, match="ceil_mode"):
            AveragePoolToConv(infer_shapes(graph))(graph)
        return
    same_after(graph, AveragePoolToConv(infer_shapes(graph)))
    conv = next(iter(graph.graph))
    assert conv.op_type == "Conv"
    assert conv.attributes.get_int("group") == 3


def test_average_pool_after_auto_pad() -> None:
    graph = window("AveragePool", (3, 7, 8), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER")
    same_after(graph, ExplicitPads(infer_shapes(graph)))
    same_after(graph, AveragePoolToConv(infer_shapes(graph)))


def test_average_pool_of_unknown_size_is_refused() -> None:
    graph = window("AveragePool", (3, 7, 8), kernel_shape=[3, 3])
    with pytest.raises(ModelError, match="unknown shape"):
        AveragePoolToConv({})(graph)


def test_global_average_pool_stays() -> None:
    graph = graph_of([node("GlobalAveragePool", ["input"], ["logits"], "pool")], {}, (3, 4, 4))
    same_after(graph, AveragePoolToConv(infer_shapes(graph)), modified=False)


# --- LayerNormalization --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm_is_completed(training: None, tmp_path: Path, bias: bool, axis: int) -> None:
    from adabet_onnx.training import ort

    shape = (5, 6) if axis == 1 else (6,)
    values = {"fc.weight": normal(6, 6), "norm.weight": 1 + normal(*shape), "out.weight": normal(6, 2)}
    if bias:
        values["norm.bias"] = normal(*shape)
    norm = [key for key in ("norm.weight", "norm.bias") if key in values]
    nodes = [
        node("MatMul", ["input", "fc.weight"], ["m"], "fc"),
        node("LayerNormalization", ["m", *norm], ["n"], "norm", axis=axis),
        node("MatMul", ["n", "out.weight"], ["all"], "out"),
        node("ReduceMean", ["all"], ["logits"], "mean", axes=[1], keepdims=0),
    ]
    graph = graph_of(nodes, values, (5, 6), opset=17)
    graph.graph.outputs[0].shape = ir.Shape(["N", 2])
    with pytest.raises(ModelError, match="no gradient"):  # the reason for the rewrite
        ort.generate(ir.to_proto(graph), ["fc.weight"], tmp_path, loss="mse", optimizer="sgd", weight_decay=0)
    same_after(graph, CompleteLayerNormalization())
    completed = graph.graph.node("norm")
    assert len(completed.inputs) == 3
    assert len(completed.outputs) == 3
    assert all(value.name for value in completed.outputs)
    assert not CompleteLayerNormalization()(graph).modified
    trainable = ["fc.weight", *norm]
    ort.generate(ir.to_proto(graph), trainable, tmp_path, loss="mse", optimizer="sgd", weight_decay=0)
    made = {value.name for value in onnx.load(tmp_path / "training_model.onnx").graph.input}
    assert {f"{name}_grad.accumulation.buffer" for name in trainable} <= made


# --- un-sharing ----------------------------------------------------------------------------------------------


def shared_biases(*, through: Sequence[str] = ()) -> ir.Model:
    """Three Gemms with one zero bias; the last two get it through an Identity and so on, shared by both."""
    values = {"zero": np.zeros(5, np.float32), **{f"w{i}": normal(5, 5, scale=0.3 + 0.1 * i) for i in range(3)}}
    nodes, value = [], "zero"
    for index, operator in enumerate(through):
        nodes.append(node(operator, [value], [f"z{index}"], f"step{index}"))
        value = f"z{index}"
    nodes += [
        node("Gemm", ["input", "w0", "zero"], ["a"], "first"),
        node("Gemm", ["a", "w1", value], ["b"], "second"),
        node("Gemm", ["b", "w2", value], ["logits"], "third"),
    ]
    return graph_of(nodes, values, (5,))


def biases(graph: ir.Model) -> list[str]:
    """Where each Gemm's bias comes from."""
    from adabet_onnx.model.layers import source_initializer

    found = [source_initializer(item.inputs[2]) for item in graph.graph if item.op_type == "Gemm"]
    return [value.name for value in found if value is not None]


@pytest.mark.parametrize("through", [(), ("Identity",), ("Identity", "Identity")], ids=str)
def test_unshare_vectors(through: tuple[str, ...]) -> None:
    graph = shared_biases(through=through)
    same_after(graph, UnshareVectors())
    assert biases(graph) == ["zero", "zero/second/2", "zero/third/2"]  # the first consumer keeps the name
    before = tiny.run(graph, normal(1, 5))
    graph.graph.initializers["zero/second/2"].const_value = ir.tensor(np.ones(5, np.float32))
    first = [tiny.run(graph, normal(1, 5), output=name) for name in ("a", "b")]
    plain = [tiny.run(shared_biases(), normal(1, 5), output=name) for name in ("a", "b")]
    np.testing.assert_array_equal(first[0], plain[0])
    np.testing.assert_allclose(first[1], plain[1] + 1, rtol=1e-5)
    assert tiny.difference(tiny.run(graph, normal(1, 5)), before) > 1e-3
    assert not UnshareVectors()(graph).modified


def test_unshare_only_the_named() -> None:
    graph = shared_biases()
    same_after(graph, UnshareVectors({"other"}), modified=False)
    assert biases(graph) == ["zero"] * 3
    same_after(graph, UnshareVectors({"zero"}))
    assert len(set(biases(graph))) == 3


def test_unshare_two_inputs_of_one_node() -> None:
    values = {**statistics(4), "ones": np.ones(4, np.float32)}
    nodes = [node("BatchNormalization", ["input", "ones", "bn.bias", "bn.mean", "ones"], ["logits"], "bn")]
    graph = graph_of(nodes, values, (4, 3, 3))
    same_after(graph, UnshareVectors())
    assert [value.name for value in graph.graph.node("bn").inputs[1:]] == ["ones", "bn.bias", "bn.mean", "ones/bn/4"]


def test_matrices_stay_tied_and_are_reported() -> None:
    values = {"tied": normal(5, 5), "single": normal(5, 5), "bias": normal(5)}
    nodes = [
        node("Transpose", ["tied"], ["t"], "t", perm=[1, 0]),
        node("Gemm", ["input", "tied", "bias"], ["a"], "first"),
        node("Gemm", ["a", "t", "bias"], ["b"], "second"),
        node("Gemm", ["b", "single"], ["logits"], "third"),
    ]
    graph = graph_of(nodes, values, (5,))
    same_after(graph, UnshareVectors())
    assert graph.graph.node("t").inputs[0].name == graph.graph.node("first").inputs[1].name == "tied"
    assert tied_tensors(graph, ["tied", "single", "bias", "absent"]) == ["tied"]


def test_a_matrix_used_twice_through_one_transpose_is_tied() -> None:
    values = {"tied": normal(5, 5)}
    nodes = [
        node("Transpose", ["tied"], ["t"], "t", perm=[1, 0]),
        node("Gemm", ["input", "t"], ["a"], "first"),
        node("Gemm", ["a", "t"], ["logits"], "second"),
    ]
    assert tied_tensors(graph_of(nodes, values, (5,)), ["tied"]) == ["tied"]


# --- names, logits, no-ops -----------------------------------------------------------------------------------


def test_clashing_names_are_changed() -> None:
    nodes = [
        node("Gemm", ["labels", "w_grad", "target"], ["h_grad"], "first"),
        node("Relu", ["h_grad"], ["target_value"], "relu"),
        node("Gemm", ["target_value", "w"], ["logits"], "second"),
    ]
    values = {"w_grad": normal(4, 5), "target": normal(5), "w": normal(5, 2)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("labels", 1, ["N", 4])],
        [helper.make_tensor_value_info("logits", 1, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    step = RenameClashes()
    same_after(model, step)
    assert step.renamed == {
        "labels": "labels_value",
        "w_grad": "w_grad_value",
        "target": "target_value_",  # target_value was there already
        "h_grad": "h_grad_value",
    }
    assert set(model.graph.initializers) == {"w_grad_value", "target_value_", "w"}
    again = RenameClashes()
    same_after(model, again, modified=False)
    assert again.renamed == {}


def test_logits_become_the_output() -> None:
    model = ir.from_proto(tiny.conv_net(softmax=True))
    x = normal(BATCH, 3, 8, 8)
    expected = tiny.run(model, x, output="scores")
    step = LogitsOnly("scores")
    assert step(model).modified
    assert [value.name for value in model.graph.outputs] == ["scores"]
    np.testing.assert_array_equal(tiny.run(model, x), expected)
    assert not step(model).modified


@pytest.mark.parametrize("opset", [11, 12, 17])
def test_dropout_is_removed(opset: int) -> None:
    """Opset 12 made ratio and training_mode inputs."""
    values = {"w": normal(4, 3)}
    dropout = node("Dropout", ["input"], ["d"], "dropout", ratio=0.5)
    if opset >= 12:
        values["ratio"], values["mode"] = np.float32(0.5), np.array(False)
        dropout = node("Dropout", ["input", "ratio", "mode"], ["d", "mask"], "dropout")
    graph = graph_of([dropout, node("MatMul", ["d", "w"], ["logits"], "mm")], values, (4,), opset=opset)
    same_after(graph, RemoveInferenceNoOps())
    assert operators(graph) == ["MatMul"]


def test_a_dropout_whose_mask_is_used_stays() -> None:
    nodes = [
        node("Dropout", ["input"], ["d", "mask"], "dropout"),
        node("Cast", ["mask"], ["m"], "cast", to=onnx.TensorProto.FLOAT),
        node("Mul", ["d", "m"], ["logits"], "mul"),
    ]
    graph = graph_of(nodes, {}, (4,))
    same_after(graph, RemoveInferenceNoOps(), modified=False)


@pytest.mark.parametrize("operator", ["Identity", "Dropout"])
def test_no_ops_in_a_row_up_to_the_output(operator: str) -> None:
    nodes = [
        node("MatMul", ["input", "w"], ["m"], "mm"),
        node("Identity", ["m"], ["i"], "identity"),
        node(operator, ["i"], ["logits"], "last"),
    ]
    graph = graph_of(nodes, {"w": normal(4, 3)}, (4,))
    same_after(graph, RemoveInferenceNoOps())
    assert operators(graph) == ["MatMul"]


def test_an_identity_of_the_input_as_output_stays() -> None:
    graph = graph_of([node("Identity", ["input"], ["logits"], "identity")], {}, (4,))
    same_after(graph, RemoveInferenceNoOps(), modified=False)
    assert operators(graph) == ["Identity"]


def test_an_identity_before_a_parameter_is_removed() -> None:
    nodes = [node("Identity", ["w"], ["i"], "identity"), node("MatMul", ["input", "i"], ["logits"], "mm")]
    graph = graph_of(nodes, {"w": normal(4, 3)}, (4,))
    same_after(graph, RemoveInferenceNoOps())
    assert graph.graph.node("mm").inputs[1].name == "w"


def test_a_value_used_beside_its_identity() -> None:
    nodes = [
        node("MatMul", ["input", "w"], ["m"], "mm"),
        node("Relu", ["m"], ["r"], "relu"),
        node("Identity", ["m"], ["logits"], "last"),
        node("Neg", ["r"], ["unused"], "neg"),
    ]
    graph = graph_of(nodes, {"w": normal(4, 3)}, (4,))
    same_after(graph, RemoveInferenceNoOps())
    assert operators(graph) == ["MatMul", "Relu", "Neg"]


# --- Constants and shape arithmetic ----------------------------------------------------------------------------


def halves() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The second half of the channels, and all of them reshaped by the batch, as torch writes both."""
    nodes = [
        node("Shape", ["input"], ["s"], "shape"),
        node("Gather", ["s", "one"], ["c"], "channels"),
        node("Div", ["c", "two"], ["h"], "half"),
        node("Slice", ["input", "h", "c", "one"], ["y"], "slice"),
        node("Gather", ["s", "zero"], ["n"], "batch"),
        node("Concat", ["n", "h", "rest"], ["target"], "target", axis=0),
        node("Reshape", ["y", "target"], ["logits"], "reshape"),
    ]
    numbers = {"zero": [0], "one": [1], "two": [2], "rest": [-1]}
    return nodes, {name: np.array(value, np.int64) for name, value in numbers.items()}


def test_shape_arithmetic_without_the_batch_becomes_constants() -> None:
    graph = graph_of(*halves(), (6, 4, 4))
    same_after(graph, FoldShapeArithmetic(()))
    assert operators(graph) == ["Shape", "Slice", "Gather", "Concat", "Reshape"]  # the batch is not known
    assert graph.graph.initializers["h"].const_value.numpy().tolist() == [3]
    for batch in (1, 5):
        x = normal(batch, 6, 4, 4)
        np.testing.assert_array_equal(tiny.run(graph, x), x[:, 3:].reshape(batch, 3, 16))


def test_numbers_computed_from_the_batch_stay() -> None:
    nodes = [
        node("Shape", ["input"], ["s"], "shape"),
        node("Gather", ["s", "zero"], ["n"], "batch"),
        node("Min", ["n", "five"], ["m"], "min"),
        node("Slice", ["input", "zero", "m", "zero"], ["logits"], "slice"),
    ]
    values = {"zero": np.array([0], np.int64), "five": np.array([5], np.int64)}
    graph = graph_of(nodes, values, (4,))
    same_after(graph, FoldShapeArithmetic(()), modified=False)  # though 7 and 11 samples give the same
    assert operators(graph) == ["Shape", "Gather", "Min", "Slice"]


def test_a_number_stays_one_of_no_dimension() -> None:
    nodes = [
        node("Shape", ["input"], ["s"], "shape"),
        node("Gather", ["s", "one"], ["c"], "channels"),
        node("Sub", ["c", "one"], ["last"], "last"),
        node("Gather", ["input", "last"], ["logits"], "gather", axis=1),
    ]
    graph = graph_of(nodes, {"one": np.array(1, np.int64)}, (6, 4))
    same_after(graph, FoldShapeArithmetic(()))
    assert tiny.run(graph, normal(2, 6, 4)).shape == (2, 4)


def test_constants_in_parts_become_one_but_not_what_is_trained() -> None:
    nodes = [
        node("Concat", ["a", "b"], ["w"], "w", axis=0),
        node("Concat", ["a", "c"], ["v"], "v", axis=0),
        node("Mul", ["input", "w"], ["m"], "mul"),
        node("Mul", ["m", "v"], ["logits"], "again"),
    ]
    graph = graph_of(nodes, {"a": normal(2), "b": normal(1), "c": normal(1)}, (3,))
    same_after(graph, FoldShapeArithmetic({"c"}))
    assert operators(graph) == ["Concat", "Mul", "Mul"]
    assert graph.graph.node("v").inputs[1].name == "c"
