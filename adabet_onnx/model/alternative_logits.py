"""The value that would do for the logits where what is made from it cannot: the last one with an axis for the batch."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..errors import ModelError, RuntimeMissingError
from ..pieces import path_of
from .dims import Dim, batch_axis
from .layers import Layer, find_layers
from .shapes import BATCH, infer_shapes, infer_types, measured_shapes
from .upsampling import head_of
from .uses import ancestors, reads

_INFERRED, _MEASURED = (7919, 7907), (2, 3)
_MOST = 64  # values that are looked at
_CHOOSING = frozenset({"If"})  # their first input only chooses


@dataclass(frozen=True)
class AlternativeLogits:
    """A value that could be the logits.

    Attributes:
        name: of the value.
        shape: with ``N`` for the batch.
        head: the head's name, where the value stands before it; None where it is made by the head.
    """

    name: str
    shape: tuple[Dim, ...]
    head: str | None

    def remedy(self, model: str, why: str) -> str:
        """What to do, a sentence.

        Args:
            model: the file's name.
            why: what speaks for the value, in words that follow it.
        """
        shape = f"({', '.join(map(str, self.shape))})"
        named = f"open_model({path_of(model)}, logits={self.name!r})"
        if self.head is None:
            return f"Value {self.name!r} {shape}, from which they are made, {why}: take it as the logits (`{named}`)."
        return (
            f"Value {self.name!r} {shape} {why}, but stands before the head {self.head!r}: take it as the logits and "
            f"put a new head on it (`new_head({named}, C, append=True)`)."
        )


def find_alternative(model: ir.Model, logits: str, before: ir.Node | None = None) -> AlternativeLogits | None:
    """The last value before the logits with an axis for the batch alone, from which alone they are made.

    Accepted are float32 values of two axes or more, made by a layer or behind one, on which everything that depends on
    an input goes through to the logits; a condition that only chooses a branch does not count, nor do shapes.

    Args:
        model: a graph whose inputs are fixed but for the batch, ``N``.
        logits: name of the value that cannot be the logits.
        before: a node that the value must not depend on.

    Returns:
        None where there is no such value.
    """
    graph = model.graph
    result = next((value for node in graph for value in node.outputs if value.name == logits), None)
    if result is None:
        return None
    makers = ancestors([result])
    ordered = [node for node in graph if node in makers]
    if before is not None:
        ordered = ordered[: ordered.index(before)] if before in ordered else []
    layers = find_layers(model)
    behind = _behind_layers(ordered, layers)
    values = [value for node in reversed(ordered) for value in node.outputs if value.name and value is not result]
    likely = [value for value in values if value in behind][:_MOST]
    found = [value for value in likely if _is_waist(result, value)]
    shapes, types = _shapes(model, [value.name or "" for value in found]), infer_types(model)
    for value in found:
        name = value.name or ""
        small, large, sizes = shapes.get(name, ((), (), _MEASURED))
        axis = batch_axis(small, large, sizes)
        if axis is None or len(small) < 2 or types.get(name, ir.DataType.FLOAT) != ir.DataType.FLOAT:
            continue
        shape = tuple(BATCH if i == axis else extent for i, extent in enumerate(small))
        return AlternativeLogits(name, shape, _later_head(model, layers, value))
    return None


def _behind_layers(ordered: list[ir.Node], layers: tuple[Layer, ...]) -> set[ir.Value]:
    """Values that depend on a layer's activation, and these."""
    activations = {layer.activation for layer in layers}
    found: set[ir.Value] = set()
    for node in ordered:
        if any(value in found for value in reads(node)):
            found.update(node.outputs)
        found.update(value for value in node.outputs if value.name in activations)
    return found


def _is_waist(result: ir.Value, value: ir.Value) -> bool:
    """Whether whatever a result has from the graph's inputs, it has through a value."""
    stack, seen = [result], {result}
    while stack:
        current = stack.pop()
        node = current.producer()
        if current is value or (node is not None and node.op_type == "Shape"):
            continue
        if node is None:
            if not current.is_initializer():
                return False
            continue
        given = reads(node)[1:] if node.op_type in _CHOOSING else reads(node)
        stack += [operand for operand in given if operand is not None and operand not in seen]
        seen.update(operand for operand in given if operand is not None)
    return value in seen


Sizes = tuple[int, int]


def _shapes(model: ir.Model, names: list[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], Sizes]]:
    """Shapes at two batch sizes: inferred, or else measured."""
    small, large = (infer_shapes(model, size) for size in _INFERRED)
    found = {name: (small[name], large[name], _INFERRED) for name in names if name in small and name in large}
    rest = [name for name in names if name not in found]
    if rest:
        try:
            small, large = (measured_shapes(model, rest, size) for size in _MEASURED)
        except (ModelError, RuntimeMissingError):
            return found
        found |= {name: (small[name], large[name], _MEASURED) for name in rest}
    return found


def _later_head(model: ir.Model, layers: tuple[Layer, ...], value: ir.Value) -> str | None:
    head = head_of(layers, model.graph)
    if head is None:
        return None
    made = {output.name for node in ancestors([value]) for output in node.outputs}
    return None if head.activation in made else head.name
