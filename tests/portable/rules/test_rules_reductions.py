"""Gradient rules of reductions, running sums and TopK."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, our_gradients, values

node = helper.make_node
X = values(3, 4, 5)
POSITIVE = values(3, 4, 5, low=0.3)
REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]
REDUCTIONS = [f"Reduce{name}" for name in REDUCTIONS]
_AXES = {"all": None, "last": [-1], "middle and last": [1, 2], "batch": [0], "batch and last": [2, 0]}


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def reduction(op_type, axes, keepdims, opset):
    """A node with its axes as this opset has them: an attribute, or an input."""
    x = POSITIVE if op_type in ("ReduceLogSum", "ReduceProd") else X
    as_input = opset >= (13 if op_type == "ReduceSum" else 18)
    if axes is None:
        return (node(op_type, ["x"], ["y"], keepdims=keepdims), {"x": x}, ["x"]), {"opset": opset}
    if as_input:
        made = node(op_type, ["x", "axes"], ["y"], keepdims=keepdims)
        return (made, {"x": x}, ["x"], {"axes": whole(*axes)}), {"opset": opset}
    return (node(op_type, ["x"], ["y"], keepdims=keepdims, axes=axes), {"x": x}, ["x"]), {"opset": opset}


CASES = {
    f"{op_type}, {name}, keepdims {keepdims}, {opset}": reduction(op_type, axes, keepdims, opset)
    for op_type in REDUCTIONS
    for name, axes in _AXES.items()
    for keepdims in (0, 1)
    for opset in (17, 18)
}
for reverse in (0, 1):
    for exclusive in (0, 1):
        for axis in (1, -1):
            made = node("CumSum", ["x", "axis"], ["y"], reverse=reverse, exclusive=exclusive)
            constants = {"axis": np.array(axis, np.int64)}
            CASES[f"CumSum {reverse} {exclusive} {axis}"] = ((made, {"x": X}, ["x"], constants), {})
for axis in (None, 1, 0):
    for largest in (0, 1):
        options = {"largest": largest} | ({} if axis is None else {"axis": axis})
        made = node("TopK", ["x", "k"], ["y", "indices"], **options)
        CASES[f"TopK {axis} {largest}"] = ((made, {"x": X}, ["x"], {"k": whole(2)}), {})
CASES |= {
    "no axes, nothing done": (
        (node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1), {"x": X}, ["x"]),
        {},
    ),
    "empty axes, nothing done": (
        (node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=1), {"x": X}, ["x"], {"axes": whole()}),
        {"opset": 18},
    ),
    "empty axes, all": (
        (node("ReduceSum", ["x", "axes"], ["y"]), {"x": X}, ["x"], {"axes": whole()}),
        {},
    ),
    "trained vector": (
        (
            [node("Mul", ["x", "w"], ["a"]), node("ReduceMean", ["a"], ["y"], axes=[1], keepdims=0)],
            {"x": X},
            ["x", "w"],
            {"w": values(5, seed=2)},
        ),
        {},
    ),
    "normalisation by hand": (
        (
            [
                node("ReduceMean", ["x"], ["m"], axes=[-1]),
                node("Sub", ["x", "m"], ["d"]),
                node("Mul", ["d", "d"], ["s"]),
                node("ReduceMean", ["s"], ["v"], axes=[-1]),
                node("Add", ["v", "eps"], ["e"]),
                node("Sqrt", ["e"], ["r"]),
                node("Div", ["d", "r"], ["n"]),
                node("Mul", ["n", "w"], ["y"]),
            ],
            {"x": X},
            ["x", "w"],
            {"eps": np.array(1e-3, np.float32), "w": values(5, seed=3)},
        ),
        {},
    ),
    "unit length": (
        ([node("ReduceL2", ["x"], ["n"], axes=[1]), node("Div", ["x", "n"], ["y"])], {"x": X}, ["x"]),
        {},
    ),
    "softmax by hand": (
        (
            [
                node("ReduceMax", ["x"], ["m"], axes=[-1]),
                node("Sub", ["x", "m"], ["d"]),
                node("Exp", ["d"], ["e"]),
                node("ReduceSum", ["e", "axes"], ["s"]),
                node("Div", ["e", "s"], ["y"]),
            ],
            {"x": X},
            ["x"],
            {"axes": whole(-1)},
        ),
        {},
    ),
}


# ONNX Runtime up to 1.19 at least cannot run the first without the input for axes.
@pytest.mark.parametrize("case", [case for case in CASES if case != "no axes, nothing done"])
def test_against_torch(case, torch_oracle):
    arguments, options = CASES[case]
    check_torch(torch_oracle, *arguments, **options)


@pytest.mark.parametrize("case", CASES)
def test_against_finite_differences(case):
    arguments, options = CASES[case]
    check_differences(*arguments, **options)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("opset", [12, 13, 20, 21])
def test_other_opsets(op_type, opset, torch_oracle):
    arguments, options = reduction(op_type, [1, 2], 0, opset)
    check_torch(torch_oracle, *arguments, **options)


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_equal_extremes_share_the_gradient_as_in_torch(op_type, keepdims, torch_oracle):
    x = np.array([[1, 3, 3, 1], [0, 0, 0, 0], [2, 1, 1, 1]], np.float32)
    check_torch(torch_oracle, node(op_type, ["x"], ["y"], axes=[1], keepdims=keepdims), {"x": x}, ["x"])


@pytest.mark.parametrize("opset", [17, 18])
def test_products_with_zeros(opset, torch_oracle):
    """One zero has a gradient, two have none, and it is not divided by."""
    x = np.array([[2, 3, -4, 5], [2, 0, -4, 5], [2, 0, 0, 5], [0, 0, 0, 0]], np.float32)
    arguments, options = reduction("ReduceProd", [1], 0, opset)
    check_torch(torch_oracle, arguments[0], {"x": x}, ["x"], *arguments[3:], **options)
    check_differences(arguments[0], {"x": x}, ["x"], *arguments[3:], count=16, **options)


def test_a_norm_of_zero_has_gradient_zero_as_in_torch(torch_oracle):
    x = np.array([[0, 0, 0], [3, 0, -4]], np.float32)
    for op_type in ("ReduceL1", "ReduceL2"):
        check_torch(torch_oracle, node(op_type, ["x"], ["y"], axes=[1]), {"x": x}, ["x"])


def test_log_sum_exp_of_large_numbers(torch_oracle):
    x = np.array([[500, 501, 499], [-1e4, 0, 1e4]], np.float32)
    check_torch(torch_oracle, node("ReduceLogSumExp", ["x"], ["y"], axes=[1]), {"x": x}, ["x"])


@pytest.mark.parametrize("size", [1, 3, 6])
def test_the_batch_size_is_found_at_run_time(size):
    """A mean over the batch and another axis, in one graph for all batch sizes."""
    nodes = node("ReduceMean", ["x"], ["y"], axes=[0, 1], keepdims=0)
    model = graph_of(nodes, {"x": X})
    found = our_gradients(model, {"x": values(size, 4, 5)}, np.arange(5, dtype=np.float32), ["x"])["x"]
    expected = np.broadcast_to(np.arange(5) / (4 * size), (size, 4, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("shape", "spread"), [((3, 14, 14), ["Mul"]), ((3, 14, 15), ["Mul", "Expand"])])
def test_the_batch_is_not_looked_up_where_the_gradient_has_it(shape, spread):
    """Few elements are broadcast, which is faster; many are not."""
    x = values(*shape)
    made = graph_of(node("ReduceMean", ["x"], ["y"], axes=[1, 2]), {"x": x})
    assert [n.op_type for n in gradient_graph(made, ["x"]).graph.node] == ["ReduceMean", *spread, "Identity"]
    found = our_gradients(made, {"x": x}, np.arange(3, dtype=np.float32).reshape(3, 1, 1), ["x"])["x"]
    expected = np.arange(3).reshape(3, 1, 1) / np.prod(shape[1:])
    np.testing.assert_allclose(found, np.broadcast_to(expected, shape), rtol=1e-6)


def test_sums_keep_no_activation():
    for op_type in ("ReduceSum", "ReduceMean", "CumSum"):
        inputs = ["x", "axis"] if op_type == "CumSum" else ["x"]
        constants = {"axis": np.array(1, np.int64)} if op_type == "CumSum" else {}
        made = gradient_graph(graph_of(node(op_type, inputs, ["y"]), {"x": X}, constants), ["x"])
        users = [n.op_type for n in made.graph.node if {"x", "y"} & set(n.input)]
        assert set(users) <= {op_type, "Shape"}  # of the graph's input, for the batch size


def test_gradients_stop_at_arg_max(torch_oracle):
    """An index has no gradient; the gradient goes through the rest."""
    nodes = [
        node("Mul", ["x", "w"], ["a"]),
        node("ArgMax", ["a"], ["b"], axis=1),
        node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        node("Mul", ["a", "c"], ["y"]),
    ]
    constants = {"w": values(5)}
    check_torch(torch_oracle, nodes, {"x": X}, ["x", "w"], constants)


REFUSED = {
    "axes computed": (
        [node("Identity", ["axes"], ["a"]), node("ReduceSum", ["x", "a"], ["y"])],
        {"axes": whole(1)},
        17,
        "has axes that are computed at run time",
    ),
    "nothing done but squares": (
        node("ReduceSumSquare", ["x"], ["y"], noop_with_empty_axes=1),
        {},
        18,
        "has no axes and noop_with_empty_axes, on which runtimes disagree",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case):
    nodes, constants, opset, reason = REFUSED[case]
    (found,) = obstacles(graph_of(nodes, {"x": X}, constants, opset=opset), ["x"])
    assert reason in found
