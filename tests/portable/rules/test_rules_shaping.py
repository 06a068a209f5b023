"""Gradient rules that move elements: Reshape and similar, Transpose, Expand, Tile, Concat, Split, Slice."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from many_checks import check_many
from onnx import helper
from rule_checks import check_differences, check_torch, gradient_graph, graph_of, obstacles, values

from adabet_onnx.portable.autodiff import plan
from adabet_onnx.portable.shapes import annotate

node = helper.make_node
LAST, FIRST = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


X, IMAGE, W = values(3, 4, 6), values(2, 8, 4, 6), values(4, 6)
# nodes, feeds, with respect to what, constants
CASES = {
    "reshape": (node("Reshape", ["x", "s"], ["y"]), {"x": X}, ["x"], {"s": ints(-1, 8, 3)}),
    "reshape that merges the batch": (node("Reshape", ["x", "s"], ["y"]), {"x": X}, ["x"], {"s": ints(-1, 6)}),
    "reshape that copies a dimension": (node("Reshape", ["x", "s"], ["y"]), {"x": X}, ["x"], {"s": ints(0, -1, 2)}),
    "reshape of a weight": (
        [node("Reshape", ["w", "s"], ["v"]), node("Add", ["x", "v"], ["y"])],
        {"x": X},
        ["x", "w"],
        {"w": values(24), "s": ints(4, 6)},
    ),
    "flatten": (node("Flatten", ["x"], ["y"]), {"x": IMAGE}, ["x"]),
    "flatten axis 2": (node("Flatten", ["x"], ["y"], axis=2), {"x": IMAGE}, ["x"]),
    "flatten axis -1": (node("Flatten", ["x"], ["y"], axis=-1), {"x": IMAGE}, ["x"]),
    "squeeze": (node("Squeeze", ["x", "a"], ["y"]), {"x": X[:, None, :, None]}, ["x"], {"a": ints(1, -2)}),
    "squeeze all": (node("Squeeze", ["w"], ["y"]), {"x": X, "w": values(1, 4, 1, 6)}, ["w"]),
    "unsqueeze": (node("Unsqueeze", ["x", "a"], ["y"]), {"x": X}, ["x"], {"a": ints(-1, 1)}),
    "transpose": (node("Transpose", ["x"], ["y"], perm=[2, 0, 1]), {"x": X}, ["x"]),
    "transpose without perm": (node("Transpose", ["x"], ["y"]), {"x": X}, ["x"]),
    "expand": (node("Expand", ["x", "s"], ["y"]), {"x": X[:, :1]}, ["x"], {"s": ints(1, 4, 6)}),
    "expand to the batch": (
        [node("Shape", ["x"], ["s"]), node("Expand", ["w", "s"], ["y"])],
        {"x": X, "w": values(1, 6)},
        ["w"],
    ),
    "expand to a higher rank": (node("Expand", ["x", "s"], ["y"]), {"x": X}, ["x"], {"s": ints(2, 1, 4, 6)}),
    "expand by a smaller shape": (node("Expand", ["x", "s"], ["y"]), {"x": X}, ["x"], {"s": ints(4, 1)}),
    "tile": (node("Tile", ["x", "r"], ["y"]), {"x": X}, ["x"], {"r": ints(1, 2, 3)}),
    "tile of the batch": (node("Tile", ["x", "r"], ["y"]), {"x": X}, ["x"], {"r": ints(2, 1, 1)}),
    "tile of nothing": (node("Tile", ["x", "r"], ["y"]), {"x": X}, ["x"], {"r": ints(1, 1, 1)}),
    "tile to the batch": (
        [
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Concat", ["n", "one"], ["r"], axis=0),
            node("Tile", ["w", "r"], ["y"]),
        ],
        {"x": X, "w": values(2, 6)},
        ["w"],
        {"one": ints(1)},
    ),
    "depth to space": (node("DepthToSpace", ["x"], ["y"], blocksize=2), {"x": IMAGE}, ["x"]),
    "depth to space CRD": (node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD"), {"x": IMAGE}, ["x"]),
    "space to depth": (node("SpaceToDepth", ["x"], ["y"], blocksize=2), {"x": IMAGE}, ["x"]),
    "concat": (
        [node("Relu", ["x"], ["r"]), node("Concat", ["r", "x"], ["y"], axis=1)],
        {"x": X},
        ["x"],
    ),
    "concat, one wanted": (
        [node("Concat", ["v", "w"], ["c"], axis=-1), node("Mul", ["x", "c"], ["y"])],
        {"x": X, "v": values(4, 4), "w": values(4, 2)},
        ["w"],
    ),
    "concat of one": (node("Concat", ["x"], ["y"], axis=1), {"x": X}, ["x"]),
    "concat with nothing": (
        [node("Concat", ["w", "none"], ["c"], axis=0), node("Add", ["x", "c"], ["y"])],
        {"x": X, "w": W},
        ["w"],
        {"none": values(0, 6)},
    ),
    "concat of a value with itself": (node("Concat", ["x", "x"], ["y"], axis=2), {"x": X}, ["x"]),
    "concat of batches": (
        [node("Relu", ["x"], ["r"]), node("Concat", ["r", "x", "x"], ["y"], axis=0)],
        {"x": X},
        ["x"],
    ),
    "split": (
        [node("Split", ["x"], ["a", "b"], axis=1), node("Mul", ["a", "b"], ["y"])],
        {"x": X},
        ["x"],
    ),
    "split, sizes": (
        [node("Split", ["x", "s"], ["a", "b", "c"], axis=-1), node("Concat", ["c", "a", "b"], ["y"], axis=-1)],
        {"x": X},
        ["x"],
        {"s": ints(1, 2, 3)},
    ),
    "split, first used": (
        [node("Split", ["x", "s"], ["a", "b", "c"], axis=-1), node("Relu", ["a"], ["y"])],
        {"x": X},
        ["x"],
        {"s": ints(1, 2, 3)},
    ),
    "split, last used": (
        [node("Split", ["x", "s"], ["a", "b", "c"], axis=-1), node("Relu", ["c"], ["y"])],
        {"x": X},
        ["x"],
        {"s": ints(1, 2, 3)},
    ),
    "split, outer ones used": (
        [node("Split", ["x", "s"], ["a", "b", "c", "d"], axis=2), node("Mul", ["a", "c"], ["y"])],
        {"x": X},
        ["x"],
        {"s": ints(1, 2, 1, 2)},
    ),
    "split with an empty part": (
        [node("Split", ["x", "s"], ["a", "b", "c"], axis=1), node("Mul", ["a", "c"], ["y"])],
        {"x": X},
        ["x"],
        {"s": ints(2, 0, 2)},
    ),
    "split of merged batches": (
        [
            node("Concat", ["x", "x"], ["c"], axis=0),
            node("Split", ["c"], ["a", "b"], axis=0),
            node("Relu", ["b"], ["y"]),
        ],
        {"x": X},
        ["x"],
    ),
    "split of a weight": (
        [node("Split", ["w"], ["a", "b"], axis=0), node("Mul", ["x", "b"], ["y"])],
        {"x": X},
        ["x", "w"],
        {"w": values(2, 4, 6)},
    ),
}
# starts, ends, axes, steps
SLICES = {
    "a part": ((1, 2), (3, 5), (1, 2), None),
    "from the end": ((-3, -2), (-1, LAST), (1, -1), None),
    "no axes": ((0, 1), (LAST, 3), None, None),
    "bounds beyond": ((-99, 2), (99, 99), (1, 2), None),
    "all of it": ((0, 0, 0), (LAST, 4, 99), (0, 1, 2), (1, 1, 1)),
    "every second, last axis": ((0,), (LAST,), (2,), (2,)),
    "every second from 1, last axis": ((1,), (LAST,), (2,), (2,)),
    "every third, last axis": ((1,), (LAST,), (-1,), (3,)),
    "every fourth, far in": ((5,), (LAST,), (-1,), (4,)),
    "every second, cut off": ((1,), (4,), (2,), (2,)),
    "every second, inner axis": ((1,), (LAST,), (1,), (2,)),
    "every third, inner axis": ((0,), (LAST,), (1,), (3,)),
    "every second of two axes": ((1, 0), (LAST, LAST), (1, 2), (2, 2)),
    "reversed": ((-1,), (FIRST,), (2,), (-1,)),
    "reversed batch": ((-1, 1), (FIRST, 3), (0, 1), (-1, 1)),
    "part of it reversed": ((3, -2), (0, 0), (1, 2), (-1, -1)),
    "every second, reversed": ((LAST,), (FIRST,), (2,), (-2,)),
    "every third of two axes, reversed": ((-1, 4), (FIRST, FIRST), (1, 2), (-3, -3)),
    "nothing": ((3,), (2,), (1,), None),
}


def slice_case(starts, ends, axes, steps):
    constants = {"starts": ints(*starts), "ends": ints(*ends)}
    names = ["x", "starts", "ends"]
    for name, numbers in (("axes", axes), ("steps", steps)):
        names.append(name if numbers else "")
        if numbers:
            constants[name] = ints(*numbers)
    while not names[-1]:
        names.pop()
    return node("Slice", names, ["y"]), {"x": X}, ["x"], constants


CASES |= {f"slice: {name}": slice_case(*numbers) for name, numbers in SLICES.items()}


@pytest.mark.parametrize("case", CASES)
def test_against_torch(case, torch_oracle):
    check_torch(torch_oracle, *CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_against_finite_differences(case):
    check_differences(*CASES[case])


def test_random_slices_against_torch(torch_oracle):
    rng = np.random.default_rng(5)
    cases = []
    for _ in range(300):
        shape = [2, *rng.integers(1, 9, rng.integers(1, 4))]
        axes = sorted(rng.permutation(np.arange(1, len(shape)))[: rng.integers(1, len(shape))].tolist())
        found = [[], [], []]
        for axis in axes:
            step = int(rng.choice([1, 1, 2, 3, 4, -1, -2, -3]))
            start, end = (int(n) for n in rng.integers(-shape[axis] - 2, shape[axis] + 3, 2))
            end = end if rng.random() < 0.7 else (LAST if step > 0 else FIRST)
            if len(range(shape[axis])[slice(start, end, step)]) == 0:
                start, end = (0, LAST) if step > 0 else (-1, FIRST)
            for numbers, number in zip(found, (start, end, step), strict=True):
                numbers.append(number)
        constants = {"starts": ints(*found[0]), "ends": ints(*found[1]), "axes": ints(*axes), "steps": ints(*found[2])}
        cases.append((node("Slice", ["x", *constants], ["y"]), values(*shape, seed=len(cases)), constants))
    check_many(torch_oracle, cases, 17)


@pytest.mark.parametrize("case", ["depth to space", "depth to space CRD", "space to depth"])
def test_without_the_inverse_operator(case, torch_oracle):
    check_torch(torch_oracle, *CASES[case], allowed=["Reshape", "Transpose"])


def test_every_second_without_conv_transpose(torch_oracle):
    allowed = ["Reshape", "Pad", "Slice"]
    check_torch(torch_oracle, *CASES["slice: every second of two axes"], allowed=allowed)


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
@pytest.mark.parametrize("case", ["reshape", "tile of the batch", "concat of batches", "slice: every second, reversed"])
def test_other_opsets(case, opset, torch_oracle):
    check_torch(torch_oracle, *CASES[case], opset=opset)


def test_split_by_number_of_outputs(torch_oracle):
    nodes = [
        node("Split", ["x"], ["a", "b", "c", "d"], axis=2, num_outputs=4),
        node("Concat", ["d", "b"], ["y"], axis=2),
    ]
    check_torch(torch_oracle, nodes, {"x": values(3, 2, 7)}, ["x"], opset=18)


def test_split_by_attribute(torch_oracle):
    nodes = [node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]), node("Relu", ["b"], ["y"])]
    check_torch(torch_oracle, nodes, {"x": X}, ["x"], opset=12)


def test_a_double_tensor():
    model = graph_of(
        CASES["slice: every second, last axis"][0],
        {"x": X.astype(np.float64)},
        CASES["slice: every second, last axis"][3],
    )
    made = {n.op_type for n in gradient_graph(model, ["x"]).graph.node}
    assert "ConvTranspose" not in made  # which onnxruntime has for float32 only


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("reshape", ["Reshape"]),
        ("slice: a part", ["Pad"]),
        ("slice: all of it", []),
        ("slice: every second, last axis", ["ConvTranspose", "Reshape", "Reshape"]),
        ("slice: every second, inner axis", ["Pad", "Reshape", "Reshape"]),
        ("slice: reversed", ["Slice"]),
        ("split, first used", ["Greater", "Cast", "Mul", "Pad"]),
        ("split, outer ones used", ["Mul", "Mul", "Pad", "Concat", "Pad"]),
        ("concat, one wanted", ["Mul", "ReduceSum", "Reshape", "Slice"]),
        ("tile of nothing", []),
    ],
)
def test_no_more_nodes_than_needed(case, expected):
    nodes, feeds, wrt, *constants = CASES[case]
    model = graph_of(nodes, feeds, *constants)
    made = [n.op_type for n in gradient_graph(model, wrt).graph.node][len(model.graph.node) :]
    assert sorted(made) == sorted([*expected, "Identity"])


def refusal(nodes, constants=None, feeds=None, opset=17):
    (found,) = obstacles(graph_of(nodes, feeds or {"x": X}, constants, opset=opset), ["x"])
    return found


def test_slice_refuses_starts_made_at_run_time():
    nodes = [node("Identity", ["s"], ["i"]), node("Slice", ["x", "i", "e"], ["y"])]
    assert "takes starts that are not constant ('i')" in refusal(nodes, {"s": ints(0, 1), "e": ints(LAST, 3)})


def test_slice_refuses_steps_made_at_run_time():
    nodes = [node("Identity", ["t"], ["i"]), node("Slice", ["x", "s", "e", "a", "i"], ["y"])]
    constants = {"s": ints(1), "e": ints(LAST), "a": ints(1), "t": ints(2)}
    assert "takes steps that are not constant ('i')" in refusal(nodes, constants)


def test_slice_refuses_a_part_of_the_batch():
    assert "takes a part of the batch (axis 0)" in refusal(
        [
            node("Concat", ["x", "x"], ["c"], axis=0),
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Slice", ["c", "s", "n"], ["y"]),
        ],
        {"s": ints(0)},
    )


def test_slice_refuses_one_sample():
    found = refusal(node("Slice", ["x", "s", "e"], ["y"]), {"s": ints(0), "e": ints(1)})
    assert "takes a part of the batch (axis 0)" in found


def test_what_depends_on_shapes_alone_is_not_differentiated():
    """Shape, Size, ConstantOfShape, Range and EyeLike of an activation lead to no gradient."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("ConstantOfShape", ["s"], ["zeros"]),
        node("Size", ["x"], ["z"]),
        node("Range", ["zero", "z", "one"], ["r"]),
        node("Cast", ["r"], ["f"], to=1),
        node("Reshape", ["f", "s"], ["g"]),
        node("Flatten", ["x"], ["flat"]),
        node("EyeLike", ["flat"], ["e"]),
        node("Reshape", ["e", "s"], ["h"]),
        node("Sum", ["zeros", "g", "h"], ["y"]),
    ]
    made = ir.from_proto(graph_of(nodes, {"x": X}, {"zero": np.array(0), "one": np.array(1)}))
    annotate(made)
    route = plan(made.graph, made.graph.outputs[0], made.graph.inputs, opset=17)
    assert not route.steps
    assert not route.obstacles
    assert [value.name for value in route.unreached] == ["x"]


def test_every_combination_of_parts_of_a_split(torch_oracle):
    for chosen in itertools.chain.from_iterable(itertools.combinations("abcd", n) for n in (1, 2, 3, 4)):
        nodes = [node("Split", ["x", "s"], list("abcd"), axis=1), node("Concat", list(chosen), ["y"], axis=1)]
        check_torch(torch_oracle, nodes, {"x": values(2, 6)}, ["x"], {"s": ints(1, 2, 1, 2)})


SEQUENCES = {"time first": ({}, [3, 1, 2, 3]), "batch first": ({"batch_axis": 0, "time_axis": 1}, [3, 1, 4])}
REVERSED = {
    name: (node("ReverseSequence", ["x", "n"], ["y"], **axes), {"x": values(3, 4, 2)}, ["x"], {"n": np.array(lengths)})
    for name, (axes, lengths) in SEQUENCES.items()
}


@pytest.mark.parametrize("name", REVERSED)
def test_reverse_sequence_against_finite_differences(name):
    check_differences(*REVERSED[name], batched=())
