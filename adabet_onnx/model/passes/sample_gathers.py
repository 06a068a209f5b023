"""Replace a Gather from the rows of all samples by one from the rows of each, where its indices say so.

torch writes ``mask[batch, position]`` as a Gather from the flattened mask with the indices ``batch * length +
position``, or as a GatherND, and so do the masks of transformers 5. Nothing then shows that no sample reads the rows of
another one. With indices proven to be of this form (`batch_positions`), with positions within the length, the result is
the mask in another shape, or a Gather along its second axis.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from .batch_positions import BatchPositions, Positions
from .node_builder import NodeBuilder


class GatherWithinSamples(ir.passes.InPlacePass):
    """Replace every Gather and GatherND that reads, for each sample, rows of that sample.

    Shapes of the indices are then computed from the batch size, so that the indices are no longer needed.

    Args:
        trainable: names of initializers that are not constants.
    """

    def __init__(self, trainable: Collection[str]) -> None:
        super().__init__()
        self._trainable = frozenset(trainable)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        positions = BatchPositions(model, self._trainable)
        if not positions:
            return ir.passes.PassResult(model, False)
        names = {value.name for node in model.graph for value in (*node.outputs, *node.inputs) if value is not None}
        names |= {node.name for node in model.graph} | set(model.graph.initializers)
        rewritten = [node for node in list(model.graph) if _rewrite(node, positions, names)]
        if rewritten:
            for node in list(model.graph):
                _shape_from_size(node, positions, names)
        return ir.passes.PassResult(model, bool(rewritten))


def _rewrite(node: ir.Node, positions: BatchPositions, names: set[str | None]) -> bool:
    if node.op_type not in ("Gather", "GatherND") or node.domain not in ("", "ai.onnx"):
        return False
    data, indices = node.inputs[0], positions.of(node.inputs[1])
    known = None if data is None else positions.rows(data)
    if data is None or known is None or indices is None or indices.axis != 0:
        return False
    length, row = known
    if node.op_type == "Gather":
        picked = None if node.attributes.get_int("axis", False) else _picked(indices, length)
    else:
        depth = indices.offset.shape[-1]
        picked = None if length != 1 or node.attributes.get_int("batch_dims", False) else _picked_by_axes(indices, row)
        length, row = math.prod(row[: depth - 1]), row[depth - 1 :]
    if picked is None or not all(row) or picked.size == 0:
        return False
    build = NodeBuilder(node, names)
    if np.array_equal(picked.reshape(-1), np.arange(length)):
        made = build.add("Reshape", data, build.int_constants(-1, *picked.shape, *row))
    else:
        apart = build.add("Reshape", data, build.int_constants(-1, length, *row))
        made = build.add("Gather", apart, build.constant(picked.astype(np.int64)), axis=1)
    build.replace_output(made)
    return True


def _picked(indices: Positions, length: int) -> np.ndarray | None:
    """The rows that are read of every sample; None if they are not all its own."""
    if np.any(indices.slope != length) or np.any(indices.offset < 0) or np.any(indices.offset >= length):
        return None
    return np.asarray(indices.offset[0])


def _picked_by_axes(indices: Positions, row: tuple[int, ...]) -> np.ndarray | None:
    """The same for indices along several axes, the first of which is the batch, as indices of its flattened rows."""
    depth = indices.offset.shape[-1]
    if indices.offset.ndim < 2 or not 1 <= depth <= len(row) + 1:
        return None
    if np.any(indices.slope != np.eye(1, depth, dtype=np.int64)[0]) or np.any(indices.offset[..., 0]):
        return None
    if depth == 1:
        return np.zeros(indices.offset.shape[1:-1], np.int64)
    along = [indices.offset[0, ..., i + 1] for i in range(depth - 1)]
    if any(np.any(part < 0) or np.any(part >= extent) for part, extent in zip(along, row, strict=False)):
        return None
    return np.asarray(np.ravel_multi_index(along, row[: depth - 1]))


def _shape_from_size(node: ir.Node, positions: BatchPositions, names: set[str | None]) -> None:
    given = positions.of(node.inputs[0]) if node.op_type == "Shape" and node.inputs else None
    if given is None or given.axis is None or given.size is None:
        return
    build = NodeBuilder(node, names)
    size = build.add("Cast", build.add("Reshape", given.size, build.int_constants(1)), to=int(ir.DataType.INT64))
    before, after = given.offset.shape[: given.axis], given.offset.shape[given.axis + 1 :]
    parts = [*([build.int_constants(*before)] if before else []), size]
    made = build.add("Concat", *parts, *([build.int_constants(*after)] if after else []), axis=0)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    chosen = range(given.offset.ndim)[start:end]
    if len(chosen) < given.offset.ndim:
        made = build.add("Gather", made, build.int_constants(*chosen), axis=0)
    build.replace_output(made)
