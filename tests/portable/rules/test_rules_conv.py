"""Gradient rules of Conv and ConvTranspose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, relative

from adabet_onnx.portable.autodiff import differentiate, plan
from adabet_onnx.portable.builder import Builder
from adabet_onnx.portable.rules.conv import by_conv, by_conv_transpose, image_gradient
from adabet_onnx.portable.rules.conv_geometry import Geometry, geometry
from adabet_onnx.portable.rules.conv_strategy import strategy
from adabet_onnx.portable.rules.conv_weight import weight_gradient
from adabet_onnx.portable.rules.registry import NodeView
from adabet_onnx.portable.shapes import annotate

node = helper.make_node


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def conv(x: Sequence[int], w: Sequence[int], *, op_type: str = "Conv", bias: bool = True, **attributes) -> tuple:
    """A node, its feed x and its constants."""
    group = attributes.get("group", 1)
    features = w[1] * group if op_type == "ConvTranspose" else w[0]
    constants = {"w": values(*w, seed=1)} | ({"b": values(features, seed=2)} if bias else {})
    return node(op_type, ["x", *constants], ["y"], **attributes), {"x": values(*x)}, constants


CONVS = {
    "1x1": conv((3, 5, 4, 4), (6, 5, 1, 1)),
    "1x1, many channels": conv((2, 40, 2, 2), (30, 40, 1, 1)),
    "1x1, stride": conv((2, 5, 7, 6), (4, 5, 1, 1), strides=[2, 2]),
    "1x1, pads": conv((2, 5, 4, 4), (4, 5, 1, 1), pads=[1, 0, 2, 1]),
    "1x1, groups": conv((2, 6, 4, 4), (8, 3, 1, 1), group=2),
    "1x1, every channel": conv((2, 6, 4, 4), (6, 1, 1, 1), group=6),
    "3x3": conv((3, 4, 7, 6), (5, 4, 3, 3), pads=[1, 1, 1, 1]),
    "3x3, windows": conv((2, 12, 7, 6), (5, 12, 3, 3), pads=[1, 1, 1, 1]),
    "3x3, many channels": conv((2, 20, 3, 3), (24, 20, 3, 3), pads=[1, 1, 1, 1]),
    "3x3, stride": conv((2, 12, 8, 8), (5, 12, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    "3x3, asymmetric": conv((2, 3, 9, 8), (4, 3, 3, 3), pads=[0, 2, 1, 0], strides=[2, 1], dilations=[1, 2]),
    "3x3, wide padding": conv((2, 12, 4, 4), (2, 12, 3, 3), pads=[3, 2, 0, 4]),
    "3x3, padding alone": conv((2, 3, 2, 2), (2, 3, 2, 2), pads=[3, 3, 0, 0], strides=[3, 3]),
    "3x3, groups": conv((2, 6, 6, 5), (4, 3, 3, 3), pads=[1, 1, 1, 1], group=2),
    "3x3, groups, many channels": conv((2, 30, 2, 2), (32, 15, 3, 3), pads=[1, 1, 1, 1], group=2),
    "depthwise": conv((3, 5, 8, 9), (5, 1, 3, 3), pads=[1, 1, 1, 1], group=5),
    "depthwise, small": conv((3, 5, 7, 6), (5, 1, 3, 3), pads=[1, 1, 1, 1], group=5),
    "depthwise, small, asymmetric": conv(
        (2, 3, 7, 6), (3, 1, 3, 2), pads=[0, 2, 1, 0], strides=[2, 1], dilations=[1, 2], group=3
    ),
    "depthwise, small, rest": conv((2, 3, 6, 8), (3, 1, 3, 3), strides=[2, 3], group=3),
    "depthwise, whole image": conv((2, 3, 4, 4), (3, 1, 4, 4), group=3),
    "depthwise, stride": conv((2, 5, 15, 15), (5, 1, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], group=5),
    "depthwise, wide": conv((1, 2, 30, 28), (2, 1, 3, 3), pads=[1, 1, 1, 1], group=2),
    "depthwise, wide, stride": conv((1, 2, 57, 56), (2, 1, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], group=2),
    "depthwise, wide kernel": conv((1, 2, 29, 31), (2, 1, 5, 5), pads=[2, 2, 2, 2], group=2),
    "depthwise, 1-D": conv((2, 3, 20), (3, 1, 5), pads=[2, 2], group=3),
    "depthwise, 1-D, stride": conv((2, 3, 20), (3, 1, 5), strides=[2], group=3),
    "depthwise, 3-D": conv((2, 3, 4, 5, 4), (3, 1, 2, 3, 2), dilations=[2, 1, 1], strides=[1, 2, 1], group=3),
    "depthwise, two each": conv((2, 3, 6, 5), (6, 1, 3, 3), pads=[1, 1, 1, 1], group=3),
    "patches": conv((2, 3, 8, 12), (5, 3, 4, 4), strides=[4, 4]),
    "patches, rest": conv((2, 3, 9, 8), (5, 3, 2, 3), strides=[2, 3]),
    "whole image": conv((3, 4, 5, 4), (6, 4, 5, 4)),
    "7x7, stride": conv((2, 3, 17, 16), (4, 3, 7, 7), pads=[3, 3, 3, 3], strides=[2, 2]),
    "large kernel": conv((1, 2, 14, 14), (2, 2, 9, 9), pads=[4, 4, 4, 4]),
    "1-D": conv((3, 4, 12), (5, 4, 3), pads=[1, 0], dilations=[2]),
    "3-D": conv((2, 3, 4, 5, 4), (4, 3, 2, 3, 2), pads=[1, 0, 1, 0, 1, 0], strides=[2, 1, 2]),
    "no bias": conv((2, 3, 5, 5), (4, 3, 3, 3), bias=False),
    "auto_pad VALID": conv((2, 3, 5, 5), (4, 3, 3, 3), auto_pad="VALID", strides=[2, 2]),
}
TRANSPOSED = {
    "2x2, stride": conv((2, 4, 3, 4), (4, 5, 2, 2), op_type="ConvTranspose", strides=[2, 2]),
    "3x3": conv((2, 4, 5, 4), (4, 3, 3, 3), op_type="ConvTranspose", pads=[1, 1, 1, 1]),
    "3x3, output_padding": conv(
        (2, 4, 5, 4), (4, 3, 3, 3), op_type="ConvTranspose", pads=[1, 0, 1, 1], strides=[2, 3], output_padding=[1, 2]
    ),
    "groups": conv((2, 4, 5, 4), (4, 3, 3, 3), op_type="ConvTranspose", group=2, strides=[2, 1], dilations=[1, 2]),
    "depthwise": conv((2, 4, 5, 4), (4, 1, 3, 3), op_type="ConvTranspose", group=4, strides=[2, 2], pads=[1, 1, 0, 0]),
    "one element": conv((2, 4, 1, 1), (4, 3, 4, 4), op_type="ConvTranspose", bias=False),
    "1-D": conv((2, 4, 6), (4, 3, 4), op_type="ConvTranspose", strides=[2], pads=[1, 1]),
    "3-D": conv((1, 3, 3, 2, 3), (3, 2, 2, 3, 2), op_type="ConvTranspose", strides=[2, 1, 2], pads=[0, 1, 0, 1, 1, 0]),
    "output_shape": conv((2, 4, 4, 4), (4, 3, 3, 3), op_type="ConvTranspose", strides=[2, 2], output_shape=[8, 7]),
}
_WRONG_IN_REFERENCE = ("ConvTranspose, groups", "ConvTranspose, depthwise", "ConvTranspose, output_shape")
CASES = {f"Conv, {k}": v for k, v in CONVS.items()} | {f"ConvTranspose, {k}": v for k, v in TRANSPOSED.items()}


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    given, feeds, constants = CASES[case]
    check_torch(torch_oracle, given, feeds, ["x", *constants], constants)


@pytest.mark.parametrize("case", CASES)
def test_with_a_frozen_weight(case, torch_oracle):
    given, feeds, constants = CASES[case]
    check_torch(torch_oracle, given, feeds, ["x"], constants)


# The reference evaluator's ConvTranspose is wrong with groups (their channels and bias) and with output_shape.
@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in _WRONG_IN_REFERENCE])
def test_against_finite_differences(case):
    given, feeds, constants = CASES[case]
    check_differences(given, feeds, ["x"], constants)
    check_differences(given, feeds, list(constants), constants)


@pytest.mark.parametrize("wanted", [["x"], ["w"], ["b"], ["x", "w"], ["x", "b"], ["w", "b"], ["x", "w", "b"]])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_every_subset(op_type, wanted, torch_oracle):
    given, feeds, constants = conv((2, 4, 6, 6), (4, 4, 3, 3), op_type=op_type, strides=[2, 2], pads=[1, 1, 1, 1])
    check_torch(torch_oracle, given, feeds, wanted, constants)


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
def test_other_opsets(opset, torch_oracle):
    for case in ("Conv, 3x3", "Conv, depthwise", "Conv, 3x3, stride", "ConvTranspose, 3x3, output_padding"):
        given, feeds, constants = CASES[case]
        check_torch(torch_oracle, given, feeds, ["x", *constants], constants, opset=opset)


def test_a_weight_that_is_computed_but_frozen(torch_oracle):
    given, feeds, constants = CONVS["3x3"]
    given = node("Conv", ["x", "scaled", "b"], ["y"], pads=[1, 1, 1, 1])
    scaled = node("Mul", ["w", "s"], ["scaled"])
    constants = {**constants, "s": values(5, 1, 1, 1, seed=3)}
    check_torch(torch_oracle, [scaled, given], feeds, ["x", "b"], constants)
    check_torch(torch_oracle, [scaled, given], feeds, ["x", "s"], constants)


def test_a_weight_that_is_an_input(torch_oracle):
    given, feeds, constants = CONVS["3x3, groups"]
    check_torch(torch_oracle, given, {**feeds, **constants}, ["x", "w"])
    check_torch(torch_oracle, given, {**feeds, **constants}, ["x"])


def gradient_nodes(case: str, wrt: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes of a case's gradient."""
    given, feeds, constants = CASES[case]
    nodes = gradient_graph(graph_of(given, feeds, constants), wrt).graph.node
    return [n for n in nodes if n.name != "Conv_0"]


