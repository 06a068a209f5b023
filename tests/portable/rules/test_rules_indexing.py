"""Gradient rules of operators that read or write at indices."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, our_gradients, values

from adabet_onnx.portable.profiles import PROFILES

node = helper.make_node


def ints(*numbers, dtype=np.int64) -> np.ndarray:
    return np.array(numbers, dtype)


X, TABLE = values(3, 5, 4), values(6, 4)
TOKENS = ints([0, 3, 3], [5, 0, 3], [-1, -6, 2])
# nodes, feeds, with respect to what, constants
GATHERS = {
    "embedding": (node("Gather", ["w", "x"], ["y"]), {"x": TOKENS}, ["w"], {"w": TABLE}),
    "embedding, int32": (node("Gather", ["w", "x"], ["y"]), {"x": TOKENS.astype(np.int32)}, ["w"], {"w": TABLE}),
    "large embedding": (node("Gather", ["w", "x"], ["y"]), {"x": TOKENS}, ["w"], {"w": values(500, 4)}),
    "large embedding, int32": (
        node("Gather", ["w", "x"], ["y"]),
        {"x": TOKENS.astype(np.int32)},
        ["w"],
        {"w": values(500, 4)},
    ),
    "large table, looked up in its second axis": (
        node("Gather", ["w", "x"], ["y"], axis=1),
        {"x": TOKENS[:, 0]},
        ["w"],
        {"w": values(2, 300, 3)},
    ),
    "table, looked up in its last axis": (
        node("Gather", ["w", "x"], ["y"], axis=-1),
        {"x": ints(1, 0, 1)},
        ["w"],
        {"w": values(3, 4)},
    ),
    "positions": (
        [node("Gather", ["w", "i"], ["p"]), node("Add", ["x", "p"], ["y"])],
        {"x": X},
        ["x", "w"],
        {"w": values(9, 4), "i": ints([0, 1, 2, 3, 4])},
    ),
    "relative positions": (
        [node("Gather", ["w", "i"], ["p"]), node("Add", ["x", "p"], ["y"])],
        {"x": X},
        ["w"],
        {"w": values(3, 4), "i": ints(0, 2, -1, 0, 0)},
    ),
    "class token": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": np.array(0)}),
    "last token": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints(-1)}),
    "the only token": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X[:, :1]}, ["x"], {"i": np.array(0)}),
    "a range": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints(2, 3)}),
    "every second": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints(0, 2, 4)}),
    "backwards": (node("Gather", ["x", "i"], ["y"], axis=-1), {"x": X}, ["x"], {"i": ints(3, 2, 1, 0)}),
    "a permutation": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints(1, 0, 3, -1, 2)}),
    "some in any order": (node("Gather", ["x", "i"], ["y"], axis=-1), {"x": X}, ["x"], {"i": ints([2, 0], [3, 1])}),
    "a few in any order": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints(4, 0, 2)}),
    "some twice": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": ints([1, 4], [4, -1])}),
    "some twice, last axis": (node("Gather", ["x", "i"], ["y"], axis=2), {"x": X}, ["x"], {"i": ints(1, 1, 0)}),
    "indices made at run time": (
        [node("Identity", ["i"], ["j"]), node("Gather", ["x", "j"], ["y"], axis=1)],
        {"x": X},
        ["x"],
        {"i": ints(1, -1, 4, 0)},
    ),
    "elements of the flattened batch": (
        [node("Reshape", ["x", "all"], ["flat"]), node("Gather", ["flat", "i"], ["y"])],
        {"x": X, "i": np.arange(60).reshape(3, 20)[:, [0, 19, 4, 4]]},
        ["x"],
        {"all": ints(-1)},
    ),
    "no indices": (node("Gather", ["x", "i"], ["y"], axis=1), {"x": X}, ["x"], {"i": np.zeros(0, np.int64)}),
}
PICKS = {
    "elements": (
        node("GatherElements", ["x", "i"], ["y"], axis=1),
        {"x": X, "i": ints(*np.random.default_rng(0).integers(-5, 5, (3, 7, 4)))},
        ["x"],
    ),
    "one element": (node("GatherElements", ["x", "i"], ["y"], axis=-1), {"x": X, "i": ints(*[[[1]] * 5] * 3)}, ["x"]),
    "fewer elements": (
        node("GatherElements", ["w", "i"], ["y"], axis=0),
        {"x": X, "w": values(4, 5), "i": ints([0, 3], [-1, 3], [0, 0])},
        ["w"],
    ),
    "elements of tuples": (node("GatherND", ["x", "i"], ["y"]), {"x": X, "i": ints([0, 4], [2, -1], [0, 4])}, ["x"]),
    "elements of full tuples": (
        node("GatherND", ["x", "i"], ["y"]),
        {"x": X, "i": ints([[0, 4, 1], [-1, -1, 3]], [[1, 1, 1], [0, 4, 1]])},
        ["x"],
    ),
    "tuples into a weight": (
        node("GatherND", ["w", "x"], ["y"]),
        {"x": ints([[0, 2], [0, 2]], [[3, -1], [1, 0]])},
        ["w"],
        {"w": values(4, 3, 2)},
    ),
    "tuples into a large weight": (
        node("GatherND", ["w", "x"], ["y"]),
        {"x": ints([[0, 2], [0, 2]], [[3, -1], [1, 0]])},
        ["w"],
        {"w": values(40, 30, 2)},
    ),
    "tuples for each sample": (
        node("GatherND", ["x", "i"], ["y"], batch_dims=1),
        {"x": X, "i": ints([[1], [1]], [[0], [-1]], [[4], [2]])},
        ["x"],
    ),
    "tuples for each sample, several axes": (
        node("GatherND", ["x", "i"], ["y"], batch_dims=1),
        {"x": values(2, 3, 4, 2), "i": ints([[1, 0], [2, -1], [1, 0]], [[0, 3], [0, 3], [0, 0]])},
        ["x"],
    ),
}
BATCHED = {
    "elements": ("x", "i"),
    "one element": ("x", "i"),
    "elements of the flattened batch": ("x", "i"),
    "tuples for each sample": ("x", "i"),
    "tuples for each sample, several axes": ("x", "i"),
    "elements of tuples": ("x", "i"),
    "update elements": ("x", "i", "u"),
    "add to elements": ("x", "i", "u"),
}
SCATTERS = {
    "update elements": (
        node("ScatterElements", ["x", "i", "u"], ["y"], axis=1),
        {"x": X, "i": ints(*[[[0, 1, 2, 3], [-1, 0, 0, 0]]] * 3), "u": values(3, 2, 4)},
        ["x", "u"],
    ),
    "add to elements": (
        node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction="add"),
        {"x": X, "i": ints(*[[[0, 1, 2, 3], [0, 1, -1, 0]]] * 3), "u": values(3, 2, 4)},
        ["x", "u"],
    ),
    "update constant elements": (
        node("ScatterElements", ["w", "i", "u"], ["y"]),
        {"x": X, "w": values(4, 2), "u": values(2, 2)},
        ["w", "u"],
        {"i": ints([0, -1], [1, 0])},
    ),
    "update rows": (
        node("ScatterND", ["w", "i", "u"], ["y"]),
        {"x": X, "w": values(4, 2), "u": values(2, 2)},
        ["w", "u"],
        {"i": ints([3], [-3])},
    ),
    "update a weight's elements": (
        [node("ScatterND", ["w", "i", "u"], ["s"]), node("Mul", ["x", "s"], ["y"])],
        {"x": X, "i": ints([3, 0], [-1, 2])},
        ["x", "w", "u"],
        {"w": values(5, 4), "u": values(2)},
    ),
    "add to rows": (
        node("ScatterND", ["w", "i", "u"], ["y"], reduction="add"),
        {"x": X, "w": values(4, 2), "u": values(3, 2)},
        ["w", "u"],
        {"i": ints([3], [-1], [0])},
    ),
    "add to rows of the batch": (
        node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"),
        {"x": X, "u": values(2, 4)},
        ["x", "u"],
        {"i": ints([0, 1], [0, 1])},
    ),
}
CASES = {**GATHERS, **PICKS, **SCATTERS}
# The reference evaluator's GatherElements cannot pick fewer elements along the other axes than there are.
NOT_ON_THE_REFERENCE = {"one element", "fewer elements"}
# The fallback of the rules if ScatterElements cannot add.
WITHOUT_ADDING = [name for name in GATHERS if "embedding" in name or "table" in name]
WITHOUT_ADDING += ["some twice", "relative positions", "indices made at run time", "tuples into a weight"]
WITHOUT_ADDING += ["tuples into a large weight"]


def batched(case):
    return BATCHED.get(case, ("x",))


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    check_torch(torch_oracle, *CASES[case], batched=batched(case))


@pytest.mark.parametrize("case", sorted(CASES.keys() - NOT_ON_THE_REFERENCE))
def test_against_finite_differences(case):
    check_differences(*CASES[case], batched=batched(case))


@pytest.mark.parametrize("case", WITHOUT_ADDING)
def test_without_a_reduction(case, torch_oracle):
    """Opset 15 has none, and WebGPU has no ScatterElements."""
    check_torch(torch_oracle, *CASES[case], opset=15)
    nodes, feeds, wrt, *constants = CASES[case]
    model = graph_of(nodes, feeds, *constants)
    made = gradient_graph(model, wrt, PROFILES["webgpu"]).graph.node[len(model.graph.node) :]
    assert {n.op_type for n in made[: -len(wrt)]} <= PROFILES["webgpu"]
    check_torch(torch_oracle, *CASES[case], allowed=PROFILES["webgpu"])


@pytest.mark.parametrize("opset", [12, 13, 21])
@pytest.mark.parametrize("case", ["embedding", "large embedding", "class token", "a few in any order", "some twice"])
def test_other_opsets(case, opset, torch_oracle):
    check_torch(torch_oracle, *CASES[case], opset=opset)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("class token", ["Pad", "Reshape"]),
        ("last token", ["Pad"]),
        ("the only token", ["Reshape"]),
        ("a range", ["Pad"]),
        ("a permutation", ["Gather"]),
        ("a few in any order", ["Gather", "Pad"]),
        ("positions", ["Pad", "ReduceSum", "Reshape"]),
        ("add to elements", ["GatherElements"]),
        ("update rows", ["Expand", "GatherND", "ScatterND"]),
    ],
)
def test_no_more_nodes_than_needed(case, expected):
    nodes, feeds, wrt, *constants = CASES[case]
    model = graph_of(nodes, feeds, *constants, batched=batched(case))
    made = [n.op_type for n in gradient_graph(model, wrt).graph.node][len(model.graph.node) :]
    assert sorted(made) == sorted([*expected, *["Identity"] * len(wrt)])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 70_000])
def test_repeated_tokens_in_several_threads(rows, monkeypatch):
    """ONNX Runtime's ScatterND adds in several threads without a lock; what is emitted must not."""
    tokens = np.random.default_rng(0).integers(0, 50, (40, 500))
    options = onnxruntime.SessionOptions
    monkeypatch.setattr(onnxruntime, "SessionOptions", lambda: _threads(options(), 4))
    model = graph_of(node("Gather", ["w", "x"], ["y"]), {"x": tokens}, {"w": values(rows, 64)})
    upstream = np.ones((*tokens.shape, 64), np.float32)
    made = gradient_graph(model, ["w"]).graph.node
    assert not any(n.op_type == "ScatterND" and n.attribute for n in made)  # whether updates are lost is random
    expected = np.zeros((rows, 64), np.float32)
    np.add.at(expected, tokens, upstream)
    for _ in range(5):
        np.testing.assert_array_equal(our_gradients(model, {"x": tokens}, upstream, ["w"])["w"], expected)


