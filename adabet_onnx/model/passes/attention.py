"""Attention of opsets 23 to 25 as MatMul, Softmax and MatMul, without a cache.

    P = softmax(softcap(scale Q K^T) + mask),  Y = P V

Q is (batch, heads, L, features), K and V (batch, heads, S, features); fewer heads of K and V serve several of Q each. A
row of P that may see nothing is zeros.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from .node_builder import NodeBuilder

_LOWEST = float(np.finfo(np.float32).min)
_MASK = 3  # position of the input
_CACHE = {4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"}
_NO_CACHE = "Export the model without a cache of keys and values (in Transformers: use_cache=False)."
_NO_PADDING = "Export the model with a mask of all keys."


def lower_attention(build: NodeBuilder) -> None:
    """Write an Attention with older operators."""
    for position, name in _CACHE.items():
        if build.given(position) is not None:
            raise build.refusal(
                f"takes {name}, what earlier calls left in a cache, where whole sequences are scored and trained",
                _NO_CACHE,
            )
    outputs = build.node.outputs
    if len(outputs) > 3 and (outputs[3].uses() or outputs[3].is_graph_output()):
        raise build.refusal("gives out its scores (qk_matmul_output)")
    heads = [_heads(build, position) for position in range(3)]
    (q, k, v), (many, few) = (_by_heads(build, i, count) for i, count in enumerate(heads)), heads[:2]
    for position, value in ((1, k), (2, v)):
        output = outputs[position] if len(outputs) > position else None
        if output is not None and (output.uses() or output.is_graph_output()):
            build.become(build.op("Identity", value), position)
    if many != few:
        if many % few:
            raise build.refusal(f"has {many} heads of queries for {few} of keys")
        k, v = (_repeated(build, value, i, many, few) for i, value in ((1, k), (2, v)))
    scale = build.real("scale", 0.0) or 1 / math.sqrt(_features(build, 0, many))
    scores = build.op("MatMul", build.op("Mul", q, build.number(scale, q)), build.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = build.op("MatMul", _weights(build, scores, q, k), v)
    if build.rank(0) == 3:
        y = build.op("Reshape", build.op("Transpose", y, perm=[0, 2, 1, 3]), build.ints(0, 0, -1))
    build.become(y)


def is_capped(node: ir.Node) -> bool:
    """Whether a node is an Attention that caps its scores and masks some of them."""
    masked = node.attributes.get_int("is_causal", 0) or (len(node.inputs) > _MASK and node.inputs[_MASK] is not None)
    return node.op_type == "Attention" and bool(masked) and bool(node.attributes.get_float("softcap", 0.0))


def _heads(build: NodeBuilder, position: int) -> int:
    rank, extents = build.rank(position), build.extents(position)
    given = build.integer("q_num_heads" if position == 0 else "kv_num_heads", 0)
    if rank == 3 and given:
        return given
    if rank == 4 and extents is not None and extents[1]:
        return extents[1]
    raise build.refusal("has an input of which the number of heads is not known")


def _features(build: NodeBuilder, position: int, heads: int) -> int:
    """Of each head."""
    extents = build.extents(position)
    size = None if extents is None else extents[-1]
    if not size or (len(extents or ()) == 3 and size % heads):
        raise build.refusal("has heads of a size that is not known")
    return size // heads if len(extents or ()) == 3 else size


def _by_heads(build: NodeBuilder, position: int, heads: int) -> ir.Value:
    """An input as (batch, heads, length, features)."""
    x = build.x(position)
    if build.rank(position) == 4:
        return x
    return build.op("Transpose", build.op("Reshape", x, build.ints(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _repeated(build: NodeBuilder, x: ir.Value, position: int, many: int, few: int) -> ir.Value:
    """Each head as often as there are heads of queries for it."""
    size = _features(build, position, few)
    each = build.op("Expand", build.op("Unsqueeze", x, build.ints(2)), build.ints(1, 1, many // few, 1, 1))
    return build.op("Reshape", each, build.ints(0, many, -1, size))


def _weights(build: NodeBuilder, scores: ir.Value, q: ir.Value, k: ir.Value) -> ir.Value:
    """The softmax of what is left of the scores."""
    cap = build.real("softcap", 0.0)
    if cap:
        number = build.number(cap, q)
        scores = build.op("Mul", build.op("Tanh", build.op("Div", scores, number)), number)
    keep, mask = _visible(build, q, k), build.given(_MASK)
    blind = None  # rows that see nothing by a mask of floats
    if mask is not None:
        _check_length(build, mask)
        if mask.dtype == ir.DataType.BOOL:
            keep = mask if keep is None else build.op("And", mask, keep)
        else:
            most = build.op("ReduceMax", mask, build.ints(-1), keepdims=1)
            blind = build.op("Equal", most, build.number(-math.inf, mask))
            scores = build.op("Add", scores, build.op("Where", blind, build.number(0, mask), mask))
    if keep is not None:
        scores = build.op("Where", keep, scores, build.number(_LOWEST, q))
    weights = build.op("Softmax", scores, axis=-1)
    zero = build.number(0, q)
    if keep is not None and mask is not None:
        weights = build.op("Where", keep, weights, zero)
    return weights if blind is None else build.op("Where", blind, zero, weights)


def _visible(build: NodeBuilder, q: ir.Value, k: ir.Value) -> ir.Value | None:
    """Which key each query sees by its position, (L, S); None: all."""
    left, right = build.integer("left_window_size", -1), build.integer("right_window_size", -1)
    if build.integer("is_causal", 0):
        right = 0
    if left < 0 and right < 0:
        return None
    rows = build.op("Unsqueeze", _positions(build, q), build.ints(1))
    columns = build.op("Unsqueeze", _positions(build, k), build.ints(0))
    found = []
    if right >= 0:
        found.append(build.op("LessOrEqual", columns, build.op("Add", rows, build.ints(right))))
    if left >= 0:
        found.append(build.op("GreaterOrEqual", columns, build.op("Sub", rows, build.ints(left))))
    return found[0] if len(found) == 1 else build.op("And", *found)


def _positions(build: NodeBuilder, x: ir.Value) -> ir.Value:
    """0, 1, ... along the third of four axes."""
    length = build.op("Squeeze", build.op("Shape", x, start=2, end=3))
    zero, one = (build.constant(np.array(number, np.int64)) for number in (0, 1))
    return build.op("Range", zero, length, one)


def _check_length(build: NodeBuilder, mask: ir.Value) -> None:
    """A shorter mask is filled up by the definition; that is not done here."""
    keys = build.extents(1)
    length = None if keys is None else keys[-2]
    last = mask.shape[-1] if mask.shape is not None and len(mask.shape) else None
    if isinstance(last, int) and length is not None and last not in (1, length):
        raise build.refusal(f"has a mask of {last} keys for {length} keys", _NO_PADDING)