def test_nothing_is_computed_that_is_not_wanted():
    assert {n.op_type for n in gradient_nodes("Conv, 3x3", ["b"])} == {"ReduceSum", "Identity"}
    for_image = gradient_nodes("Conv, 3x3", ["x"])
    assert not any("x" in n.input for n in for_image)
    assert "MatMul" not in {n.op_type for n in for_image}
    for_weight = gradient_nodes("Conv, 3x3, windows", ["w"])
    assert not any("w" in n.input for n in for_weight)
    assert not {"Conv", "ConvTranspose"} & {n.op_type for n in for_weight}


def test_a_frozen_weight_is_turned_by_nodes_that_fold():
    """Not by a second initializer: the file would grow by the size of the weight."""
    given, feeds, constants = CASES["Conv, 3x3, windows"]
    made = gradient_graph(graph_of(given, feeds, constants), ["x"])
    assert sum(t.dims[:] == [12, 5, 3, 3] for t in made.graph.initializer) == 0
    turned = {n.output[0] for n in made.graph.node if n.op_type in ("Transpose", "Slice")}
    (image,) = (n for n in made.graph.node if n.op_type == "Conv" and n.name != "Conv_0")
    assert image.input[1] in turned


@pytest.mark.parametrize(
    ("given", "shape", "reason"),
    [
        (node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), (2, 3, 6, 6), "has auto_pad SAME_UPPER"),
        (node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_LOWER"), (2, 3, 6, 6), "has auto_pad SAME_LOWER"),
        (
            node("ConvTranspose", ["x", "w"], ["y"], output_shape=[9, 9], pads=[0, 0, 0, 0]),
            (2, 3, 6, 6),
            "has negative pads",
        ),
    ],
)
def test_refusals(given, shape, reason):
    assert reason in refusal(graph_of(given, {"x": values(*shape)}, {"w": values(3, 3, 3, 3)}), "x")