def _threads(options, count):
    options.intra_op_num_threads = count
    return options


def refusal(case_nodes, feeds=None, constants=None, wrt="x", opset=17, batched=("x",)):
    (found,) = obstacles(graph_of(case_nodes, feeds or {"x": X}, constants, opset=opset, batched=batched), [wrt])
    return found


def test_gather_of_samples_is_refused():
    assert "picks from the batch (axis 0)" in refusal(node("Gather", ["x", "i"], ["y"]), constants={"i": ints(0)})


def test_gather_with_the_batch_on_both_sides_is_refused():
    feeds = {"x": X, "i": ints(0, 1, 2)}
    found = refusal(node("Gather", ["x", "i"], ["y"], axis=1), feeds, batched=("x", "i"))
    assert "has the batch in both its data and its indices" in found


NEED_REDUCTION = ("elements", "elements of tuples", "tuples for each sample", "elements of the flattened batch")


@pytest.mark.parametrize("case", NEED_REDUCTION)
def test_what_needs_a_reduction_is_refused_before_opset_16(case):
    nodes, feeds, _, *constants = CASES[case]
    found = refusal(nodes, feeds, *constants, opset=15, batched=batched(case))
    assert "needs ScatterElements with a reduction, of opset 16, and the graph has opset 15" in found


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
def test_other_reductions_are_refused(op_type):
    _, feeds, _, constants = CASES["add to rows"]
    made = node(op_type, ["w", "i", "u"], ["y"], reduction="mul")
    constants = constants if op_type == "ScatterND" else {"i": ints([0, 1], [1, 0], [2, 2])}
    assert "has the reduction 'mul'" in refusal(made, feeds, constants, "w")


