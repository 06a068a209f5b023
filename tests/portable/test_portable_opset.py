"""Converting graphs to opset 17: the same results in ONNX Runtime before and after, or a reason why not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models import tiny
from onnx import TensorProto, helper, numpy_helper
from rule_checks import values

from adabet_onnx import Choices, make_artifacts, open_model, score, select
from adabet_onnx.portable.opset import lower_opset, oldest_runtime
from adabet_onnx.portable.shapes import annotate
from adabet_onnx.scoring.options import Scoring

pytestmark = pytest.mark.usefixtures("checked_here")

node = helper.make_node
MAX = np.iinfo(np.int64).max


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def model_of(nodes, opset, feeds, constants=None, outputs=None, *, batched=("x",)) -> onnx.ModelProto:
    nodes = [nodes] if isinstance(nodes, onnx.NodeProto) else nodes
    inputs = []
    for name, array in feeds.items():
        shape = ["N", *array.shape[1:]] if name in batched else array.shape
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    names = outputs or nodes[-1].output
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    for i, made in enumerate(nodes):
        made.name = f"{made.op_type}_{i}"
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in names], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(9, 7 + opset // 17))


def run(model: onnx.ModelProto, feeds) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def lowered(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    made = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    annotate(made)
    kept = [str(node) for node in lower_opset(made)]
    return ir.to_proto(made), kept


def check(nodes, opset, feeds, constants=None, **options) -> onnx.ModelProto:
    """Lowered, the graph is valid at opset 17 and computes the same."""
    model = model_of(nodes, opset, feeds, constants, **options)
    after, kept = lowered(model)
    assert kept == []
    assert after.opset_import[0].version == 17
    onnx.checker.check_model(after, full_check=True)
    assert [o.name for o in after.graph.output] == [o.name for o in model.graph.output]
    for found, expected in zip(run(after, feeds), run(model, feeds), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    return after


def ops(model: onnx.ModelProto) -> list[str]:
    return [made.op_type for made in model.graph.node]


X, IMAGE = values(3, 4, 6), values(2, 4, 7, 6)
POSITIVE = values(3, 4, 6, low=0.5)
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
GROUPED = {"s": values(2, seed=1), "b": values(2, seed=2)}
CHANNELS = {"s": values(4, seed=1), "b": values(4, seed=2)}


@pytest.mark.parametrize("opset", [18, 20, 21])
@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_take_axes_as_an_attribute(kind, opset):
    reduce = node(f"Reduce{kind}", ["x", "a"], ["y"], keepdims=0)
    after = check(reduce, opset, {"x": POSITIVE}, {"a": ints(-1, 1)})
    assert len(after.graph.node[0].input) == 1
    assert not after.graph.initializer  # the axes


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_over_all_axes(kind):
    check(node(f"Reduce{kind}", ["x"], ["y"], noop_with_empty_axes=0), 18, {"x": POSITIVE})


@pytest.mark.parametrize("constants", [{}, {"a": ints()}])
def test_reductions_over_no_axes(constants):
    """Not compared with ONNX Runtime, which fails where the axes are left out."""
    reduce = node("ReduceMean", ["x", *constants], ["y"], noop_with_empty_axes=1)
    after, kept = lowered(model_of(reduce, 18, {"x": X}, constants))
    assert not kept
    assert ops(after) == ["Identity"]
    np.testing.assert_array_equal(run(after, {"x": X})[0], X)


def test_axes_that_others_use_stay():
    nodes = [
        node("ReduceMean", ["x", "a"], ["m"]),
        node("ReduceSum", ["x", "a"], ["s"]),
        node("Add", ["m", "s"], ["y"]),
    ]
    assert [t.name for t in check(nodes, 18, {"x": X}, {"a": ints(1)}).graph.initializer] == ["a"]


@pytest.mark.parametrize(("count", "sizes"), [(2, None), (4, (2, 2, 2, 0)), (5, (2, 2, 2, 0, 0)), (3, None)])
def test_split_into_a_number_of_parts(count, sizes):
    names = [f"y{i}" for i in range(count)]
    split = node("Split", ["x"], names, axis=-1, num_outputs=count)
    if sizes is not None:  # ONNX Runtime itself refuses parts of no length, and so many parts
        model = model_of(split, 18, {"x": X})
        made = ir.from_proto(model)
        made.graph.node(0).inputs[0].shape = ir.Shape(["N", 4, 6])
        assert lower_opset(made) == []
        assert made.graph.initializers[made.graph.node(0).inputs[1].name].const_value.numpy().tolist() == list(sizes)
        return
    after = check(split, 18, {"x": X})
    assert len(after.graph.node[0].input) == 1


def test_split_with_a_smaller_last_part():
    check(node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), 18, {"x": values(2, 7, 3)})


def test_split_with_sizes():
    check(node("Split", ["x", "s"], ["a", "b"], axis=1), 18, {"x": X}, {"s": ints(1, 3)})


def test_split_of_two_batches():
    nodes = [node("Concat", ["x", "x"], ["c"], axis=0), node("Split", ["c"], ["a", "b"], axis=0, num_outputs=2)]
    check(nodes, 18, {"x": X})


@pytest.mark.parametrize("opset", [18, 19, 21])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pads_of_some_axes(mode, opset):
    names = ["x", "p", "v" if mode == "constant" else "", "a"]
    check(
        node("Pad", names, ["y"], mode=mode),
        opset,
        {"x": IMAGE},
        {"p": ints(1, 0, 2, 3), "a": ints(-1, 2), "v": floats(2)[0]},
    )


def test_pads_of_all_axes():
    check(node("Pad", ["x", "p"], ["y"]), 21, {"x": X}, {"p": ints(0, 1, 0, 0, 0, 2)})


@pytest.mark.parametrize("opset", [18, 19])
@pytest.mark.parametrize(
    ("attributes", "inputs", "constants"),
    [
        ({"mode": "linear", "antialias": 0}, ["x", "", "s"], {"s": floats(1, 1, 2, 1.5)}),
        ({"keep_aspect_ratio_policy": "stretch"}, ["x", "", "s"], {"s": floats(1, 1, 2, 2)}),
        ({"mode": "cubic", "axes": [3, 2]}, ["x", "", "s"], {"s": floats(1.5, 2)}),
        ({"mode": "linear", "axes": [2]}, ["x", "", "s"], {"s": floats(2)}),
        ({"mode": "linear", "axes": [1, 2, 3]}, ["w", "", "", "t"], {"t": ints(4, 9, 5)}),
        ({"mode": "linear", "axes": [3, 2]}, ["w", "", "", "t"], {"t": ints(9, 5)}),
    ],
)
def test_resize(attributes, inputs, constants, opset):
    feeds = {"x": IMAGE, "w": IMAGE} if "w" in inputs else {"x": IMAGE}
    nodes = [node("Relu", ["x"], ["r"]), node("Resize", inputs, ["y"], **attributes)]
    check(nodes, opset, feeds, constants, outputs=["r", "y"])


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate):
    nodes = [node("Relu", ["x"], ["r"]), node("Gelu", ["x"], ["y"], approximate=approximate)]
    after = check(nodes, 20, {"x": 3 * X})
    assert "Gelu" not in ops(after)


def test_onnxruntime_makes_a_gelu_of_it_again(tmp_path):
    after, _ = lowered(model_of(node("Gelu", ["x"], ["y"]), 20, {"x": X}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # of a file for this machine alone
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert ops(onnx.load(tmp_path / "optimised.onnx")) == ["Gelu"]


def test_mish():
    check(node("Mish", ["x"], ["y"]), 18, {"x": 3 * X})


@pytest.mark.parametrize("shape", [(2, 4, 7, 6), (3, 4, 5), (2, 4, 2, 3, 2)])
def test_group_normalization_by_group(shape):
    check(node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2), 18, {"x": values(*shape)}, GROUPED)


@pytest.mark.parametrize("shape", [(2, 4, 7, 6), (3, 4, 5), (2, 4, 2, 3, 2)])
def test_group_normalization_by_channel(shape):
    made = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2, epsilon=0.1)
    check(made, 21, {"x": values(*shape)}, CHANNELS)


def test_what_follows_a_group_normalization_is_known():
    """ONNX shape inference fails there; the dtype is the input's."""
    nodes = [
        node("GroupNormalization", ["x", "s", "b"], ["n"], num_groups=2),
        node("Gelu", ["n"], ["g"]),
        node("ReduceMax", ["g", "a"], ["y"]),
    ]
    check(nodes, 21, {"x": X}, {**CHANNELS, "a": ints(-1)})


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("AveragePool", {"dilations": [1, 1], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"strides": [2, 2], "ceil_mode": 1}),
        ("LpPool", {"dilations": [1, 1], "ceil_mode": 0, "p": 2}),
    ],
)
def test_pools_without_dilation(op_type, attributes):
    check(node(op_type, ["x"], ["y"], kernel_shape=[2, 2], **attributes), 19, {"x": IMAGE})


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest"])
def test_grid_sample(mode):
    feeds = {"x": IMAGE, "g": values(2, 3, 3, 2, low=-1.0, high=1.0)}
    check(node("GridSample", ["x", "g"], ["y"], mode=mode), 20, feeds, batched=("x", "g"))


