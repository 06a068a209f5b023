"""Gradient rules of normalizations."""

from __future__ import annotations

from itertools import combinations

import pytest
from onnx import TensorProto, helper
from rule_checks import (
    check_differences,
    check_torch,
    gradient_graph,
    graph_of,
    obstacles,
    our_gradients,
    values,
)

from adabet_onnx.portable.profiles import allowed

node = helper.make_node


def subsets(*names):
    return [list(chosen) for size in range(1, len(names) + 1) for chosen in combinations(names, size)]


def batch_norm(*shape, training=False, **attributes):
    """A node, its feeds and its constants; its channels have means far from 0 and variances far from 1."""
    channels = shape[1]
    x = values(*shape) * 2 + values(1, channels, *[1] * (len(shape) - 2), seed=5)
    feeds = {"x": x, "scale": values(channels, seed=1), "bias": values(channels, seed=2)}
    constants = {"mean": values(channels, seed=3), "var": values(channels, seed=4, low=0.3)}
    outputs = ["y", "new_mean", "new_var"] if training else ["y"]
    if training:
        attributes["training_mode"] = 1
    return node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], outputs, **attributes), feeds, constants


def scaled(op_type, shape, parameters, **attributes):
    """A node with a scale and a bias of one shape, and its feeds."""
    feeds = {"x": values(*shape) + 0.5, "scale": values(*parameters, seed=1), "bias": values(*parameters, seed=2)}
    return node(op_type, ["x", "scale", "bias"], ["y"], **attributes), feeds


BATCH_NORMS = {
    "image": batch_norm(4, 3, 5, 2),
    "table": batch_norm(6, 3),
    "sequence": batch_norm(4, 3, 5, epsilon=0.1),
    "volume": batch_norm(2, 3, 2, 2, 3),
    "one pixel": batch_norm(4, 3, 1, 1),
    "training, image": batch_norm(4, 3, 5, 2, training=True),
    "training, table": batch_norm(6, 3, training=True, epsilon=0.1),
    "training, volume": batch_norm(2, 3, 2, 2, 3, training=True, momentum=0.5),
}


@pytest.mark.parametrize("wrt", subsets("x", "scale", "bias"), ids="+".join)
@pytest.mark.parametrize("case", BATCH_NORMS)
def test_batch_normalization_against_torch(case, wrt, torch_oracle):
    check_torch(torch_oracle, *BATCH_NORMS[case][:2], wrt, BATCH_NORMS[case][2])


@pytest.mark.parametrize("case", BATCH_NORMS)
def test_batch_normalization_against_finite_differences(case):
    made, feeds, constants = BATCH_NORMS[case]
    check_differences(made, feeds, ["x", "scale", "bias"], constants)


@pytest.mark.parametrize("opset", [12, 14, 20])
def test_batch_normalization_in_other_opsets(opset, torch_oracle):
    made, feeds, constants = batch_norm(4, 3, 5, 2)
    check_torch(torch_oracle, made, feeds, ["x", "scale", "bias"], constants, opset=opset)


@pytest.mark.parametrize("training", [False, True])
def test_batch_normalization_of_a_fixed_batch(training, torch_oracle):
    made, feeds, constants = batch_norm(4, 3, 5, training=training)
    check_torch(torch_oracle, made, feeds, ["x", "scale", "bias"], constants, batched=())


def test_a_scale_of_zero_has_a_gradient(torch_oracle):
    made, feeds, constants = batch_norm(4, 3, 5, 2)
    feeds["scale"][:] = 0
    check_torch(torch_oracle, made, feeds, ["x", "scale", "bias"], constants)


def test_a_mean_far_from_zero_costs_no_digits(torch_oracle):
    made, feeds, constants = batch_norm(8, 3, 16, 16)
    feeds["x"] += 100
    constants["mean"] += 100
    check_torch(torch_oracle, made, feeds, ["scale"], constants, tolerance=3e-5)
    made, feeds, constants = batch_norm(8, 3, 16, 16, training=True)
    feeds["x"] += 100
    check_torch(torch_oracle, made, feeds, ["x", "scale"], constants, tolerance=3e-5)


def test_batch_normalization_refuses_gradients_of_its_statistics():
    made, feeds, constants = batch_norm(4, 3, 5, 2)
    feeds |= constants
    assert "no gradient for its input 3 ('mean')" in obstacles(graph_of(made, feeds), ["mean"])[0]


def test_batch_normalization_refuses_to_differentiate_running_statistics():
    made, feeds, constants = batch_norm(4, 3, 5, 2, training=True)
    nodes = [made, node("Mul", ["new_mean", "new_mean"], ["squared"])]
    assert "no gradient for its output 'new_mean'" in obstacles(graph_of(nodes, feeds, constants), ["x"])[0]