def test_dynamic_axes_are_refused():
    given, feeds, constants = CONVS["3x3"]
    model = graph_of(given, feeds, constants)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "N"
    assert "has dynamic axes besides the batch" in refusal(model, "w")


def test_the_cases_meet_every_strategy():
    chosen = set()
    for given, feeds, constants in CONVS.values():
        made = ir.from_proto(graph_of(given, feeds, constants))
        annotate(made, measure=False)
        chosen.add(strategy(geometry(NodeView(made.graph[0], (1,), 17))))
    assert chosen == {"windows", "columns", "merged", "whole", "rows", "exchanged", "matrix"}


def refusal(model: onnx.ModelProto, wrt: str) -> str:
    """Why a graph has no gradient."""
    made = ir.from_proto(model)
    annotate(made, measure=False)
    value = {v.name: v for v in (*made.graph.inputs, *made.graph.initializers.values())}[wrt]
    (obstacle,) = plan(made.graph, made.graph.outputs[0], [value], opset=17).obstacles
    return str(obstacle)


def random_conv(rng: np.random.Generator, batch: int) -> tuple[onnx.NodeProto, np.ndarray, np.ndarray]:
    """A node of x and w with any geometry that has an output, and these two."""

    def some(low: int, high: int) -> list[int]:
        return [int(n) for n in rng.integers(low, high + 1, rank)]

    while True:
        rank = int(rng.choice([1, 1, 2, 2, 2, 2, 3]))
        longest = {1: 12, 2: 9, 3: 5}[rank]
        size, kernel, strides, dilations = some(1, longest), some(1, {1: 5, 2: 4, 3: 3}[rank]), some(1, 3), some(1, 3)
        pads, extra = some(0, 4) + some(0, 4), some(0, 2)
        kind = rng.integers(6)
        if kind == 0:  # tiles
            strides, dilations, pads = kernel, [1] * rank, [0] * 2 * rank
        elif kind == 1:  # 1x1
            kernel = [1] * rank
        elif kind == 2:
            strides, pads = [1] * rank, [0] * rank + some(0, 1)
        group = int(rng.choice([1, 1, 2, 3]))
        per_group = (1, 1) if rng.integers(4) == 0 else tuple(int(n) for n in rng.integers(1, 5, 2))
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        rows = list(zip(size, strides, spans, pads[:rank], pads[rank:], extra, strict=True))
        attributes = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
        x = rng.standard_normal((batch, group * per_group[0], *size)).astype(np.float32)
        if rng.integers(4):
            if min(n + before + after - span for n, _, span, before, after, _ in rows) < 0:
                continue
            w = rng.standard_normal((group * per_group[1], per_group[0], *kernel))
            return node("Conv", ["x", "w"], ["y"], **attributes), x, w.astype(np.float32)
        if min((n - 1) * s + span + more - before - after for n, s, span, before, after, more in rows) < 1:
            continue
        if any(more >= s for more, s in zip(extra, strides, strict=True)):  # ONNX Runtime 1.32 refuses it
            continue
        w = rng.standard_normal((group * per_group[0], per_group[1], *kernel))
        return node("ConvTranspose", ["x", "w"], ["y"], **attributes, output_padding=extra), x, w.astype(np.float32)