SAME = {
    "Cast": (node("Cast", ["x"], ["y"], to=TensorProto.INT64, saturate=1), {}),
    "CastLike": (node("CastLike", ["x", "s"], ["y"]), {"s": ints(1)}),
    "Equal": (node("Equal", ["x", "s"], ["y"]), {"s": floats(0)}),
    "Flatten": (node("Flatten", ["x"], ["y"]), {}),
    "Identity": (node("Identity", ["x"], ["y"]), {}),
    "IsNaN": (node("IsNaN", ["x"], ["y"]), {}),
    "LayerNormalization": (node("LayerNormalization", ["x", "s"], ["y"]), {"s": values(6)}),
    "Reshape": (node("Reshape", ["x", "s"], ["y"], allowzero=0), {"s": ints(0, -1)}),
    "ScatterElements": (
        node("ScatterElements", ["x", "i", "s"], ["y"], axis=2, reduction="add"),
        {"i": np.zeros((3, 4, 2), np.int64), "s": values(3, 4, 2)},
    ),
    "ScatterND": (node("ScatterND", ["x", "i", "s"], ["y"]), {"i": ints(1)[:, None], "s": values(1, 4, 6)}),
    "Shape": (node("Shape", ["x"], ["y"], start=1), {}),
    "Size": (node("Size", ["x"], ["y"]), {}),
    "Squeeze": (node("Unsqueeze", ["x", "s"], ["y"]), {"s": ints(1)}),
    "Transpose": (node("Transpose", ["x"], ["y"], perm=[0, 2, 1]), {}),
}


