"""Gradient rules of pooling."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from many_checks import check_many, one_graph, refused
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, our_gradients

from adabet_onnx.portable.autodiff import plan
from adabet_onnx.portable.shapes import annotate

node = helper.make_node
WITHOUT_SCATTER = ("Pad", "Slice")  # requirements of the alternative are not tested here


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers, each at least 0.01 from the next, so that small steps change no maximum."""
    rng = np.random.default_rng([seed, *shape])
    count = int(np.prod(shape))
    numbers = rng.permutation(count) - count / 2 + rng.uniform(-0.3, 0.3, count)
    return (numbers * 4 / count if count < 400 else numbers * 0.03).astype(np.float32).reshape(shape)


def pool(op: str, kernel: list[int], **attributes):
    return node(op, ["x"], ["y"], kernel_shape=kernel, **attributes)


LINE, PLANE, BOX = values(2, 3, 11), values(2, 3, 9, 7), values(2, 2, 5, 6, 4)
MAX = {
    "overlapping": (pool("MaxPool", [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), PLANE),
    "disjoint": (pool("MaxPool", [2, 2], strides=[2, 2]), PLANE),
    "asymmetric": (pool("MaxPool", [3, 2], strides=[1, 2], pads=[1, 0, 2, 1]), PLANE),
    "dilated": (pool("MaxPool", [2, 3], strides=[2, 1], dilations=[3, 2], pads=[1, 2, 0, 1]), PLANE),
    "ceil": (pool("MaxPool", [3, 2], strides=[3, 3], ceil_mode=1), values(2, 3, 10, 8)),
    "gaps": (pool("MaxPool", [1, 2], strides=[3, 3]), PLANE),
    "one apart": (pool("MaxPool", [3, 2], pads=[1, 1, 1, 0]), PLANE),
    "one apart, dilated": (pool("MaxPool", [3, 1], dilations=[2, 1], pads=[2, 0, 1, 0]), PLANE),
    "one apart, 3-D": (pool("MaxPool", [2, 1, 3], dilations=[2, 1, 1], pads=[1, 0, 1, 0, 0, 2]), BOX),
    "everything": (pool("MaxPool", [9, 7]), PLANE),
    "dilations and strides with a common factor": (pool("MaxPool", [2, 2], strides=[4, 3], dilations=[2, 3]), PLANE),
    "one element": (pool("MaxPool", [1, 1], strides=[2, 2]), PLANE),
    "1-D": (pool("MaxPool", [4], strides=[3], pads=[2, 1]), LINE),
    "3-D": (pool("MaxPool", [2, 3, 2], strides=[1, 2, 2], pads=[0, 1, 0, 1, 1, 0]), BOX),
    "same upper": (pool("MaxPool", [3, 2], strides=[2, 2], auto_pad="SAME_UPPER"), PLANE),
    "same lower": (pool("MaxPool", [4, 2], strides=[2, 1], auto_pad="SAME_LOWER"), PLANE),
    "valid": (pool("MaxPool", [2, 2], strides=[2, 1], auto_pad="VALID"), PLANE),
}
AVERAGE = {
    "tiles": (pool("AveragePool", [3, 7], strides=[3, 7]), PLANE),
    "neighbours": (pool("AveragePool", [3, 3], pads=[1, 1, 1, 1], count_include_pad=1), PLANE),
    "neighbours without padding": (pool("AveragePool", [3, 3], pads=[1, 1, 1, 1]), PLANE),
    "overlapping": (pool("AveragePool", [3, 2], strides=[2, 1], pads=[1, 0, 0, 1]), PLANE),
    "overlapping with padding": (
        pool("AveragePool", [3, 2], strides=[2, 1], pads=[1, 0, 0, 1], count_include_pad=1),
        PLANE,
    ),
    "rest": (pool("AveragePool", [2, 2], strides=[2, 2]), PLANE),
    "ceil": (pool("AveragePool", [2, 2], strides=[2, 2], ceil_mode=1), PLANE),
    "gaps": (pool("AveragePool", [1, 1], strides=[2, 3]), PLANE),
    "nothing": (pool("AveragePool", [1, 1]), PLANE),
    "1-D": (pool("AveragePool", [3], strides=[2], pads=[1, 1]), LINE),
    "3-D": (pool("AveragePool", [2, 3, 2], strides=[2, 1, 2], pads=[0, 1, 0, 1, 1, 0]), BOX),
    "3-D neighbours": (pool("AveragePool", [2, 1, 2], pads=[1, 0, 0, 0, 0, 1]), BOX),
    "same upper": (pool("AveragePool", [3, 2], strides=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1), PLANE),
}
NORM = {
    "p 1": (pool("LpPool", [3, 2], strides=[2, 2], p=1), PLANE),
    "p 2": (pool("LpPool", [3, 2], strides=[2, 1]), PLANE),
    "p 3": (pool("LpPool", [2, 2], p=3), PLANE),
    "1-D": (pool("LpPool", [2], strides=[2]), LINE),
}
GLOBAL = {
    f"{op} {x.ndim - 2}-D {attributes or ''}": (node(op, ["x"], ["y"], **attributes), x)
    for op, attributes in (
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("GlobalLpPool", {"p": 1}),
        ("GlobalLpPool", {}),
        ("GlobalLpPool", {"p": 3}),
    )
    for x in (LINE, PLANE, BOX)
}
PADDED_NORM = (pool("LpPool", [3, 3], strides=[2, 2], pads=[1, 0, 1, 2]), PLANE)


@pytest.mark.parametrize("case", MAX)
@pytest.mark.parametrize("allowed", [None, WITHOUT_SCATTER])
def test_max_against_torch(case, allowed, torch_oracle):
    pooled, x = MAX[case]
    check_torch(torch_oracle, pooled, {"x": x}, ["x"], allowed=allowed)


@pytest.mark.parametrize("case", [case for case in MAX if case != "same lower"])
@pytest.mark.parametrize("allowed", [None, WITHOUT_SCATTER])
def test_max_against_finite_differences(case, allowed):
    # onnx's evaluator makes SAME_LOWER too short, and no Indices where strides and dilations are 1.
    pooled, x = MAX[case]
    allowed = WITHOUT_SCATTER if case == "everything" else allowed
    check_differences(pooled, {"x": x}, ["x"], allowed=allowed)


@pytest.mark.parametrize("case", AVERAGE)
@pytest.mark.parametrize("opset", [12, 17, 19])
def test_average_against_torch(case, opset, torch_oracle):
    pooled, x = AVERAGE[case]
    check_torch(torch_oracle, pooled, {"x": x}, ["x"], opset=opset)


@pytest.mark.parametrize("case", [case for case in AVERAGE if case != "same upper"])
def test_average_against_finite_differences(case):
    # With auto_pad, onnx's evaluator pads by one more where strides leave a rest.
    pooled, x = AVERAGE[case]
    check_differences(pooled, {"x": x}, ["x"])


def test_dilated_average(torch_oracle):
    pooled = pool("AveragePool", [3, 2], dilations=[2, 3], strides=[1, 2], pads=[2, 1, 1, 1])
    check_torch(torch_oracle, pooled, {"x": PLANE}, ["x"], opset=19)
    check_differences(pooled, {"x": PLANE}, ["x"], opset=19)


@pytest.mark.parametrize("pooled", [*NORM.values(), *GLOBAL.values()], ids=[*NORM, *GLOBAL])
def test_the_rest(pooled, torch_oracle):
    check_torch(torch_oracle, pooled[0], {"x": pooled[1]}, ["x"])
    # onnx's evaluator has no GlobalLpPool, and takes a GlobalMaxPool over the wrong axes but in two dimensions.
    if pooled[0].op_type != "GlobalLpPool" and (pooled[0].op_type != "GlobalMaxPool" or pooled[1].ndim == 4):
        check_differences(pooled[0], {"x": pooled[1]}, ["x"])


def test_norm_with_padding(torch_oracle):
    # onnx's evaluator takes a mean without the padding times the elements with it.
    check_torch(torch_oracle, PADDED_NORM[0], {"x": PADDED_NORM[1]}, ["x"])


def test_dilated_norm(torch_oracle):
    pooled = pool("LpPool", [2, 2], dilations=[2, 3], strides=[2, 2], ceil_mode=1)
    check_torch(torch_oracle, pooled, {"x": PLANE}, ["x"], opset=18)


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
def test_a_norm_of_zeros_has_no_gradient(op):
    x = np.zeros((1, 1, 4, 4), np.float32)
    pooled = pool(op, [2, 2]) if op == "LpPool" else node(op, ["x"], ["y"])
    model = graph_of(pooled, {"x": x})
    shape = (1, 1, 3, 3) if op == "LpPool" else (1, 1, 1, 1)
    assert not our_gradients(model, {"x": x}, np.ones(shape, np.float32), ["x"])["x"].any()


def test_weights_before_a_pool(torch_oracle):
    nodes = [node("Mul", ["x", "w"], ["m"]), pool("MaxPool", [3, 3], strides=[2, 2]), pool("AveragePool", [2, 1])]
    nodes[1].input[0], nodes[1].output[0], nodes[2].input[0] = "m", "p", "p"
    for wrt in (["x"], ["w"], ["x", "w"]):
        check_torch(torch_oracle, nodes, {"x": PLANE, "w": values(3, 1, 1, seed=1)}, wrt)


def geometry(rng: np.random.Generator, op: str, opset: int):
    """A pooling node with windows that fit its input."""
    rank = int(rng.choice([1, 2, 2, 3]))
    kernel, strides = rng.integers(1, 5, rank), rng.integers(1, 4, rank)
    if rng.random() < 0.25:
        strides = kernel
    dilated = op == "MaxPool" or opset >= {"LpPool": 18, "AveragePool": 19}[op]
    dilations = rng.integers(1, 3, rank) if dilated and rng.random() < 0.4 else np.ones(rank, np.int64)
    attributes = {"strides": strides.tolist()}
    if (dilations > 1).any():
        attributes["dilations"] = dilations.tolist()
    if rng.random() < 0.7:
        attributes["pads"] = [int(rng.integers(0, n)) for n in (*kernel, *kernel)]
    if rng.random() < 0.4 and (op != "LpPool" or opset >= 18):
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and rng.random() < 0.5:
        attributes["count_include_pad"] = 1
    sizes = (kernel - 1) * dilations + 1 + rng.integers(0, 5, rank)
    return pool(op, kernel.tolist(), **attributes), values(2, 3, *sizes.tolist()), {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "opset", "allowed"),
    [
        ("MaxPool", 13, None),  # where ScatterElements cannot add
        ("MaxPool", 17, None),
        ("MaxPool", 19, WITHOUT_SCATTER),
        ("AveragePool", 17, None),
        ("AveragePool", 19, None),
        ("LpPool", 18, None),
    ],
)
def test_random_geometries(op, opset, allowed, torch_oracle):
    rng = np.random.default_rng(opset)
    cases = [geometry(rng, op, opset) for _ in range(100)]
    reasons = refused(cases, opset)
    taken = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    assert len(taken) >= 75
    assert all("because of ceil_mode" in reason for reason in reasons if reason)
    check_many(torch_oracle, taken, opset, allowed=allowed)