def applicable(g: Geometry) -> list[str]:
    """The strategies that support a geometry, whether or not they would be chosen."""
    found = ["windows", "columns", "merged", "exchanged"]
    if g.positions == 1:
        found.append("whole")
    if g.depthwise and g.taps > 1:
        found += ["rows", "matrix"]
    return found


def many_gradients(cases: list, opset: int = 17) -> tuple[onnx.ModelProto, dict[str, np.ndarray], list]:
    """A graph of the gradients of many nodes, its feeds (but those of the outputs' gradients), and what each output is:
    how it was computed, of which node and of which input.
    """
    nodes, inputs, outputs, feeds = [], [], [], {}
    for i, (given, x, w) in enumerate(cases):
        copy = onnx.NodeProto()
        copy.CopyFrom(given)
        copy.name, copy.output[0] = f"node_{i}", f"y{i}"
        copy.input[:] = [f"x{i}", f"w{i}"]
        nodes.append(copy)
        feeds |= {f"x{i}": x, f"w{i}": w}
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", *x.shape[1:]]))
        inputs.append(helper.make_tensor_value_info(f"w{i}", TensorProto.FLOAT, w.shape))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "many", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    made = ir.from_proto(model)
    annotate(made, measure=False)
    values = {v.name: v for v in made.graph.inputs}
    build = Builder(made.graph, opset=opset, batch=values["x0"])
    found = []
    for i, (forward, y) in enumerate(zip(list(made.graph), list(made.graph.outputs), strict=True)):
        x, w = values[f"x{i}"], values[f"w{i}"]
        dy = ir.Value(name=f"dy{i}", type=ir.TensorType(y.dtype), shape=y.shape)
        made.graph.inputs.append(dy)
        route = plan(made.graph, y, [x, w], opset=opset)
        assert not route.obstacles, str(route.obstacles[0])
        gradients = differentiate(route, dy, build)
        found += [("rule", i, "x", gradients[x]), ("rule", i, "w", gradients[w])]
        g = geometry(NodeView(forward, (0, 1), opset))
        image, gradient = (dy, x) if forward.op_type == "ConvTranspose" else (x, dy)
        if forward.op_type == "Conv":
            found.append(("frozen", i, "x", image_gradient(build, dy, w, g, frozen=True)))
            found.append(("ConvTranspose", i, "x", by_conv_transpose(build, dy, w, g)))
            if not g.strided:
                found.append(("Conv", i, "x", by_conv(build, dy, w, g)))
        how = applicable(g)[i % len(applicable(g))]
        found.append((how, i, "w", weight_gradient(build, image, gradient, g, how)))
    for value in build.initializers:
        made.graph.register_initializer(value)
    made.graph.extend(build.nodes)
    made.graph.outputs.clear()
    named = []
    for position, (what, i, name, value) in enumerate(found):
        copy = ir.node("Identity", [value], name=f"out{position}")
        copy.outputs[0].name, copy.outputs[0].dtype = f"found{position}", value.dtype
        made.graph.append(copy)
        made.graph.outputs.append(copy.outputs[0])
        named.append((what, i, name))
    return ir.to_proto(made), feeds, named


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_random_geometries(seed, torch_oracle):
    """Ten times a hundred: the rules and, for each weight, one more strategy than the chosen one, against torch."""
    import torch

    rng = np.random.default_rng([seed, 17])
    cases = [random_conv(rng, batch=1 + seed % 3) for _ in range(100)]
    proto, feeds, named = many_gradients(cases)
    expected = {}
    for i, (given, x, w) in enumerate(cases):
        leaves = {"x": torch.from_numpy(x).double(), "w": torch.from_numpy(w).double()}
        model = graph_of(given, {"x": x, "w": w})
        y = torch_oracle.execute(model, {k: v.requires_grad_() for k, v in leaves.items()})["y"]
        feeds[f"dy{i}"] = rng.standard_normal(tuple(y.shape)).astype(np.float32)
        y.backward(torch.from_numpy(feeds[f"dy{i}"]).double())
        expected |= {(i, k): v.grad.numpy() for k, v in leaves.items()}
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    if seed:  # one in ten as it will run; optimising takes most of the time
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    results = session.run(None, {k: v for k, v in feeds.items() if k in names})
    for (what, i, name), found in zip(named, results, strict=True):
        error = relative(found, expected[i, name])
        assert error <= 1e-4, (
            f"{what}: gradient of {name} {error:.1e} from torch's, of {cases[i][1].shape}: {cases[i][0]}"
        )