@pytest.mark.parametrize("opset", [19, 21])
@pytest.mark.parametrize("case", SAME)
def test_what_only_took_more_types_stays(case, opset):
    made, constants = SAME[case]
    batched = () if case.startswith("Scatter") else ("x",)
    feeds = {"x": X, "unused": X} if not batched else {"x": X}
    assert ops(check(made, opset, feeds, constants, batched=("unused",) if not batched else ("x",))) == [made.op_type]


@pytest.mark.parametrize("opset", [12, 13, 15, 16])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, -1, 1, 2])
def test_softmax(op_type, axis, opset):
    """Before opset 13, all axes from the given one on were one."""
    attributes = {} if axis is None else {"axis": axis}
    after = check(node(op_type, ["x"], ["y"], **attributes), opset, {"x": X})
    together = opset == 12 and axis in (None, 1)
    assert ops(after) == (["Flatten", op_type, "Shape", "Reshape"] if together else [op_type])


def test_softmax_over_all_that_is_left():
    assert ops(check(node("Softmax", ["x"], ["y"]), 12, {"x": values(3, 4, 1, 1)})) == ["Softmax"]


OLD = {
    "Squeeze": node("Squeeze", ["x"], ["y"], axes=[1]),
    "Unsqueeze": node("Unsqueeze", ["x"], ["y"], axes=[1, 3]),
    "ReduceSum": node("ReduceSum", ["x"], ["y"], axes=[-1], keepdims=0),
    "ReduceSum over all": node("ReduceSum", ["x"], ["y"]),
    "ReduceMean": node("ReduceMean", ["x"], ["y"], axes=[-1]),
    "Split": node("Split", ["x"], ["a", "b"], axis=2, split=[1, 5]),
    "equal Split": node("Split", ["x"], ["a", "b"], axis=2),
    "Clip": node("Clip", ["x", "", "s"], ["y"]),
    "Dropout": node("Dropout", ["x", "s"], ["y"]),
    "LeakyRelu": node("LeakyRelu", ["x"], ["y"]),
    "Pow": node("Pow", ["x", "s"], ["y"]),
    "Where": node("Where", ["c", "x", "s"], ["y"]),
    "Resize": node("Resize", ["x", "r", "z"], ["y"]),
    "Pad": node("Pad", ["x", "p"], ["y"]),
    "Gemm": node("Gemm", ["f", "g"], ["y"]),
    "GreaterOrEqual": node("GreaterOrEqual", ["x", "s"], ["y"]),
    "CumSum": node("CumSum", ["x", "one"], ["y"]),
    "ScatterND": node("ScatterND", ["g", "i", "u"], ["y"]),
}
CONSTANTS = {
    "s": np.float32(0.5),
    "c": np.array([True, False] * 3),
    "r": floats(),
    "z": floats(1, 1, 2),
    "p": ints(0, 0, 1, 0, 0, 1),
    "f": values(3, 4),
    "g": values(4, 5),
    "one": np.array(1),
    "i": ints(0)[:, None],
    "u": values(1, 5),
}


