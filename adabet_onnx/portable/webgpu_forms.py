"""Forms of operators that onnxruntime-web's WebGPU providers claim to support but do not compute, or compute wrongly.

Found by running one-operator models with both of its bundles, 1.30.0. Nodes that merely run on the CPU instead, such as
those of 64-bit integers, are not listed here.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ..model.dims import dims_or_none
from .opset_edits import ints


def webgpu_lacks(node: ir.Node) -> str | None:
    """The unsupported property of a node, such as "has dilations"; None if there is none."""
    check = _CHECKS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return None if check is None else check(node)


def _pool(node: ir.Node) -> str | None:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return "gives the places of the maxima"
    if any(d != 1 for d in ints(node, "dilations") or []):
        return "has dilations"
    return None


def _normalisation(node: ir.Node) -> str | None:
    if node.attributes.get_int("training_mode", 0):
        return "normalises by the batch (use `batch_norm='frozen'`)"
    return None


def _transposed(node: ir.Node) -> str | None:
    return "has three spatial axes" if len(ints(node, "strides") or []) > 2 else None


def _einsum(node: ir.Node) -> str | None:
    """Sums over several indices are correct only one at a time, as `webgpu` writes them if it can."""
    terms, arrow, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    if len(node.inputs) > 2:
        return "has more than two inputs"
    if len(node.inputs) == 2 and (not arrow or len(set(terms) - set(result) - {",", "."}) > 1):
        return "sums over several indices beside an ellipsis, or without '->'"
    return None


def _product(node: ir.Node) -> str | None:
    shapes = [dims_or_none(value) for value in node.inputs if value is not None]
    return "has an input of one axis" if any(shape is not None and len(shape) == 1 for shape in shapes) else None


def _pad(node: ir.Node) -> str | None:
    return "repeats the image" if node.attributes.get_string("mode", "constant") == "wrap" else None


def _resize(node: ir.Node) -> str | None:
    return "has antialias" if node.attributes.get_int("antialias", 0) else None


def _gelu(node: ir.Node) -> str | None:
    return "is approximated by tanh" if node.attributes.get_string("approximate", "none") == "tanh" else None


_CHECKS: dict[str, Callable[[ir.Node], str | None]] = {
    "AveragePool": _pool,
    "BatchNormalization": _normalisation,
    "ConvTranspose": _transposed,
    "Einsum": _einsum,
    "Gelu": _gelu,
    "MatMul": _product,
    "MaxPool": _pool,
    "Pad": _pad,
    "Resize": _resize,
}