def test_old_training_outputs_are_refused():
    made, feeds, constants = batch_norm(4, 3, 5, 2)
    made.output.extend(["m", "v", "saved_m", "saved_v"])
    assert "outputs for training" in obstacles(graph_of(made, feeds, constants, opset=12), ["x"])[0]


LAYER_NORMS = {
    "last axis": scaled("LayerNormalization", (3, 4, 5), (5,)),
    "two axes": scaled("LayerNormalization", (3, 4, 5), (4, 5), axis=1),
    "two of four, from the end": scaled("LayerNormalization", (2, 3, 4, 5), (4, 5), axis=-2, epsilon=0.1),
    "table": scaled("LayerNormalization", (4, 6), (6,), axis=1),
}


@pytest.mark.parametrize("wrt", subsets("x", "scale", "bias"), ids="+".join)
@pytest.mark.parametrize("case", LAYER_NORMS)
def test_layer_normalization_against_torch(case, wrt, torch_oracle):
    if case == "table":  # the oracle reads the normalized shape off the axis, which is counted from the front here
        LAYER_NORMS[case][0].attribute[0].i = -1
    check_torch(torch_oracle, *LAYER_NORMS[case], wrt)


@pytest.mark.parametrize("case", LAYER_NORMS)
def test_layer_normalization_against_finite_differences(case):
    check_differences(*LAYER_NORMS[case], ["x", "scale", "bias"])


def test_layer_normalization_without_bias_and_with_statistics(torch_oracle):
    _, feeds = scaled("LayerNormalization", (3, 4, 5), (5,))
    del feeds["bias"]
    check_torch(torch_oracle, node("LayerNormalization", ["x", "scale"], ["y"]), feeds, ["x", "scale"])
    made = node("LayerNormalization", ["x", "scale"], ["y", "mean", "inverse"])
    check_differences(made, feeds, ["x", "scale"])
    nodes = [made, node("Mul", ["mean", "inverse"], ["z"])]
    assert "no gradient for its output 'mean'" in obstacles(graph_of(nodes, feeds), ["x"])[0]


def test_layer_normalization_of_a_mean_far_from_zero(torch_oracle):
    made, feeds = scaled("LayerNormalization", (3, 4, 64), (64,))
    feeds["x"] += 100
    check_torch(torch_oracle, made, feeds, ["x", "scale"], tolerance=3e-5)


@pytest.mark.parametrize(
    ("axis", "scale", "bias", "reason"),
    [
        (0, (3, 4, 5), (3, 4, 5), "normalizes over the batch"),
        (-1, (1,), (5,), "has a scale of shape (1,) for normalized dimensions (5,)"),
        (-1, (5,), (1,), "has a bias of shape (1,) for normalized dimensions (5,)"),
    ],
)
def test_layer_normalization_refuses(axis, scale, bias, reason):
    feeds = {"x": values(3, 4, 5), "scale": values(*scale), "bias": values(*bias)}
    made = node("LayerNormalization", ["x", "scale", "bias"], ["y"], axis=axis)
    assert reason in obstacles(graph_of(made, feeds), ["x"])[0]


GROUP_NORMS = {
    "instance": (*scaled("InstanceNormalization", (3, 4, 5, 2), (4,)), 17),
    "instance, sequence": (*scaled("InstanceNormalization", (3, 4, 7), (4,), epsilon=0.1), 12),
    "instance, volume": (*scaled("InstanceNormalization", (2, 3, 2, 3, 4), (3,)), 17),
    "groups, scale of each": (*scaled("GroupNormalization", (3, 6, 4, 2), (2,), num_groups=2), 18),
    "groups, scale of each channel": (*scaled("GroupNormalization", (3, 6, 4, 2), (6,), num_groups=2), 21),
    "groups of one": (*scaled("GroupNormalization", (3, 4, 5), (4,), num_groups=4, epsilon=0.1), 21),
    "one group": (*scaled("GroupNormalization", (3, 4, 5), (1,), num_groups=1), 18),
}


@pytest.mark.parametrize("wrt", subsets("x", "scale", "bias"), ids="+".join)
@pytest.mark.parametrize("case", GROUP_NORMS)
def test_group_normalization_against_torch(case, wrt, torch_oracle):
    made, feeds, opset = GROUP_NORMS[case]
    check_torch(torch_oracle, made, feeds, wrt, opset=opset)


@pytest.mark.parametrize("case", GROUP_NORMS)
def test_group_normalization_against_finite_differences(case):
    made, feeds, opset = GROUP_NORMS[case]
    if opset >= 21:
        made = type(made).FromString(made.SerializeToString())
        made.attribute.append(helper.make_attribute("stash_type", TensorProto.DOUBLE))  # float32 otherwise
    check_differences(made, feeds, ["x", "scale", "bias"], opset=opset)


