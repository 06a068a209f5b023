"""Gradient rules of Pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from many_checks import check_many, refused
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of

from adabet_onnx.portable.autodiff import plan

node = helper.make_node


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Random float32 numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


PLANE = values(2, 3, 5, 4)


def padded(x: np.ndarray, pads: list[int], *, axes: list[int] | None = None, value: float | None = None, **attributes):
    """A Pad of x, its feeds and constants."""
    constants = {"pads": np.array(pads, np.int64)}
    names = ["x", "pads", "", ""]
    if value is not None:
        names[2], constants["value"] = "value", np.array(value, np.float32)
    if axes is not None:
        names[3], constants["axes"] = "axes", np.array(axes, np.int64)
    while not names[-1]:
        names.pop()
    return node("Pad", names, ["y"], **attributes), {"x": x}, constants


CASES = {
    "zeros": (padded(PLANE, [0, 0, 1, 2, 0, 0, 3, 0]), 17),
    "a number": (padded(PLANE, [0, 1, 0, 2, 0, 0, 3, 0], value=7.0), 17),
    "cropped": (padded(PLANE, [0, 0, -1, 0, 0, -1, -2, 0]), 17),
    "cropped and padded": (padded(PLANE, [0, 0, -1, 2, 0, 0, 3, -1]), 17),
    "nothing": (padded(PLANE, [0] * 8), 17),
    "opset 13": (padded(PLANE, [0, 0, 1, 2, 0, 0, 3, 0]), 13),
    "axes": (padded(PLANE, [1, 2, 3, 0], axes=[3, -2]), 18),
    "reflect": (padded(PLANE, [0, 0, 1, 2, 0, 0, 2, 1], mode="reflect"), 17),
    "reflect all there is": (padded(PLANE, [0, 0, 4, 3, 0, 0, 4, 3], mode="reflect"), 17),
    "reflect to the left": (padded(PLANE, [0, 0, 0, 3, 0, 0, 0, 0], mode="reflect"), 17),
    "edge": (padded(PLANE, [0, 0, 1, 2, 0, 0, 3, 1], mode="edge"), 17),
    "edge far": (padded(PLANE, [0, 0, 0, 0, 0, 0, 7, 9], mode="edge"), 17),
    "edge of one": (padded(values(2, 3, 1), [0, 0, 2, 0, 0, 1], mode="edge"), 17),
    "edge with axes": (padded(PLANE, [1, 2], axes=[-1], mode="edge"), 18),
    "wrap": (padded(PLANE, [0, 0, 1, 2, 0, 0, 2, 1], mode="wrap"), 19),
    "wrap all there is": (padded(PLANE, [0, 0, 5, 4, 0, 0, 5, 4], mode="wrap"), 19),
}
OTHER_AXES = {
    "reflect": (padded(PLANE, [0, 2, 1, 2, 0, 1, 2, 1], mode="reflect"), 17),
    "edge": (padded(values(2, 5), [0, 2, 0, 3], mode="edge"), 17),
    "wrap": (padded(values(2, 3, 2), [0, 1, 0, 0, 3, 2], mode="wrap"), 19),
}


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    (pad, feeds, constants), opset = CASES[case]
    check_torch(torch_oracle, pad, feeds, ["x"], constants, opset=opset)


# onnx's evaluator takes no negative pads.
DIFFERENCES = {name: case for name, case in CASES.items() if "cropped" not in name}
DIFFERENCES |= {f"another axis too, {name}": case for name, case in OTHER_AXES.items()}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_against_finite_differences(case):
    (pad, feeds, constants), opset = DIFFERENCES[case]
    check_differences(pad, feeds, ["x"], constants, opset=opset)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_random_pads(mode, torch_oracle):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(60):
        sizes = rng.integers(2, 6, rng.integers(1, 4)).tolist()
        low = -1 if mode == "constant" else 0
        most = [{"reflect": n - 1, "wrap": n}.get(mode, 6) for n in sizes]
        pads = [[0, 0, *(int(rng.integers(low, n + 1)) for n in most)] for _ in range(2)]
        if min(n + a + b for n, a, b in zip(sizes, pads[0][2:], pads[1][2:], strict=True)) < 1:
            continue
        pad, feeds, constants = padded(values(2, 3, *sizes), [*pads[0], *pads[1]], mode=mode)
        cases.append((pad, feeds["x"], constants))
    reasons = refused(cases, 19)
    assert not any(reasons)
    check_many(torch_oracle, cases, 19)


def operators(given, opset=17) -> list[str]:
    pad, feeds, constants = given
    graph = gradient_graph(graph_of(pad, feeds, constants, opset=opset), ["x"]).graph
    return [n.op_type for n in graph.node][1:-1]


def test_the_cheapest_operators():
    assert operators(CASES["zeros"][0]) == ["Slice"]
    assert operators(CASES["cropped and padded"][0]) == ["Pad"]
    assert operators(CASES["nothing"][0]) == []
    # On an axis of seven reflected by one at each side: two sums of two slices, and three slices.
    found = operators(padded(values(2, 7), [0, 1, 0, 1], mode="reflect"))
    assert (found.count("Slice"), found.count("Add"), found[-1]) == (7, 2, "Concat")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (padded(PLANE, [0, 0, 5, 0, 0, 0, 0, 0], mode="reflect"), "not every runtime supports"),
        (padded(PLANE, [0, 0, 1, 0, 0, 0, -1, 0], mode="edge"), "not every runtime supports"),
        (padded(PLANE, [0, 0, 6, 0, 0, 0, 0, 0], mode="wrap"), "not every runtime supports"),
        (padded(PLANE, [0, 0, 6, 0, 0, 0, 0, 0], mode="symmetric"), "mode 'symmetric'"),
    ],
)
def test_refusals(given, reason):
    pad, feeds, constants = given
    (found,) = refused([(pad, feeds["x"], constants)], 19)
    assert found is not None
    assert reason in found


def obstacle(model, wrt: str) -> str:
    made = ir.from_proto(model)
    x, y = made.graph.inputs[0], made.graph.outputs[0]
    x.shape, y.shape = ir.Shape(["N", 3, 5, 4]), ir.Shape(["N", 3, 6, 4])
    values = {value.name: value for value in (*made.graph.inputs, *made.graph.initializers.values())}
    (found,) = plan(made.graph, y, [values[wrt]], opset=17).obstacles
    return str(found)


def test_pads_that_are_not_constant_are_refused():
    model = graph_of(node("Pad", ["x", "p"], ["y"]), {"x": PLANE, "p": np.zeros(8, np.int64)})
    assert "not constant" in obstacle(model, "x")


def test_padding_the_batch_is_refused():
    pad, feeds, constants = padded(PLANE, [1, 0, 0, 0, 0, 0, 0, 0])
    assert "pads the batch" in obstacle(graph_of(pad, feeds, constants), "x")


def test_the_number_has_no_gradient():
    pad, feeds, constants = padded(PLANE, [0, 0, 1, 0, 0, 0, 0, 0], value=1.0)
    assert "no gradient for its input 2" in obstacle(graph_of(pad, feeds, constants), "value")