ONLY_12 = ("Squeeze", "Unsqueeze", "ReduceSum", "Split")


@pytest.mark.parametrize(
    ("case", "opset"), [*((case, 12) for case in OLD), *((case, 14) for case in OLD if case not in ONLY_12)]
)
def test_older_forms(case, opset):
    made = OLD[case]
    x = X[:, None] if case == "Squeeze" else X
    constants = {name: CONSTANTS[name] for name in made.input if name in CONSTANTS}
    check([node("Relu", ["x"], ["relu"]), made], opset, {"x": x}, constants, outputs=[*made.output, "relu"])


def test_batch_normalization_of_opset_12():
    constants = {"s": values(4), "b": values(4, seed=1), "m": values(4, seed=2), "v": values(4, low=0.5)}
    check(node("BatchNormalization", ["x", *constants], ["y"]), 12, {"x": X}, constants)


def test_roi_align_of_opset_12():
    constants = {"r": floats(0, 0, 5, 5, 1, 2, 4, 6).reshape(2, 4), "i": ints(0, 1)}
    made = node("RoiAlign", ["x", "r", "i"], ["y"], output_height=2, output_width=2)
    check(made, 12, {"x": IMAGE}, constants)


def test_the_same_as_the_version_converter():
    """Of onnx, for a graph with several old forms."""
    nodes = [
        node("Unsqueeze", ["x"], ["u"], axes=[1]),
        node("Softmax", ["u"], ["s"], axis=3),
        node("ReduceSum", ["s"], ["r"], axes=[2]),
        node("Split", ["r"], ["a", "b"], axis=3, split=[2, 4]),
        node("Squeeze", ["b"], ["y"], axes=[2]),
    ]
    model = model_of(nodes, 12, {"x": X}, outputs=["y"])
    for info in model.graph.output:
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    converted = onnx.version_converter.convert_version(model, 17)
    np.testing.assert_allclose(run(check(nodes, 12, {"x": X}), {"x": X})[0], run(converted, {"x": X})[0], rtol=1e-6)