def test_normalized_dimensions_that_depend_on_the_batch_are_refused():
    made, feeds = scaled("InstanceNormalization", (3, 4, 5), (4,))
    made.input[0] = "t"
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 2, 0]), made]
    feeds["scale"], feeds["bias"] = values(5), values(5)
    assert "spatial dimensions that depend on the batch" in obstacles(graph_of(nodes, feeds), ["scale"])[0]


IMAGE = {"x": values(7, 7, 4, 2)}  # as many as channels: onnx's reference evaluator takes one extent for the other
OTHERS = {
    "lrn, odd": (node("LRN", ["x"], ["y"], size=3, alpha=0.7, beta=0.6, bias=1.5), IMAGE),
    "lrn, even": (node("LRN", ["x"], ["y"], size=4, alpha=0.7), IMAGE),
    "lrn, one": (node("LRN", ["x"], ["y"], size=1, alpha=0.7), IMAGE),
    "lrn, wider than the channels": (node("LRN", ["x"], ["y"], size=9, alpha=0.7), IMAGE),
    "mvn": (node("MeanVarianceNormalization", ["x"], ["y"]), IMAGE),
    "mvn, axes": (node("MeanVarianceNormalization", ["x"], ["y"], axes=[1, 3]), IMAGE),
    "l2": (node("LpNormalization", ["x"], ["y"]), IMAGE),
    "l2, axis": (node("LpNormalization", ["x"], ["y"], axis=1, p=2), IMAGE),
    "l1": (node("LpNormalization", ["x"], ["y"], p=1), IMAGE),
    "l1, the batch": (node("LpNormalization", ["x"], ["y"], axis=0, p=1), IMAGE),
}


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("case", [case for case in OTHERS if case != "lrn, even"])  # onnxruntime has odd windows only
def test_others_against_torch(case, opset, torch_oracle):
    check_torch(torch_oracle, *OTHERS[case], ["x"], opset=opset)


# onnx's reference evaluator has float32 constants for "mvn", and adds up the elements as they are for "l1".
@pytest.mark.parametrize("case", [case for case in OTHERS if not case.startswith(("mvn", "l1"))])
def test_others_against_finite_differences(case):
    check_differences(*OTHERS[case], ["x"])


def test_l1_of_positive_numbers_against_finite_differences():
    check_differences(OTHERS["l1"][0], {"x": values(3, 5, low=0.1)}, ["x"])


@pytest.mark.parametrize("order", [1, 2])
def test_a_vector_of_zeros_gets_no_gradient(order):
    x = values(2, 3)
    x[0] = 0
    made = node("LpNormalization", ["x"], ["y"], p=order)
    found = our_gradients(graph_of(made, {"x": x}), {"x": x}, values(2, 3, seed=1), ["x"])["x"]
    assert (found[0] == 0).all()
    assert (found[1] != 0).any()


def test_lrn_refuses_other_ranks():
    assert "no fixed channels" in obstacles(graph_of(node("LRN", ["x"], ["y"], size=3), {"x": values(2, 3)}), ["x"])[0]


@pytest.mark.parametrize(
    ("made", "feeds", "constants"),
    [
        batch_norm(4, 3, 5, 2),
        (*scaled("LayerNormalization", (3, 4, 5), (5,)), None),
        (*scaled("InstanceNormalization", (3, 4, 5, 2), (4,)), None),
    ],
    ids=["batch", "layer", "instance"],
)
def test_webgpu_has_what_its_normalizations_need(made, feeds, constants):
    known = allowed("webgpu") | {"Identity"}  # which the check's own graph uses
    graph = gradient_graph(graph_of(made, feeds, constants), ["x", "scale", "bias"], known).graph
    assert {n.op_type for n in graph.node} <= known


def test_one_after_the_other(torch_oracle):
    made, feeds, constants = batch_norm(4, 3, 5, 2, training=True)
    nodes = [made, node("Relu", ["y"], ["r"]), node("InstanceNormalization", ["r", "scale", "bias"], ["z"])]
    check_torch(torch_oracle, nodes, feeds, ["x", "scale", "bias"], constants)


def test_frozen_parameters_that_are_constants(torch_oracle):
    """Which onnxruntime folds, here into the product before and after."""
    made, feeds, constants = batch_norm(4, 3, 5, 5)
    constants |= {"scale": feeds.pop("scale"), "bias": feeds.pop("bias"), "w": values(5, 5), "v": values(5, 5, seed=1)}
    made.input[0] = "c"
    nodes = [node("MatMul", ["x", "v"], ["c"]), made, node("MatMul", ["y", "w"], ["z"])]
    check_torch(torch_oracle, nodes, feeds, ["x"], constants)
