"""Find what follows the head and belongs to its old outputs: an embedding's normalisation, an activation, a scale."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from .probabilities import SHAPE_ONLY
from .uses import made_by

# Operators that stay: they move, pool or resize the head's outputs, whatever their number.
_STAYS = frozenset(
    {
        *SHAPE_ONLY,
        *("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean", "ReduceMax", "ReduceSum"),
        *("Resize", "Upsample", "Slice", "Pad", "DepthToSpace", "Dropout"),
    }
)
_ACTIVATIONS = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSwish", "ThresholdedRelu"),
        *("Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign", "Softmax", "LogSoftmax", "Clip", "Exp"),
        *("Abs", "Neg", "Erf", "Sqrt", "Hardmax", "Shrink"),
    }
)
_NORMALISATIONS = frozenset(
    {
        *("BatchNormalization", "LayerNormalization", "GroupNormalization", "InstanceNormalization"),
        *("LpNormalization", "MeanVarianceNormalization", "LRN"),
    }
)
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"})
_MADE_ALONE = frozenset(
    {*_ACTIVATIONS, *_ARITHMETIC, *_STAYS, "ReduceL1", "ReduceL2", "ReduceSumSquare", "Reciprocal", "Log", "Shape"}
)


@dataclass(frozen=True)
class TailStep:
    """An operation that belongs to the old outputs.

    Attributes:
        result: its result.
        source: the value it is applied to, which replaces the result.
        nodes: its nodes, in no particular order.
    """

    result: ir.Value
    source: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def columns(self) -> bool:
        """Whether these are two-class logits, 0 and one number, a form that no other number of outputs has."""
        node = self.result.producer()
        return node is not None and node.op_type == "Concat"


def head_tail(logits: ir.Value, activation: ir.Value, stays: Collection[str] = ()) -> tuple[TailStep, ...]:
    """List the operations between the head's activation and the logits that belong to the old outputs.

    These are activations, bounds, arithmetic with constants (a temperature, a scale for each output, a soft cap) and
    normalisations, also written out as elementwise arithmetic of a value with others computed from it alone
    (x / ReduceL2(x), x * Sigmoid(x)). Changes of shape, pooling and resizing stay. The columns 0 and z, where z is the
    head's output, are listed too.

    Args:
        logits: the value that a loss is computed from.
        activation: the head's activation.
        stays: names of other nodes that stay; the path follows their first input.

    Returns:
        The operations to remove, from the logits back to the head; none if there is anything else between, for example
        a residual connection.
    """
    steps: list[TailStep] = []
    value = logits
    while value is not activation:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return ()
        stays_in_place = node.op_type in _STAYS or node.name in stays
        source = node.inputs[0] if stays_in_place else _source(node, activation)
        if source is None:
            return ()
        if not stays_in_place:
            steps.append(TailStep(value, source, _between(value, source)))
        value = source
    return tuple(steps)


def only_reshapes(logits: ir.Value, activation: ir.Value) -> bool:
    """Whether only changes of shape, and what `head_tail` finds, lie between the head's single output and the logits.

    If so, the changes of shape (a Squeeze to (N,), for example) are removed too: they only fit a single output.
    """
    value: ir.Value | None = logits
    while value is not None and value is not activation:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        value = node.inputs[0] if node.op_type in SHAPE_ONLY else _source(node, activation)
    return value is activation


def _source(node: ir.Node, activation: ir.Value) -> ir.Value | None:
    """The value that a node changes in a way that belongs to the old outputs; None for any other node."""
    data = [value for value in node.inputs if value is not None and not _is_constant(value)]
    if node.op_type in _ACTIVATIONS | _NORMALISATIONS or (node.op_type in _ARITHMETIC and len(data) == 1):
        return data[0] if len(data) == 1 and _depends(data[0], activation) else None
    if len(data) != 2:
        return None
    for one, other in (data, reversed(data)):
        of_itself = node.op_type in _ARITHMETIC and (one is other or _made_from_alone(other, one))
        if of_itself or (node.op_type == "Concat" and _is_zero_times(other, one)):
            return one if _depends(one, activation) else None
    return None


def _is_zero_times(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is the product of another and zero: the first of two-class logits."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or source not in node.inputs:
        return False
    tensors = [ir.convenience.get_const_tensor(operand) for operand in node.inputs if operand is not None]
    return any(tensor is not None and not tensor.numpy().any() for tensor in tensors)


def _is_constant(value: ir.Value) -> bool:
    """Whether a value does not depend on any graph input."""
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        node = current.producer()
        if node is None:
            if not current.is_initializer():
                return False
            continue
        operands = [operand for operand in node.inputs if operand is not None and operand not in seen]
        seen.update(operands)
        stack += operands
    return True


def _made_from_alone(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is computed from another and constants alone, by activations, arithmetic and reductions."""
    return made_by(value, source, _MADE_ALONE)


def _depends(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value depends on another."""
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        if current is source:
            return True
        node = current.producer()
        operands = [] if node is None else [operand for operand in node.inputs if operand is not None]
        stack += [operand for operand in operands if operand not in seen]
        seen.update(operands)
    return False


def _between(value: ir.Value, source: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that compute a value from another."""
    nodes: dict[ir.Node, None] = {}
    stack = [value]
    while stack:
        current = stack.pop()
        node = current.producer()
        if current is not source and node is not None and node not in nodes and _depends(current, source):
            nodes[node] = None
            stack += [operand for operand in node.inputs if operand is not None]
    return tuple(nodes)
