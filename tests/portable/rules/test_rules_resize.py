"""Gradient rules of Resize."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from many_checks import one_graph, refused, run_many
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, relative

from adabet_onnx.portable.autodiff import plan
from adabet_onnx.portable.rules.resize import interpolation
from adabet_onnx.portable.shapes import annotate

node = helper.make_node


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


LINE, PLANE, BOX = values(2, 3, 5), values(2, 3, 4, 6), values(2, 2, 3, 4, 2)
OLD = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
EXACT = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
CORNERS = {"coordinate_transformation_mode": "align_corners", "mode": "linear"}


def scaled(x: np.ndarray, *scales: float, opset: int = 17, **attributes):
    constants = {"scales": np.array(scales, np.float32)}
    return node("Resize", ["x", "", "scales"], ["y"], **attributes), {"x": x}, constants, opset


def sized(x: np.ndarray, *sizes: int, opset: int = 18, **attributes):
    """To sizes of the spatial axes."""
    constants = {"sizes": np.array(sizes, np.int64)}
    axes = list(range(2, x.ndim))
    return node("Resize", ["x", "", "", "sizes"], ["y"], axes=axes, **attributes), {"x": x}, constants, opset


def on_axes(x: np.ndarray, axes: list[int], *scales: float, **attributes):
    return scaled(x, *scales, opset=18, axes=axes, **attributes)


TORCH = {
    "twice": scaled(PLANE, 1, 1, 2, 2, **OLD),
    "by two numbers": scaled(PLANE, 1, 1, 3, 2, **EXACT),
    "one axis": scaled(PLANE, 1, 1, 1, 2, **OLD),
    "repeated 1-D": scaled(LINE, 1, 1, 3, **OLD),
    "repeated 3-D": scaled(BOX, 1, 1, 2, 1, 3, **OLD),
    "half": scaled(PLANE, 1, 1, 0.5, 0.5, **OLD),
    "nearest to a size": sized(PLANE, 7, 5, **EXACT),
    "linear twice": scaled(PLANE, 1, 1, 2, 2, mode="linear"),
    "linear to a size": sized(PLANE, 7, 5, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "corners": sized(PLANE, 9, 11, **CORNERS),
    "linear 1-D": sized(LINE, 8, mode="linear"),
    "linear 3-D": sized(BOX, 5, 3, 4, **CORNERS),
    "smaller": scaled(PLANE, 1, 1, 0.5, 0.6, mode="linear"),
    "cubic": scaled(PLANE, 1, 1, 2, 1.5, mode="cubic"),
    "cubic corners": sized(PLANE, 7, 3, mode="cubic", coordinate_transformation_mode="align_corners"),
    "linear without aliases": sized(PLANE, 2, 4, mode="linear", antialias=1, exclude_outside=1),
    "cubic without aliases": sized(PLANE, 3, 2, mode="cubic", antialias=1, exclude_outside=1, cubic_coeff_a=-0.5),
    "axes": on_axes(PLANE, [2, 3], 2, 1.5, mode="linear"),
    "one element": sized(PLANE, 1, 1, **CORNERS),
}
DIFFERENCES = {
    "channels last": scaled(values(2, 4, 5, 3), 1, 2, 1.5, 1, mode="linear"),
    "repeated, channels last": scaled(values(2, 4, 5, 3), 1, 2, 2, 1, **OLD),
    "repeated channels": scaled(values(2, 2, 3, 2), 1, 3, 2, 1, **OLD),
    "repeated 2-D": scaled(values(2, 5), 1, 2, **OLD),
    "axes in another order": on_axes(PLANE, [3, 2], 2, 1.5, mode="linear"),
    "axes repeated": on_axes(PLANE, [3], 2, **OLD),
    "symmetric": scaled(
        PLANE, 1, 1, 1.4, 0.7, opset=19, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"
    ),
    "cubic inside": scaled(PLANE, 1, 1, 1.5, 2, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    "cubic without aliases": scaled(PLANE, 1, 1, 0.5, 0.5, opset=18, mode="cubic", antialias=1, exclude_outside=1),
    "up": scaled(PLANE, 1, 1, 1.7, 1.3, coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
    "corners": sized(PLANE, 9, 4, coordinate_transformation_mode="align_corners"),
    "opset 13": scaled(PLANE, 1, 1, 1.3, 2.2, opset=13, mode="linear"),
}


@pytest.mark.parametrize("case", TORCH)
def test_against_torch(case, torch_oracle):
    resize, feeds, constants, opset = TORCH[case]
    check_torch(torch_oracle, resize, feeds, ["x"], constants, opset=opset)


@pytest.mark.parametrize("case", DIFFERENCES)
def test_against_finite_differences(case):
    resize, feeds, constants, opset = DIFFERENCES[case]
    check_differences(resize, feeds, ["x"], constants, opset=opset, single=["scales"])


def random_case(rng: np.random.Generator):
    """A Resize of the last two axes, and its opset's attributes."""
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    transform = str(
        rng.choice(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"])
    )
    attributes = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    elif rng.random() < 0.3:
        attributes["antialias"] = 1
    if mode == "cubic":
        attributes |= {"exclude_outside": int(rng.random() < 0.5), "cubic_coeff_a": float(rng.choice([-0.75, -0.5]))}
    x = values(2, 1, *rng.integers(1, 8, 2).tolist())
    if rng.random() < 0.5:
        made = sized(x, *rng.integers(1, 15, 2).tolist(), **attributes)
    else:
        least = [1 / n for n in x.shape[2:]]
        pick = [max(float(rng.choice([2, 3, 0.5, 1.5, rng.uniform(0.2, 3)])), low) for low in least]
        made = scaled(x, 1, 1, *pick, **attributes)
    return made[0], x, made[2]


@pytest.mark.slow
def test_random_resizes_are_transposed():
    """The matrix of each one is measured, by resizing an identity matrix in onnxruntime."""
    rng = np.random.default_rng(5)
    cases = [random_case(rng) for _ in range(300)]
    reasons = refused(cases, 19)
    taken = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    assert len(taken) > 270
    assert all("every runtime rounds" in reason or "does not change" in reason for reason in reasons if reason)
    _, _, upstream, ours = run_many(taken, 19)
    most = max(math.prod(x.shape[2:]) for _, x, _ in taken)
    units = []
    for resize, x, constants in taken:
        size = math.prod(x.shape[2:])
        unit = np.zeros((most, size), np.float32)
        unit[:size] = np.eye(size)
        units.append((resize, unit.reshape(most, *x.shape[1:]), constants))
    model, feeds = one_graph(units, 19)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    measured = session.run([f"y{i}" for i in range(len(taken))], feeds)
    for (resize, x, _), dy, dx, rows in zip(taken, upstream, ours, measured, strict=True):
        size = math.prod(x.shape[2:])
        matrix = rows[:size].reshape(size, -1)
        expected = (dy.reshape(len(dy), -1) @ matrix.T).reshape(x.shape)
        assert relative(dx, expected) < 1e-4, (x.shape, resize)


def test_sizes_that_are_computed(torch_oracle):
    nodes = [
        node("Shape", ["x"], ["all"]),
        node("Slice", ["all", "zero", "two"], ["first"]),
        node("Concat", ["first", "last"], ["sizes"], axis=0),
        node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
    ]
    constants = {name: np.array([n], np.int64) for name, n in (("zero", 0), ("two", 2))}
    constants["last"] = np.array([7, 9], np.int64)
    check_torch(torch_oracle, nodes, {"x": PLANE}, ["x"], constants)


def operators(case) -> list[str]:
    resize, feeds, constants, opset = case
    graph = gradient_graph(graph_of(resize, feeds, constants, opset=opset), ["x"]).graph
    return [n.op_type for n in graph.node][1:-1]


def test_the_cheapest_operator():
    assert operators(TORCH["twice"]) == ["AveragePool", "Mul"]
    assert operators(DIFFERENCES["repeated, channels last"]) == ["Reshape", "ReduceSum"]
    # The first axis that shrinks is the third; the last one needs no Reshape.
    assert operators(TORCH["linear twice"]) == ["MatMul", "MatMul"]
    assert operators(TORCH["linear 3-D"]) == ["MatMul", "Reshape", "MatMul", "Reshape", "MatMul"]
    assert operators(scaled(PLANE, 1, 1, 1, 1)) == []


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (scaled(PLANE, 1, 1, 2, 2, coordinate_transformation_mode="tf_crop_and_resize"), "tf_crop"),
        (sized(PLANE, 8, 12, keep_aspect_ratio_policy="not_larger"), "aspect ratio"),
        (scaled(PLANE, 2, 1, 2, 2), "resizes the batch"),
        (scaled(PLANE, 1, 1, 1.1, 2, mode="linear"), "does not change the size"),
        (
            sized(values(2, 3, 36), 12, coordinate_transformation_mode="half_pixel_symmetric", nearest_mode="floor"),
            "every runtime",
        ),
    ],
)
def test_refusals(case, reason):
    resize, feeds, constants, _ = case
    model, _ = one_graph([(resize, feeds["x"], constants)], 18)
    made = ir.from_proto(model)
    annotate(made)
    (obstacle,) = plan(made.graph, made.graph.outputs[0], [made.graph.inputs[0]], opset=18).obstacles
    assert reason in str(obstacle)


def test_scales_that_are_not_constant_are_refused():
    model = graph_of(node("Resize", ["x", "", "s"], ["y"]), {"x": PLANE, "s": np.ones(4, np.float32)})
    made = ir.from_proto(model)
    x, y = made.graph.inputs[0], made.graph.outputs[0]
    x.shape = y.shape = ir.Shape(["N", 3, 4, 6])
    (obstacle,) = plan(made.graph, y, [x], opset=17).obstacles
    assert "scales that are not constant" in str(obstacle)


def test_weights_sum_to_one():
    matrix = interpolation(5, 9, 9 / 5, mode="linear")
    assert matrix is not None
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix @ np.arange(5), np.clip((np.arange(9) + 0.5) * 5 / 9 - 0.5, 0, 4))
