"""Descriptions of the nodes that `prepare` rewrites for a backend."""

from __future__ import annotations

import onnx_ir as ir

_BATCH_NORM = "BatchNormalization becomes multiplications and additions with its stored statistics"
_AVERAGE_POOL = "AveragePool becomes a Conv with a constant kernel"
_LAYER_NORM = "LayerNormalization gets a zero bias"
_OUTPUTS = "LayerNormalization gets its optional outputs named"
_PADS = "auto_pad becomes explicit pads"


def repair_of(node: ir.Node, backend: str) -> str | None:
    """Describe how preparation rewrites a node of an opened graph; None if it does not.

    Args:
        node: a node of the opened graph.
        backend: ``ort`` or ``portable``.
    """
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" and node.op_type != "AveragePool":
        return _PADS
    if node.op_type == "LayerNormalization" and (len(node.inputs) < 3 or node.inputs[2] is None):
        return _LAYER_NORM
    if backend == "portable":
        return _PADS if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" else None
    rewritten = {"AveragePool": _AVERAGE_POOL, "BatchNormalization": _BATCH_NORM}
    if node.op_type == "LayerNormalization" and len(node.outputs) < 3:
        return _OUTPUTS
    return rewritten.get(node.op_type)
