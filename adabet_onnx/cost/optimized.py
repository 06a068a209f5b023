"""Obtain the graph that ONNX Runtime actually runs, with folded and fused nodes and convolutions on channel blocks.

Its nodes are in execution order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir

from .. import runtime
from ..files import temporary_folder
from ..portable.order import execution_order
from ..training import ort
from .pieces import by_pieces, cut


def optimized(model: ir.Model, options: Any) -> ir.Model:
    """The graph that ONNX Runtime would run.

    Args:
        model: a graph as stored in a file.
        options: session options, in which the path of the output file is set.

    Raises:
        ModelError: ONNX Runtime rejects the graph.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    proto = ir.to_proto(model)
    proto.ir_version = min(proto.ir_version, ort.IR_VERSION)
    made = _run(proto, options)
    result = ir.from_proto(made)
    if [node.output for node in made.graph.node] == [node.output for node in proto.graph.node]:
        # If there is nothing to optimize, ONNX Runtime writes the file unchanged, not in execution order.
        order = execution_order(list(result.graph))
        result.graph.remove(order)
        result.graph.extend(order)
    return result


def optimized_step(model: ir.Model, options: Callable[[], Any]) -> ir.Model:
    """The same for a step; a long graph is optimized in pieces (see `pieces`).

    Args:
        model: a graph as stored in a file.
        options: creates session options.

    Raises:
        ModelError: ONNX Runtime rejects the graph.
        RuntimeMissingError: ONNX Runtime is not installed.
    """
    if not cut(model):
        return optimized(model, options())

    def optimize(piece: onnx.ModelProto) -> onnx.ModelProto:
        piece.ir_version = min(piece.ir_version, ort.IR_VERSION)
        return _run(piece, options())

    return by_pieces(model, optimize)


def _run(proto: onnx.ModelProto, options: Any) -> onnx.ModelProto:
    with temporary_folder() as folder:
        path = folder / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        runtime.inference_session(proto.SerializeToString(), "the graph of a step", options)
        return onnx.load(path)