def test_opset_17_is_left_alone():
    model = model_of(node("Relu", ["x"], ["y"]), 17, {"x": X})
    made = ir.from_proto(model)
    before = ir.to_proto(made).SerializeToString(deterministic=True)
    assert lower_opset(made) == []
    assert ir.to_proto(made).SerializeToString(deterministic=True) == before


def test_other_domains_are_left_alone():
    made = node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
    model = model_of(made, 20, {"x": X}, {"w": values(6, 2)})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    opened = ir.from_proto(model)
    assert lower_opset(opened) == []
    assert opened.opset_imports == {"": 17, "com.microsoft": 1}


KEPT = {
    "DFT": (20, node("DFT", ["x"], ["y"]), {}, "has no attribute 'axis' any more"),
    "wrap": (19, node("Pad", ["x", "p"], ["y"], mode="wrap"), {"p": ints(0, 0, 0, 0, 0, 1)}, "has the mode 'wrap'"),
    "pads made at run time": (
        18,
        [node("Identity", ["p"], ["q"]), node("Pad", ["x", "q", "", "a"], ["y"])],
        {"p": ints(1, 1), "a": ints(1)},
        "takes axes or pads that are not constant",
    ),
    "axes made at run time": (
        18,
        [node("Identity", ["a"], ["b"]), node("ReduceMean", ["x", "b"], ["y"])],
        {"a": ints(1)},
        "takes axes that are not constant",
    ),
    "no axes": (
        18,
        node("ReduceL2", ["x"], ["y"], noop_with_empty_axes=1),
        {},
        "is elementwise, since it has no axes",
    ),
    "max": (
        18,
        node("ScatterND", ["x", "i", "u"], ["y"], reduction="max"),
        {"i": ints(1)[:, None], "u": values(1, 4, 6)},
        "has the reduction 'max'",
    ),
    "antialias": (
        18,
        node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1),
        {"s": floats(1, 1, 0.5)},
        "has the attribute 'antialias'",
    ),
    "aspect ratio": (
        18,
        node("Resize", ["x", "", "", "s"], ["y"], keep_aspect_ratio_policy="not_larger", axes=[2]),
        {"s": ints(4)},
        "has the attribute 'keep_aspect_ratio_policy'",
    ),
    "half_pixel_symmetric": (
        19,
        node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="half_pixel_symmetric"),
        {"s": floats(1, 1, 2)},
        "has the coordinates 'half_pixel_symmetric'",
    ),
    "sizes of some axes": (
        18,
        node("Resize", ["x", "", "", "s"], ["y"], axes=[2]),
        {"s": ints(4)},
        "has the attribute 'axes', and",
    ),
    "dilation": (
        19,
        node("AveragePool", ["x"], ["y"], kernel_shape=[2], dilations=[2]),
        {},
        "is dilated",
    ),
    "ceil_mode and padding": (
        19,
        node("AveragePool", ["x"], ["y"], kernel_shape=[2], strides=[2], ceil_mode=1, count_include_pad=1),
        {},
        "counts the padding in the windows that 'ceil_mode' adds",
    ),
    "ceil_mode of LpPool": (
        18,
        node("LpPool", ["x"], ["y"], kernel_shape=[2], ceil_mode=1),
        {},
        "has the attribute 'ceil_mode'",
    ),
    "a new operator": (18, node("BitwiseNot", ["t"], ["y"]), {"t": ints(1)}, "is not in opset 17"),
    "strings": (19, node("Equal", ["t", "t"], ["y"]), {"t": np.array(["a"], object)}, "takes or gives tensor(string)"),
    "training mode": (
        12,
        node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "mean", "v"]),
        {"s": values(4, low=0.5)},
        "is in training mode, in the form of before opset 14",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_keeps_a_graph_from_opset_17(case):
    opset, nodes, constants, reason = KEPT[case]
    nodes = nodes if isinstance(nodes, list) else [nodes]
    # Another node that could be lowered is left as it is too.
    other = node("ReduceMean", ["x", "axes"], ["m"]) if opset >= 18 else node("Softmax", ["x"], ["m"])
    constants = {**constants, "axes": ints(1)} if opset >= 18 else constants
    model = model_of([other, *nodes], opset, {"x": X}, constants, outputs=["y", "m"])
    made = ir.from_proto(model)
    annotate(made, measure=False)
    before = ir.to_proto(made).SerializeToString(deterministic=True)
    (kept,) = lower_opset(made)
    assert reason in kept.reason
    assert kept.op_type == nodes[-1].op_type
    assert str(kept).startswith(f"node {nodes[-1].name!r} ({kept.op_type}) ")
    assert ir.to_proto(made).SerializeToString(deterministic=True) == before


