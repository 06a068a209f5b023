"""What comes after the head and belongs to its old outputs: a normalisation of an embedding, an activation, a scale."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from .probabilities import SHAPE_ONLY
from .uses import made_by

# What stays: it moves, pools or enlarges what the head gives, however many outputs there are.
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
    """A change that belongs to the old outputs.

    Attributes:
        made: its result.
        source: what it is made of, and to be replaced by.
        nodes: the nodes between, in no order.
    """

    made: ir.Value
    source: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def columns(self) -> bool:
        """Whether these are the logits of two classes, 0 and one number, which no other number of outputs has."""
        node = self.made.producer()
        return node is not None and node.op_type == "Concat"


def head_tail(logits: ir.Value, activation: ir.Value, stays: Collection[str] = ()) -> tuple[TailStep, ...]:
    """What belongs to the old head in what makes the logits of the head's activation.

    Accepted on the way: activations, bounds, arithmetic with constants (a temperature, a scale for each output, a soft
    cap), normalisations, also written out (x / ReduceL2(x), x * Sigmoid(x)): arithmetic of a value with what is made
    from it alone, one number after another; all of that goes. Changes of shape, pooling and resizing stay. The columns
    0 and z, of which z is the head's, go too.

    Args:
        logits: the value that a loss is computed from.
        activation: of the head.
        stays: names of other nodes that stay, for what they are given first.

    Returns:
        What goes, from the logits back to the head; nothing where anything else is on the way, as a residual.
    """
    steps: list[TailStep] = []
    value = logits
    while value is not activation:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return ()
        kept = node.op_type in _STAYS or node.name in stays
        source = node.inputs[0] if kept else _source(node, activation)
        if source is None:
            return ()
        if not kept:
            steps.append(TailStep(value, source, _between(value, source)))
        value = source
    return tuple(steps)


def only_reshapes(logits: ir.Value, activation: ir.Value) -> bool:
    """Whether nothing but changes of shape, and what `head_tail` finds, is between the head's one number and logits.

    Then other shapes (a Squeeze to (N,), say) go too: they are those of one number.
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
        of_itself = node.op_type in _ARITHMETIC and (one is other or _alone(other, one))
        if of_itself or (node.op_type == "Concat" and _is_zero_times(other, one)):
            return one if _depends(one, activation) else None
    return None


def _is_zero_times(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is the product of another and zero: the first of the logits of two classes."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or source not in node.inputs:
        return False
    tensors = [ir.convenience.get_const_tensor(operand) for operand in node.inputs if operand is not None]
    return any(tensor is not None and not tensor.numpy().any() for tensor in tensors)


def _is_constant(value: ir.Value) -> bool:
    """Whether no graph input has a part in a value."""
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        node = current.producer()
        if node is None:
            if not current.is_initializer():
                return False
            continue
        given = [operand for operand in node.inputs if operand is not None and operand not in seen]
        seen.update(given)
        stack += given
    return True


def _alone(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is made from another and constants alone, by activations, arithmetic and reductions."""
    return made_by(value, source, _MADE_ALONE)


def _depends(value: ir.Value, source: ir.Value) -> bool:
    """Whether a value is made from another."""
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        if current is source:
            return True
        node = current.producer()
        given = [] if node is None else [operand for operand in node.inputs if operand is not None]
        stack += [operand for operand in given if operand not in seen]
        seen.update(given)
    return False


def _between(value: ir.Value, source: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that make a value of another."""
    found: dict[ir.Node, None] = {}
    stack = [value]
    while stack:
        current = stack.pop()
        node = current.producer()
        if current is not source and node is not None and node not in found and _depends(current, source):
            found[node] = None
            stack += [operand for operand in node.inputs if operand is not None]
    return tuple(found)
