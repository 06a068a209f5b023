"""Find another value to use as the logits if the given one has no batch axis: the last value before it that has one."""

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
_MOST = 64  # values that are checked, at most
_CHOOSING = frozenset({"If"})  # their first input only selects a branch


@dataclass(frozen=True)
class AlternativeLogits:
    """A value that could serve as the logits.

    Attributes:
        name: name of the value.
        shape: its shape, with ``N`` for the batch.
        head: name of the head if the value comes before it; None if the head contributes to the value.
    """

    name: str
    shape: tuple[Dim, ...]
    head: str | None

    def remedy(self, model: str, why: str) -> str:
        """Advice to use this value, as a sentence.

        Args:
            model: the file's name.
            why: the reason for the value, a clause that follows its name.
        """
        shape = f"({', '.join(map(str, self.shape))})"
        named = f"open_model({path_of(model)}, logits={self.name!r})"
        if self.head is None:
            return (
                f"Value {self.name!r} {shape}, from which they are computed, {why}: use it as the logits (`{named}`)."
            )
        return (
            f"Value {self.name!r} {shape} {why}, but comes before the head {self.head!r}: use it as the logits and put "
            f"a new head on it (`new_head({named}, C, append=True)`)."
        )


def find_alternative(model: ir.Model, logits: str, before: ir.Node | None = None) -> AlternativeLogits | None:
    """Find the last value before the logits that has an axis for the batch alone and alone determines them.

    Accepted are float32 values of two or more axes, computed by a layer or after one, through which every path from an
    input to the logits leads. Conditions that only select a branch and shapes do not count as paths.

    Args:
        model: a graph whose inputs are fixed but for the batch, ``N``.
        logits: name of the value that cannot be the logits.
        before: a node that the result must not depend on.

    Returns:
        None where there is no such value.
    """
    graph = model.graph
    result = next((value for node in graph for value in node.outputs if value.name == logits), None)
    if result is None:
        return None
    contributing = ancestors([result])
    ordered = [node for node in graph if node in contributing]
    if before is not None:
        ordered = ordered[: ordered.index(before)] if before in ordered else []
    layers = find_layers(model)
    behind = _behind_layers(ordered, layers)
    values = [value for node in reversed(ordered) for value in node.outputs if value.name and value is not result]
    candidates = [value for value in values if value in behind][:_MOST]
    waists = [value for value in candidates if _is_waist(result, value)]
    shapes, types = _shapes(model, [value.name or "" for value in waists]), infer_types(model)
    for value in waists:
        name = value.name or ""
        small, large, sizes = shapes.get(name, ((), (), _MEASURED))
        axis = batch_axis(small, large, sizes)
        if axis is None or len(small) < 2 or types.get(name, ir.DataType.FLOAT) != ir.DataType.FLOAT:
            continue
        shape = tuple(BATCH if i == axis else extent for i, extent in enumerate(small))
        return AlternativeLogits(name, shape, _later_head(model, layers, value))
    return None


def _behind_layers(ordered: list[ir.Node], layers: tuple[Layer, ...]) -> set[ir.Value]:
    """The layers' activations and all values that depend on them."""
    activations = {layer.activation for layer in layers}
    behind: set[ir.Value] = set()
    for node in ordered:
        if any(value in behind for value in reads(node)):
            behind.update(node.outputs)
        behind.update(value for value in node.outputs if value.name in activations)
    return behind


def _is_waist(result: ir.Value, value: ir.Value) -> bool:
    """Whether a result depends on the graph's inputs only through a value."""
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
        operands = reads(node)[1:] if node.op_type in _CHOOSING else reads(node)
        stack += [operand for operand in operands if operand is not None and operand not in seen]
        seen.update(operand for operand in operands if operand is not None)
    return value in seen


Sizes = tuple[int, int]


def _shapes(model: ir.Model, names: list[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], Sizes]]:
    """Shapes at two batch sizes: inferred, or else measured."""
    small, large = (infer_shapes(model, size) for size in _INFERRED)
    shapes = {name: (small[name], large[name], _INFERRED) for name in names if name in small and name in large}
    missing = [name for name in names if name not in shapes]
    if missing:
        try:
            small, large = (measured_shapes(model, missing, size) for size in _MEASURED)
        except (ModelError, RuntimeMissingError):
            return shapes
        shapes |= {name: (small[name], large[name], _MEASURED) for name in missing}
    return shapes


def _later_head(model: ir.Model, layers: tuple[Layer, ...], value: ir.Value) -> str | None:
    head = head_of(layers, model.graph)
    if head is None:
        return None
    contributing = {output.name for node in ancestors([value]) for output in node.outputs}
    return None if head.activation in contributing else head.name