def first_places(x: np.ndarray, dy: np.ndarray, kernel: int, stride: int, pad: int) -> np.ndarray:
    """The gradient of a two-dimensional MaxPool, from the first largest element of each window."""
    dx = np.zeros((x.shape[0], x.shape[1], x.shape[2] + 2 * pad, x.shape[3] + 2 * pad), np.float32)
    padded = np.full(dx.shape, -np.inf)
    inner = slice(pad, -pad or None)
    padded[:, :, inner, inner] = x
    for n, c, i, j in np.ndindex(dy.shape):
        window = padded[n, c, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        row, column = np.unravel_index(window.argmax(), window.shape)
        dx[n, c, i * stride + row, j * stride + column] += dy[n, c, i, j]
    return dx[:, :, inner, inner]


@pytest.mark.parametrize("allowed", [None, WITHOUT_SCATTER])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(3, 2, 1), (2, 2, 0), (3, 1, 0)])
def test_equal_elements_the_first_takes_all(allowed, kernel, stride, pad):
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (2, 2, 7, 7)).astype(np.float32)
    pooled = pool("MaxPool", [kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    count = (7 + 2 * pad - kernel) // stride + 1
    dy = rng.standard_normal((2, 2, count, count)).astype(np.float32)
    found = our_gradients(graph_of(pooled, {"x": x}), {"x": x}, dy, ["x"], allowed=allowed)["x"]
    np.testing.assert_allclose(found, first_places(x, dy, kernel, stride, pad), atol=1e-6)


def test_equal_elements_of_a_whole_channel_the_first_takes_all():
    x = np.zeros((2, 1, 2, 3), np.float32)
    x[:, :, 1, 1:] = 5
    dy = np.array([2, 3], np.float32).reshape(2, 1, 1, 1)
    found = our_gradients(graph_of(node("GlobalMaxPool", ["x"], ["y"]), {"x": x}), {"x": x}, dy, ["x"])["x"]
    expected = np.zeros_like(x)
    expected[:, 0, 1, 1] = [2, 3]
    np.testing.assert_array_equal(found, expected)


def operators(pooled, x, opset=17) -> list[str]:
    """The operators of the gradient."""
    model = graph_of(pooled, {"x": x}, opset=opset)
    return [n.op_type for n in gradient_graph(model, ["x"]).graph.node][1:-1]


def test_the_cheapest_operator():
    assert operators(*AVERAGE["tiles"]) == ["Mul", "Resize"]
    assert operators(*AVERAGE["neighbours"]) == ["AveragePool"]
    assert operators(*AVERAGE["overlapping with padding"]) == ["ConvTranspose"]
    assert operators(*AVERAGE["nothing"]) == []
    assert operators(*MAX["one element"]) == ["ConvTranspose"]
    assert operators(*GLOBAL["GlobalAveragePool 2-D "]) == ["Mul"]
    for case in MAX:
        used = operators(*MAX[case])
        assert ("ScatterElements" in used) != (case.startswith("one ")), case


def test_a_mask_takes_a_global_mean_before_it_is_broadcast(torch_oracle):
    """A pass over the image is saved: the mask is multiplied with one number for each channel."""
    nodes = [node("Relu", ["x"], ["a"]), node("GlobalAveragePool", ["a"], ["y"])]
    check_torch(torch_oracle, nodes, {"x": PLANE}, ["x"])
    graph = ir.from_proto(gradient_graph(graph_of(nodes, {"x": PLANE}), ["x"])).graph
    (gradient,) = [item for item in graph if item.op_type == "Identity"]
    product = gradient.inputs[0].producer()
    assert product.op_type == "Mul"
    assert sorted(len(set(value.shape[2:])) == 1 and value.shape[2] == 1 for value in product.inputs) == [False, True]


def test_the_gradient_of_max_keeps_positions_only():
    pooled, x = MAX["overlapping"]
    graph = ir.from_proto(gradient_graph(graph_of(pooled, {"x": x}), ["x"])).graph
    forward = graph.node(0)
    assert [user.op_type for user, _ in graph.inputs[0].uses()] == ["MaxPool", "Shape"]  # Shape: the batch size
    assert not forward.outputs[0].uses()
    ((cast, _),) = forward.outputs[1].uses()
    assert (cast.op_type, cast.outputs[0].dtype) == ("Cast", ir.DataType.INT32)


def test_indices_that_are_there_are_used(torch_oracle):
    pooled, x = MAX["overlapping"]
    both = node("MaxPool", ["x"], ["y", "places"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    model = gradient_graph(graph_of([both, node("Identity", ["y"], ["z"])], {"x": x}), ["x"])
    assert list(model.graph.node[0].output) == ["y", "places"]
    omitted = node("MaxPool", ["x"], ["y", ""], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for given in (both, omitted):
        dy = np.ones((2, 3, 5, 4), np.float32)
        found, expected = (our_gradients(graph_of(n, {"x": x}), {"x": x}, dy, ["x"])["x"] for n in (given, pooled))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("pooled", "shape", "opset", "reason"),
    [
        (pool("MaxPool", [2, 2], storage_order=1), (4, 4), 17, "storage_order 1"),
        (pool("MaxPool", [2], strides=[2], pads=[0, 1], ceil_mode=1), (4,), 17, "begins in the padding"),
        (
            pool("AveragePool", [3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1),
            (4,),
            17,
            "a window past it",
        ),
        (pool("MaxPool", [2], dilations=[2], auto_pad="SAME_UPPER"), (5,), 17, "both auto_pad and dilations"),
        (pool("MaxPool", [1], strides=[2], auto_pad="SAME_LOWER"), (5,), 17, "strides larger than its kernel"),
        (pool("MaxPool", [2], dilations=[4], pads=[1, 1]), (3,), 17, "nothing but padding"),
    ],
)
def test_refusals(pooled, shape, opset, reason):
    (found,) = refused([(pooled, values(2, 3, *shape), {})], opset)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("op", ["MaxPool", "GlobalAveragePool"])
def test_an_unknown_length_is_refused(op):
    pooled = pool(op, [2, 2]) if op == "MaxPool" else node(op, ["x"], ["y"])
    model, _ = one_graph([(pooled, PLANE, {})], 17)
    batch, _, height, _ = model.graph.input[0].type.tensor_type.shape.dim
    batch.dim_value, height.dim_param = 2, "N"
    made = ir.from_proto(model)
    annotate(made, measure=False)
    (obstacle,) = plan(made.graph, made.graph.outputs[0], [made.graph.inputs[0]], opset=17).obstacles
    assert "unknown" in str(obstacle)