def test_a_graph_in_a_node_keeps_it():
    info = helper.make_tensor_value_info
    branch = helper.make_graph([node("Identity", ["x"], ["z"])], "b", [], [info("z", TensorProto.FLOAT, None)])
    made = node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    opened = ir.from_proto(model_of(made, 18, {"x": X}, {"c": np.array(True)}))
    (kept,) = lower_opset(opened)
    assert kept.reason == "contains a subgraph"


@pytest.mark.parametrize(
    ("opset", "op_type", "inputs"),
    [(20, "Gelu", ["x"]), (18, "Mish", ["x"]), (21, "GroupNormalization", ["x", "s", "s"])],
)
def test_unknown_shapes_keep_a_graph(opset, op_type, inputs):
    attributes = {"num_groups": 2} if op_type == "GroupNormalization" else {}
    opened = ir.from_proto(model_of(node(op_type, inputs, ["y"], **attributes), opset, {"x": X}, {"s": values(4)}))
    opened.graph.inputs[0].shape = None
    (kept,) = lower_opset(opened)
    assert kept.reason == "has an input of unknown shape"


@pytest.mark.parametrize(
    ("opset", "ir_version", "op_types", "expected"),
    [
        (17, 8, {"Conv"}, "1.17"),
        (20, 9, {"Gelu"}, "1.17"),
        (20, 10, set(), "1.18"),
        (21, 9, set(), "1.18"),
        (21, 10, set(), "1.18"),
        (22, 10, set(), "1.21"),
        (23, 11, set(), "1.23"),
        (24, 11, set(), "1.24"),
        (26, 14, set(), "1.32"),
        (17, 8, {"DeformConv"}, "1.32"),
        (99, 8, set(), "1.32+"),
    ],
)
def test_oldest_runtime(opset, ir_version, op_types, expected):
    assert oldest_runtime(opset, ir_version, op_types) == expected


def test_this_runtime_reads_what_it_is_said_to():
    """The newest opset and IR version of the installed onnxruntime, against the table."""
    version = tuple(map(int, onnxruntime.__version__.split(".")[:2]))

    def reads(opset, ir_version):
        model = model_of(node("Relu", ["x"], ["y"]), opset, {"x": X})
        model.ir_version = ir_version
        try:
            run(model, {"x": X})
        except Exception:  # onnxruntime's own kinds
            return False
        return True

    for opset, ir_version in ((17, 8), (20, 9), (21, 9), (20, 10), (21, 10), (22, 10)):
        said = tuple(map(int, oldest_runtime(opset, ir_version, ()).split("."))) <= version
        assert reads(opset, ir_version) == said, (opset, ir_version)


