"""Merging a BatchNormalization with stored statistics into the trained convolution before it, in the graph of a step.

With f = scale / sqrt(variance + epsilon) the result is a convolution with the weight f w and the bias f (b - mean) +
shift. The gradients of w and of scale follow from the gradient of that weight: the convolution's output is neither kept
nor read again, and five passes over activations become five over the weight. So this is done if the weight is the
smaller of the two.

The scale's gradient is then a difference of two sums, which loses more digits the larger the mean is compared with the
standard deviation; if it is far larger, nothing is done.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from ..model.dims import dims, dims_or_none
from ..model.uses import dependents
from .builder import Builder

_OPERATORS = ("Add", "Mul", "Reshape", "Sub")
_SAMPLES = 16  # samples of a step for which activations should be at least as large as the weight
_MOST = 64.0  # the most standard deviations that a mean may differ from zero


def merge_norms(
    model: ir.Model,
    trained: Collection[ir.Value],
    in_part: Collection[ir.Value],
    allowed: Collection[str] | None,
) -> None:
    """Merge the normalisations of a graph, in place.

    Args:
        model: a graph with shapes whose BatchNormalizations use stored statistics.
        trained: values that are trained.
        in_part: those among them that are trained only in part; nodes that read one are not rewritten.
        allowed: operators that may be used; None for all.
    """
    graph = model.graph
    build = Builder(graph, opset=model.opset_imports[""] or 0, allowed=allowed)
    if not all(build.allows(operator) for operator in _OPERATORS):
        return
    changing = dependents(graph, trained)
    for node in list(graph):
        conv = _merged_into(node, changing, in_part)
        if conv is None:
            continue
        build.begin(f"{node.name}/merged")
        merged = _write(conv, node, build)
        graph.insert_before(node, build.take())
        node.outputs[0].replace_all_uses_with(merged, replace_graph_outputs=True)
        graph.remove([node, conv], safe=True)
    for value in build.initializers:
        if value.uses():
            graph.register_initializer(value)


def _merged_into(node: ir.Node, changing: Collection[ir.Value], in_part: Collection[ir.Value]) -> ir.Node | None:
    """The convolution that a node can be merged into, or None."""
    if node.op_type != "BatchNormalization" or node.domain or node.attributes.get_int("training_mode", False):
        return None
    given = node.inputs[0]
    conv = None if given is None else given.producer()
    if given is None or conv is None or conv.op_type != "Conv" or conv.domain:
        return None
    if given.is_graph_output() or len(given.uses()) != 1 or any(value.uses() for value in node.outputs[1:]):
        return None
    weight, shape = conv.inputs[1], dims_or_none(given)
    kernel = None if weight is None else dims_or_none(weight)
    if weight is None or weight not in changing or not kernel or not shape or weight.dtype != ir.DataType.FLOAT:
        return None
    if any(value in in_part for value in (*conv.inputs[1:], *node.inputs[1:3])):
        return None
    if any(isinstance(d, str) for d in (*kernel, *shape[1:])):
        return None
    if math.prod(int(d) for d in kernel[1:]) > _SAMPLES * math.prod(int(d) for d in shape[2:]):
        return None
    statistics = _statistics(node)
    if statistics is None or np.abs(statistics[0] * statistics[1]).max(initial=0) > _MOST:
        return None
    return conv


def _statistics(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean, and one over the standard deviation, in float64; None if they are not constant or not finite."""
    mean, variance = (None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs[3:5])
    if mean is None or variance is None:
        return None
    with np.errstate(all="ignore"):
        inverse = 1 / np.sqrt(variance.astype(np.float64) + node.attributes.get_float("epsilon", 1e-5))
    return (mean.astype(np.float64), inverse) if np.isfinite(inverse).all() and np.isfinite(mean).all() else None


def _write(conv: ir.Node, node: ir.Node, build: Builder) -> ir.Value:
    statistics = _statistics(node)
    x, weight, scale, shift = conv.inputs[0], conv.inputs[1], node.inputs[1], node.inputs[2]
    assert statistics is not None
    assert weight is not None
    assert scale is not None
    assert shift is not None
    mean, inverse = (build.constant(vector.astype(np.float32)) for vector in statistics)
    factor = build.mul(scale, inverse)
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if bias is None:
        offset = build.sub(shift, build.mul(factor, mean))
    else:
        offset = build.add(shift, build.mul(factor, build.sub(bias, mean)))
    column = build.reshape(factor, [dims(weight)[0], *[1] * (len(dims(weight)) - 1)])
    attributes = {name: attribute.value for name, attribute in conv.attributes.items()}
    given = node.outputs[0]
    return build.op("Conv", x, build.mul(weight, column), offset, shape=dims(given), **attributes)
