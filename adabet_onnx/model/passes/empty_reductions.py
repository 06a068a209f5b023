"""Replace reductions over a single element before an output by a Squeeze: the mean of one number is that number.

Detectors average the probabilities over the steps of a window, and some windows have a single step.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..probabilities import behind_shape
from ..shapes import infer_shapes
from ..uses import input_of
from .replacement import Replacement

_OF_ONE = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})
_BATCHES = (2, 3)


class DropEmptyReductions(ir.passes.InPlacePass):
    """Replace reductions over axes of one element that are the last step to an output, apart from changes of shape."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        last = [behind_shape(value)[0].producer() for value in model.graph.outputs]
        reductions = [node for node in last if node is not None and node.op_type in _OF_ONE and not node.domain]
        if not reductions:
            return ir.passes.PassResult(model, False)
        shapes = [infer_shapes(model, batch) for batch in _BATCHES]
        changed = False
        for node in dict.fromkeys(reductions):
            source = node.inputs[0]
            known = [None if source is None else shape.get(source.name or "") for shape in shapes]
            axes = _axes(node)
            if source is None or axes is None or any(shape is None for shape in known):
                continue
            if all(shape is not None and all(shape[axis] == 1 for axis in axes) for shape in known):
                _replace(model.graph, node, source, axes)
                changed = True
        return ir.passes.PassResult(model, changed)


def _replace(graph: ir.Graph, node: ir.Node, source: ir.Value, axes: list[int]) -> None:
    work = Replacement(graph, node)
    if node.attributes.get_int("keepdims", 1):
        work.finish(work.apply("Identity", source))
    elif (graph.opset_imports.get("") or 0) >= 13:
        work.finish(work.apply("Squeeze", source, work.constant("axes", np.array(axes, np.int64))))
    else:
        work.finish(work.apply("Squeeze", source, axes=axes))


def _axes(node: ir.Node) -> list[int] | None:
    """The axes of a reduction; None if it is over all axes, or they are computed."""
    if "axes" in node.attributes:
        return [int(axis) for axis in node.attributes.get_ints("axes", ())]
    axes_input = input_of(node, 1)
    tensor = None if axes_input is None else ir.convenience.get_const_tensor(axes_input)
    return None if tensor is None or tensor.size == 0 else [int(axis) for axis in np.ravel(tensor.numpy())]