def transformer(opset: int) -> onnx.ModelProto:
    """A class token, positions, one layer of attention with two heads, and a mean over tokens; (N, 5, 8)."""
    attribute = opset < 13
    axes = {"axes": [3]} if attribute else {}
    mean = {"axes": [1]} if opset < 18 else {}
    given = {
        "token": tiny.normal(1, 1, 8),
        "positions": tiny.normal(6, 8),
        "qkv.weight": tiny.normal(8, 24),
        "out.weight": tiny.normal(8, 8),
        "head.weight": tiny.normal(16, 4),
        "head.bias": tiny.normal(4),
        "one, eight": ints(1, 8),
        "heads": ints(0, 0, 6, 4),
        "flat": ints(0, -1, 8),
        "first": np.array(0),
        **({} if attribute else {"axis 3": ints(3)}),
        **({} if opset < 18 else {"axis 1": ints(1)}),
    }
    activation = [node("Gelu", ["o"], ["g"])] if opset >= 20 else [node("HardSigmoid", ["o"], ["g"])]
    nodes = [
        node("Shape", ["input"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Unsqueeze", ["n"] if attribute else ["n", "zero"], ["n1"], **({"axes": [0]} if attribute else {})),
        node("Concat", ["n1", "one, eight"], ["wide"], axis=0),
        node("Expand", ["token", "wide"], ["tokens"]),
        node("Concat", ["tokens", "input"], ["c"], axis=1),
        node("Add", ["c", "positions"], ["x"]),
        node("MatMul", ["x", "qkv.weight"], ["m"]),
        node("Reshape", ["m", "heads"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        node("Split", ["t"], ["q", "k", "v"], axis=1, **({} if opset < 18 else {"num_outputs": 3})),
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["a"], axis=3),
        node("MatMul", ["a", "v"], ["av"]),
        node("Transpose", ["av"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "flat"], ["joined"]),
        node("MatMul", ["joined", "out.weight"], ["o"]),
        *activation,
        node("Unsqueeze", ["g"] if attribute else ["g", "axis 3"], ["g4"], **axes),
        node("Squeeze", ["g4"] if attribute else ["g4", "axis 3"], ["g3"], **axes),
        node("Gather", ["g3", "first"], ["class"], axis=1),
        node("ReduceMean", ["g3"] if opset < 18 else ["g3", "axis 1"], ["mean"], keepdims=0, **mean),
        node("Concat", ["class", "mean"], ["both"], axis=-1),
        node("Gemm", ["both", "head.weight", "head.bias"], ["logits"]),
    ]
    for i, one in enumerate(nodes):
        one.name = f"/{one.op_type}_{i}"
    if not attribute:
        given["zero"] = ints(0)
    return tiny.build(nodes, given, input_shape=["N", 5, 8], output_shape=["N", 4], opset=opset, ir_version=8)


@pytest.mark.parametrize("opset", [12, 13, 18, 21])
def test_a_transformer_of_any_opset_trains_at_17(opset, tmp_path, torch_oracle, rng):
    import torch

    model = transformer(opset)
    opened = open_model(model)
    data = rng.standard_normal((32, 5, 8)).astype(np.float32)
    selection = select(score(opened, data, scoring=Scoring(samples=32)), strategy="all")
    manifest = make_artifacts(opened, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    assert manifest.content["opset"] == 17
    assert manifest.content["oldest_onnxruntime"] == "1.17"
    session = manifest.session(manifest.initial)
    stored = {t.name: torch.from_numpy(np.array(numpy_helper.to_array(t))) for t in model.graph.initializer}
    given = {k: v.double() if v.is_floating_point() else v for k, v in stored.items()}
    leaves = [given[name].requires_grad_(True) for name in manifest.parameters]
    assert {"qkv.weight", "out.weight", "head.weight"} <= set(manifest.parameters)
    stepper = torch.optim.SGD(leaves, lr=0.5)
    for _ in range(5):
        x, labels = rng.standard_normal((4, 5, 8)).astype(np.float32), rng.integers(0, 4, 4)
        logits = torch_oracle.execute(model, {**given, "input": torch.from_numpy(x).double()})["logits"]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        assert session.step({"input": x}, labels, 0.5)[0] == pytest.approx(loss.item(), rel=1e-4)
