"""Recognise an embedding: outputs that are normalised to length 1, which cannot be logits."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from .probabilities import SHAPE_ONLY, behind_shape

_CLIPPING = frozenset({*SHAPE_ONLY, "Clip", "Max", "Add"})


def embedded(value: ir.Value) -> str | None:
    """The operator that normalises a value to length 1 along an axis; None if there is none.

    Recognised are LpNormalization, a division by ReduceL2 (or ReduceL1) of the dividend or by the root of the sum of
    its squares (possibly clipped above zero), and the same with a Reciprocal. Changes of shape may follow.
    """
    normalised, _ = behind_shape(value)
    node = normalised.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "LpNormalization":
        return node.op_type
    if node.op_type == "Div":
        return "Div" if _is_length(node.inputs[1], node.inputs[0]) else None
    if node.op_type == "Mul":
        for one, other in (node.inputs, reversed(node.inputs)):
            inverse = _behind(other, SHAPE_ONLY)
            if inverse is not None and inverse.op_type == "Reciprocal" and _is_length(inverse.inputs[0], one):
                return "Mul"
    return None


def _is_length(value: ir.Value | None, vector: ir.Value | None) -> bool:
    """Whether a value is the norm of another."""
    node = _behind(value, _CLIPPING)
    if node is None or vector is None:
        return False
    if node.op_type in ("ReduceL1", "ReduceL2"):
        return _same(node.inputs[0], vector)
    if node.op_type not in ("Sqrt", "Pow"):
        return False
    total = _behind(node.inputs[0], _CLIPPING)
    if total is None:
        return False
    if total.op_type == "ReduceSumSquare":
        return _same(total.inputs[0], vector)
    squares = _behind(total.inputs[0], SHAPE_ONLY) if total.op_type == "ReduceSum" else None
    if squares is None:
        return False
    squared = squares.op_type == "Mul" and all(_same(operand, vector) for operand in squares.inputs)
    return squared or (squares.op_type in ("Pow", "Abs") and _same(squares.inputs[0], vector))


def _same(value: ir.Value | None, other: ir.Value) -> bool:
    return value is not None and behind_shape(value)[0] is behind_shape(other)[0]


def _behind(value: ir.Value | None, through: Collection[str]) -> ir.Node | None:
    """The node that produces a value, skipping some operators."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in through and node.inputs[0] is not None:
        value = next(
            (operand for operand in node.inputs if operand is not None and operand.producer() is not None), None
        )
        node = None if value is None else value.producer()
    return node
