"""A node as the rules in sample_rules.py see it, with the layouts of the samples in its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..model.dims import Dims, dims_or_none
from ..model.uses import input_of
from .batch_sizes import BatchSizeProbe
from .sample_layout import Kind, Place, SampleLayout

Parts = tuple[int, int]  # sizes before and after the sample's index
SampleRule = Callable[["SampledNode"], Parts | None]
# Inputs that are shapes and may grow with the batch; the shape of the output shows the effect.
SHAPES = {"Reshape": {1}, "Expand": {1}, "Tile": {1}, "ConstantOfShape": {0}, "Resize": {3}}


@dataclass(frozen=True)
class SampledNode:
    """A node whose samples are to be located.

    Attributes:
        node: the node.
        inputs: layouts of the inputs that have samples, by position.
        opset: opset of the graph.
    """

    node: ir.Node
    inputs: dict[int, SampleLayout]
    opset: int

    @classmethod
    def of(cls, node: ir.Node, known_places: Mapping[ir.Value, Place], sizes: BatchSizeProbe) -> SampledNode | None:
        """Describe a node; None if an input that is not a shape changes with the batch size."""
        inputs = {}
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            place, is_shape = known_places[value], position in SHAPES.get(node.op_type, ())
            if isinstance(place, SampleLayout):
                inputs[position] = place
            elif place is Kind.SIZE and not is_shape and not sizes.fixed(value):
                return None
        return cls(node, inputs, sizes.opset)

    def dims(self, position: int) -> Dims:
        """Shape of an input."""
        value = input_of(self.node, position)
        return (dims_or_none(value) if value is not None else None) or ()

    def out(self) -> Dims:
        """Shape of the first output."""
        return dims_or_none(self.node.outputs[0]) or ()

    def array(self, position: int) -> np.ndarray | None:
        """The array of a constant input, or None."""
        value = input_of(self.node, position)
        tensor = None if value is None else value.const_value
        return None if tensor is None else np.asarray(tensor.numpy())

    def axis(self, default: int, position: int = 0) -> int:
        """The node's axis attribute, as a non-negative axis of an input."""
        rank = len(self.dims(position))
        return self.node.attributes.get_int("axis", default) % max(rank, 1)

    def alone(self, position: int = 0) -> SampleLayout | None:
        """The layout of this input, if no other input has samples."""
        return self.inputs.get(position) if len(self.inputs) == 1 else None

    def same(self) -> SampleLayout | None:
        """The common layout of all inputs with samples, if they have one."""
        layouts = set(self.inputs.values())
        return layouts.pop() if len(layouts) == 1 else None


def parts_of(layout: SampleLayout | None) -> Parts | None:
    """The sizes before and after the sample's index in this layout."""
    return None if layout is None else (layout.before, layout.after)
