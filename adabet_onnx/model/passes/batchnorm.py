"""Replace BatchNormalization with stored statistics by Mul and Add, or fold it into the Conv before it.

onnxruntime-training replaces every BatchNormalization, even frozen ones, by one that normalises with the batch's
statistics and updates the stored ones. Decomposed, with inv = 1 / sqrt(var + epsilon):

    y = ((x * inv) + (-mean * inv)) * scale + bias

inv and -mean * inv are constants; scale and bias keep their names if they are trained. Whatever is frozen is merged
into one product and one sum, or into the weights of the Conv before it if that is frozen too, which saves a node or two
in every step.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..layers import source_initializer
from ..scaled import Scaled
from .replacement import Replacement


class DecomposeBatchNormalization(ir.passes.InPlacePass):
    """Rewrite every BatchNormalization in inference mode.

    Args:
        trainable: names of initializers that will be trained (and must stay separate tensors).
        shapes: static shapes of values, to find the rank of the normalised value.
    """

    def __init__(self, trainable: Collection[str], shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._trainable = frozenset(trainable)
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph if node.op_type == "BatchNormalization"]
        for node in nodes:
            self._rewrite(model.graph, node)
        return ir.passes.PassResult(model, bool(nodes))

    def _rewrite(self, graph: ir.Graph, node: ir.Node) -> None:
        x, scale, bias, mean, var = node.inputs[:5]
        assert x is not None
        assert scale is not None
        assert bias is not None
        _check_mode(node)
        inv = 1 / np.sqrt(_array(var) + _epsilon(node))
        shift = -_array(mean) * inv
        shape = self._shapes.get(node.outputs[0].name or "") or self._shapes.get(x.name or "")
        if shape is None:
            raise ModelError(
                f"node {node.name!r} (BatchNormalization) normalises a value of unknown shape; export the model with "
                "static height and width."
            )
        rank = len(shape)
        tail = [inv.size, *[1] * (rank - 2)]
        trains_scale, trains_bias = self._trains(scale), self._trains(bias)
        # Fold from the left as long as nothing is trained: x * factor + offset.
        factor, offset = inv, shift
        if not trains_scale:
            factor, offset = factor * _array(scale), offset * _array(scale)
            if not trains_bias:
                offset = offset + _array(bias)
        value = x if _fold_into_conv(graph, x, node, factor, offset, self._trainable) else None
        edit = Replacement(graph, node)
        if value is None:
            value = edit.apply("Mul", x, edit.constant("inv", factor.reshape(tail)))
            value = edit.apply("Add", value, edit.constant("shift", offset.reshape(tail)))
        if trains_scale:
            value = edit.apply("Mul", value, _reshaped(edit, scale, "scale", tail))
        if trains_scale or trains_bias:
            value = edit.apply("Add", value, _reshaped(edit, bias, "bias", tail))
        edit.finish(value)

    def _trains(self, value: ir.Value) -> bool:
        initializer = source_initializer(value)
        return initializer is not None and initializer.name in self._trainable


class FoldBatchNormalization(ir.passes.InPlacePass):
    """Merge every frozen BatchNormalization into the frozen Conv before it that has no other reader; leave the others.

    Args:
        trainable: names of initializers that will be trained.
    """

    def __init__(self, trainable: Collection[str]) -> None:
        super().__init__()
        self._trainable = frozenset(trainable)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph if node.op_type == "BatchNormalization"]
        folded = [node for node in nodes if self._fold(model.graph, node)]
        return ir.passes.PassResult(model, bool(folded))

    def _fold(self, graph: ir.Graph, node: ir.Node) -> bool:
        _check_mode(node)
        x = node.inputs[0]
        stored = [source_initializer(value) for value in node.inputs[1:5]]
        if x is None or any(value is None or value.name in self._trainable for value in stored):
            return False
        scale, bias, mean, var = (_array(value) for value in stored)
        factor = scale / np.sqrt(var + _epsilon(node))
        if not _fold_into_conv(graph, x, node, factor, bias - mean * factor, self._trainable):
            return False
        Replacement(graph, node).finish(x)
        return True


def _check_mode(node: ir.Node) -> None:
    if node.attributes.get_int("training_mode", 0):
        raise ModelError(
            f"node {node.name!r} (BatchNormalization) is in training mode: it normalises with the statistics of the "
            "batch, not with stored ones. Export the model in evaluation mode (model.eval())."
        )


def _epsilon(node: ir.Node) -> float:
    return float(node.attributes.get_float("epsilon", 1e-5))


def _fold_into_conv(
    graph: ir.Graph, x: ir.Value, node: ir.Node, factor: np.ndarray, offset: np.ndarray, trainable: Collection[str]
) -> bool:
    """Merge x * factor + offset into the frozen Conv that produces x, if there is one and nothing else reads x."""
    conv = x.producer()
    if conv is None or conv.op_type != "Conv" or x.is_graph_output() or len(x.uses()) != 1:
        return False
    inputs = [value for value in conv.inputs[1:] if value is not None]
    if any(not value.is_initializer() or value.name in trainable for value in inputs):
        return False
    weight = inputs[0].const_value
    assert weight is not None
    scale = factor.reshape([-1, *[1] * (len(weight.shape) - 1)])
    if len(inputs) > 1:
        offset = offset + _array(inputs[1]) * factor
    edit = Replacement(graph, node)
    conv.resize_inputs(3)
    name = f"{node.name}/folded_weight"
    merged = ir.Value(name=name, const_value=Scaled(weight, scale, name))
    graph.register_initializer(merged)
    conv.replace_input_with(1, merged)
    conv.replace_input_with(2, edit.constant("folded_bias", offset))
    return True


def _reshaped(edit: Replacement, value: ir.Value, suffix: str, shape: list[int]) -> ir.Value:
    """A per-channel vector, reshaped by a node to broadcast over (N, C, ...), so that its initializer is unchanged."""
    if len(shape) == 1:
        return value
    return edit.apply("Reshape", value, edit.constant(f"{suffix}_shape", np.array(shape, np.int64)))


def _array(value: ir.Value | None) -> np.ndarray:
    """The constant of a value, in double precision."""
    initializer = source_initializer(value)
    if initializer is None or initializer.const_value is None:
        name = value.name if value is not None else None
        raise ModelError(
            f"BatchNormalization input {name!r} is computed in the graph, not stored. Export the model with constant "
            "folding."
        )
    array = initializer.const_value.numpy().astype(np.float64)
    return array.reshape(-1) if array.ndim < 2 else array