@pytest.mark.parametrize(
    ("op_type", "indices"),
    [("ScatterElements", ints([0, 1], [-4, 0], [2, 2])), ("ScatterND", ints([3], [0], [-1]))],
)
def test_writing_an_element_twice_is_refused(op_type, indices):
    feeds = SCATTERS["add to rows"][1]
    found = refusal(node(op_type, ["w", "i", "u"], ["y"]), feeds, {"i": indices}, "w")
    assert "writes an element twice" in found


PICKS = [[1, 0, 1, 1], [0, 1, 0, 1], [0, 1], [1] * 5, [0, 0, 1]]
COMPRESS = {
    str(picks): (node("Compress", ["x", "c"], ["y"], axis=1), {"x": X}, ["x"], {"c": np.array(picks, bool)})
    for picks in PICKS
}


@pytest.mark.parametrize("name", COMPRESS)
def test_compress(name):
    check_differences(*COMPRESS[name])


def test_compress_is_refused_where_it_picks_from_all_or_from_the_batch():
    condition = {"c": np.array([True, False, True])}
    everywhere = refusal(node("Compress", ["x", "c"], ["y"]), constants=condition)
    assert "picks from the flattened input" in everywhere or "unknown shape" in everywhere
    batch = refusal(node("Compress", ["x", "c"], ["y"], axis=0), constants=condition)
    assert "picks from the batch" in batch or "unknown shape" in batch


def test_one_hot_values_are_refused():
    one_hot = node("OneHot", ["x", "d", "v"], ["y"])
    found = refusal(one_hot, {"x": TOKENS, "v": values(2)}, {"d": np.array(6)}, "v")
    assert "(OneHot) has no gradient here" in found


def test_what_non_zero_finds_is_not_differentiated():
    """The indices of NonZero have no gradient; the values looked up with them do."""
    nodes = [
        node("NonZero", ["w"], ["z"]),
        node("Gather", ["z", "zero"], ["i"]),
        node("Gather", ["v", "i"], ["y"]),
    ]
    constants = {"zero": np.array(0), "w": values(3, low=1.0), "v": values(3, 2)}
    found = obstacles(graph_of(nodes, {"x": X}, constants), ["w"])
    assert found == []
