"""Gathers from the rows of all samples with indices by which each sample reads its own rows.

The results are the same before and after; nothing is changed where the indices do not say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from adabet_onnx.model.passes.casts import ExplicitCasts
from adabet_onnx.model.passes.constants import FoldShapeArithmetic
from adabet_onnx.model.passes.sample_gathers import GatherWithinSamples
from adabet_onnx.model.passes.unused import RemoveUnused

node = helper.make_node
BATCHES = (1, 2, 5, 30)
LENGTH = 6
FIRST = [  # n: the number of samples, b: their positions, of shape (N, 1, 1)
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["n"], axis=0),
    node("Range", ["zero", "n", "one"], ["range"]),
    node("Unsqueeze", ["range", "axes"], ["b"]),
]
FLAT = node("Reshape", ["x", "rows"], ["flat"])  # (6 N, 2)
END = node("Neg", ["y"], ["logits"])
CONSTANTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "axes": np.array([1, 2]),
    "rows": np.array([-1, 2]),
    "length": np.array(LENGTH),
    "k": np.arange(LENGTH).reshape(1, 1, LENGTH),
}


def built(nodes: Sequence[onnx.NodeProto], values: dict[str, np.ndarray]) -> ir.Model:
    """A graph from x (N, 6, 2) to logits, with what is constant folded."""
    tensors = [numpy_helper.from_array(np.array(v), name) for name, v in (CONSTANTS | values).items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", LENGTH, 2])
    graph = helper.make_graph([*nodes, END], "g", [x], [onnx.ValueInfoProto(name="logits")], tensors)
    opset = [helper.make_opsetid("", 18)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=8))
    FoldShapeArithmetic(())(model)
    RemoveUnused()(model)
    return model


def results(model: ir.Model, batch: int) -> np.ndarray | None:
    """The logits of some samples; None if the graph fails on them."""
    proto = ir.to_proto(model)
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((batch, LENGTH, 2)).astype(np.float32)
    try:
        return session.run(None, {"x": x})[0]
    except Exception:  # an index is out of range
        return None


def linear(k: str = "k", length: str = "length", b: str = "b") -> list[onnx.NodeProto]:
    """The rows `b * length + k`, and what is read there."""
    return [
        FLAT,
        node("Mul", [b, length], ["start"]),
        node("Add", [k, "start"], ["index"]),
        node("Gather", ["flat", "index"], ["y"]),
    ]


def paired(*components: str, axis: int = -1) -> list[onnx.NodeProto]:
    """What is read at indices (N, 1, 6) along several axes."""
    joined = [node("Unsqueeze", [name, "last"], [f"{name}/apart"]) for name in components]
    return [
        *joined,
        node("Concat", [f"{n}/apart" for n in components], ["index"], axis=axis),
        node("GatherND", ["x", "index"], ["y"]),
    ]


SPREAD = [
    node("Max", ["b", "k"], ["larger"]),
    node("Shape", ["larger"], ["both"]),
    node("Expand", ["b", "both"], ["bs"]),
    node("Expand", ["k", "both"], ["ks"]),
]
LAST = {"last": np.array([-1])}
OWN: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[str]]] = {
    "all in order": ([*FIRST, *linear()], {}, []),
    "some, in another order": ([*FIRST, *linear("some")], {"some": np.array([[[5, 0, 0, 3]]])}, ["Gather"]),
    "one of each": ([*FIRST, *linear("one")], {}, ["Gather"]),
    "all, in a square": ([*FIRST, *linear("square")], {"square": np.arange(6).reshape(1, 2, 3)}, []),
    "in int32": (
        [
            *FIRST,
            node("Cast", ["b"], ["b32"], to=6),
            node("Cast", ["length"], ["l32"], to=6),
            node("Cast", ["k"], ["k32"], to=6),
            *linear("k32", "l32", "b32"),
        ],
        {},
        [],
    ),
    "written in another way": (
        [
            *FIRST[:3],
            node("Slice", ["range", "z", "end", "z", "o"], ["sliced"]),
            node("Reshape", ["sliced", "column"], ["bc"]),
            node("Mul", ["length", "bc"], ["start"]),
            node("Sub", ["start", "less"], ["index"]),
            FLAT,
            node("Gather", ["flat", "index"], ["y"]),
        ],
        {
            "z": np.array([0]),
            "o": np.array([1]),
            "end": np.array([2**63 - 1]),
            "column": np.array([-1, 1]),
            "less": -np.arange(6).reshape(1, 6),
        },
        [],
    ),
    "back in the shape of the indices": (
        [
            *FIRST,
            *linear()[:3],
            node("Gather", ["flat", "index"], ["got"]),
            node("Reshape", ["got", "long"], ["line"]),
            node("Shape", ["index"], ["of"], end=2),
            node("Concat", ["of", "rest"], ["target"], axis=0),
            node("Reshape", ["line", "target"], ["y"]),
        ],
        {"long": np.array([-1]), "rest": np.array([3, 4])},
        ["Shape", "Gather", "Cast", "Concat", "Gather", "Concat"],
    ),
    "each sample whole": (
        [*FIRST[:3], node("Gather", ["x", "range"], ["y"])],
        {},
        [],
    ),
    "by two indices": ([*FIRST, *SPREAD, *paired("bs", "ks")], LAST, []),
    "by two indices, some": (
        [
            *FIRST,
            node("Expand", ["b", "s"], ["bs"]),
            node("Mul", ["bs", "zero"], ["nothing"]),
            node("Add", ["nothing", "some"], ["ks"]),
            *paired("bs", "ks"),
        ],
        LAST | {"s": np.array([1, 1, 3]), "some": np.array([[[1, 1, 4]]])},
        ["Gather"],
    ),
    "by three indices": (
        [*FIRST, *SPREAD, node("Expand", ["c", "both"], ["cs"]), *paired("bs", "ks", "cs")],
        LAST | {"c": np.array([[[0, 1, 0, 1, 1, 0]]])},
        ["Gather"],
    ),
    "by one index": ([*FIRST, *paired("b")], LAST, []),
}


@pytest.mark.parametrize("name", OWN)
def test_rows_of_each_sample(name):
    nodes, values, expected = OWN[name]
    model = built(nodes, values)
    before = [results(model, batch) for batch in BATCHES]
    assert all(array is not None for array in before)
    assert GatherWithinSamples(())(model).modified
    RemoveUnused()(model)
    for batch, array in zip(BATCHES, before, strict=True):
        np.testing.assert_array_equal(results(model, batch), array)
    operators = [each.op_type for each in model.graph if each.op_type != "Reshape"]
    assert operators == [*expected, "Neg"]


ONES = node("Add", ["b", "one"], ["next"])
MIXED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "of the next sample": ([*FIRST, ONES, node("Mod", ["next", "n"], ["around"]), *linear(b="around")], {}),
    "of the sample before": ([*FIRST, node("Sub", ["b", "one"], ["previous"]), *linear(b="previous")], {}),
    "of half the rows": (
        [
            *FIRST,
            node("Concat", ["x", "x"], ["twice"], axis=0),
            node("Reshape", ["twice", "rows"], ["flat"]),
            *linear()[1:],
        ],
        {},
    ),
    "of the sample before by the offset": ([*FIRST, *linear("far")], {"far": np.array([[[0, -1]]])}),
    "from the last sample on": (
        [*FIRST, node("Sub", ["n", "one"], ["most"]), node("Sub", ["most", "b"], ["back"]), *linear(b="back")],
        {},
    ),
    "with the samples inside": (
        [
            *FIRST,
            node("Mul", ["k", "n"], ["start"]),
            node("Add", ["start", "b"], ["index"]),
            FLAT,
            node("Gather", ["flat", "index"], ["y"]),
        ],
        {},
    ),
    "of a shorter length": ([*FIRST, *linear("few", "short")], {"short": np.array(3), "few": np.array([[[0, 1, 2]]])}),
    "of twice the length": ([*FIRST, *linear("k", "short")], {"short": np.array(0)}),
    "of a length that is the batch": ([*FIRST, *linear("one", "n")], {}),
    "squared": (
        [*FIRST, node("Mul", ["b", "b"], ["bb"]), node("Mod", ["bb", "n"], ["around"]), *linear(b="around")],
        {},
    ),
    "of some samples": (
        [
            *FIRST[:2],
            node("Min", ["n", "twenty"], ["few"]),
            node("Range", ["zero", "few", "one"], ["range"]),
            FIRST[3],
            *linear(),
        ],
        {"twenty": np.array(20)},
    ),
    "of the first samples": (
        [*FIRST[:3], node("Slice", ["range", "z", "end"], ["r"]), node("Unsqueeze", ["r", "axes"], ["b"]), *linear()],
        {"z": np.array([0]), "end": np.array([20])},
    ),
    "of as many as some samples": (
        [node("Slice", ["x", "z", "end"], ["part"]), node("Shape", ["part"], ["shape"]), *FIRST[1:], *linear()],
        {"z": np.array([0]), "end": np.array([20])},
    ),
    "of every second sample": (
        [*FIRST[:2], node("Range", ["zero", "n", "two"], ["range"]), FIRST[3], *linear()],
        {"two": np.array(2)},
    ),
    "with the samples second": ([*FIRST, node("Transpose", ["b"], ["t"], perm=[1, 0, 2]), *linear(b="t")], {}),
    "along the second axis": (
        [*FIRST[:3], node("Mod", ["range", "length"], ["r"]), node("Gather", ["x", "r"], ["y"], axis=1)],
        {},
    ),
    "by two indices, turned around": (
        [
            *FIRST,
            *SPREAD,
            node("Sub", ["n", "one"], ["most"]),
            node("Sub", ["most", "bs"], ["back"]),
            *paired("back", "ks"),
        ],
        LAST,
    ),
    "by two indices, of other samples": (
        [*FIRST, *SPREAD, node("Mod", ["ks", "n"], ["other"]), *paired("other", "ks")],
        LAST,
    ),
    "by two indices, of one sample": (
        [*FIRST, *SPREAD, node("Mul", ["bs", "zero"], ["other"]), *paired("other", "ks")],
        LAST,
    ),
    "by two indices, counted from the end": (
        [*FIRST, *SPREAD, node("Sub", ["ks", "length"], ["negative"]), *paired("bs", "negative")],
        LAST,
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_looks_alike_stays(name):
    """Some of these read rows of other samples; of the rest it is not known."""
    model = built(*MIXED[name])
    before = ir.to_proto(model).SerializeToString()
    assert any(results(model, batch) is not None for batch in BATCHES)
    assert not GatherWithinSamples(())(model).modified
    assert ir.to_proto(model).SerializeToString() == before


def test_offsets_into_the_next_sample_stay():
    """They exceed the rows of the last one, so this graph cannot run."""
    model = built([*FIRST, *linear("far")], {"far": np.array([[[0, LENGTH]]])})
    assert not GatherWithinSamples(())(model).modified


def test_trained_indices_are_no_constants():
    model = built([*FIRST, *linear()], {})
    assert not GatherWithinSamples(["k"])(model).modified


def test_casts_to_the_type_of_a_value():
    model = built([node("CastLike", ["one", "x"], ["c"]), node("Add", ["x", "c"], ["y"])], {})
    before = results(model, 3)
    assert ExplicitCasts()(model).modified
    assert [each.op_type for each in model.graph] == ["Cast", "Add", "Neg"]
    np.testing.assert_array_equal(results(model, 3), before)
