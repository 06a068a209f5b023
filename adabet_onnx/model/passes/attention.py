"""Write Attention of opsets 23 to 25 as MatMul, Softmax and MatMul, without a cache.

    P = softmax(softcap(scale Q K^T) + mask),  Y = P V

Q is (batch, heads, L, features), K and V (batch, heads, S, features); if K and V have fewer heads, each serves several
of Q. A row of P whose keys are all masked is zero.
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
        if build.optional_input(position) is not None:
            raise build.error(
                f"reads {name}, the cache of earlier calls, but whole sequences are scored and trained",
                _NO_CACHE,
            )
    outputs = build.node.outputs
    if len(outputs) > 3 and (outputs[3].uses() or outputs[3].is_graph_output()):
        raise build.error("outputs its scores (qk_matmul_output)")
    heads = [_heads(build, position) for position in range(3)]
    (q, k, v), (query_heads, key_heads) = (_by_heads(build, i, count) for i, count in enumerate(heads)), heads[:2]
    for position, value in ((1, k), (2, v)):
        output = outputs[position] if len(outputs) > position else None
        if output is not None and (output.uses() or output.is_graph_output()):
            build.replace_output(build.add("Identity", value), position)
    if query_heads != key_heads:
        if query_heads % key_heads:
            raise build.error(f"has {query_heads} query heads for {key_heads} key heads")
        k, v = (_repeated(build, value, i, query_heads, key_heads) for i, value in ((1, k), (2, v)))
    scale = build.float_attribute("scale", 0.0) or 1 / math.sqrt(_features(build, 0, query_heads))
    scores = build.add(
        "MatMul", build.add("Mul", q, build.constant_like(scale, q)), build.add("Transpose", k, perm=[0, 1, 3, 2])
    )
    y = build.add("MatMul", _weights(build, scores, q, k), v)
    if build.rank(0) == 3:
        y = build.add("Reshape", build.add("Transpose", y, perm=[0, 2, 1, 3]), build.int_constants(0, 0, -1))
    build.replace_output(y)


def is_capped(node: ir.Node) -> bool:
    """Whether a node is an Attention that caps its scores and masks some of them."""
    masked = node.attributes.get_int("is_causal", 0) or (len(node.inputs) > _MASK and node.inputs[_MASK] is not None)
    return node.op_type == "Attention" and bool(masked) and bool(node.attributes.get_float("softcap", 0.0))


def _heads(build: NodeBuilder, position: int) -> int:
    rank, extents = build.rank(position), build.extents(position)
    heads = build.int_attribute("q_num_heads" if position == 0 else "kv_num_heads", 0)
    if rank == 3 and heads:
        return heads
    if rank == 4 and extents is not None and extents[1]:
        return extents[1]
    raise build.error("has an input with an unknown number of heads")


def _features(build: NodeBuilder, position: int, heads: int) -> int:
    """The number of features of each head."""
    extents = build.extents(position)
    size = None if extents is None else extents[-1]
    if not size or (len(extents or ()) == 3 and size % heads):
        raise build.error("has heads of unknown size")
    return size // heads if len(extents or ()) == 3 else size


def _by_heads(build: NodeBuilder, position: int, heads: int) -> ir.Value:
    """An input as (batch, heads, length, features)."""
    x = build.required_input(position)
    if build.rank(position) == 4:
        return x
    return build.add("Transpose", build.add("Reshape", x, build.int_constants(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _repeated(build: NodeBuilder, x: ir.Value, position: int, query_heads: int, key_heads: int) -> ir.Value:
    """Repeat each head for the query heads that it serves."""
    size = _features(build, position, key_heads)
    each = build.add(
        "Expand",
        build.add("Unsqueeze", x, build.int_constants(2)),
        build.int_constants(1, 1, query_heads // key_heads, 1, 1),
    )
    return build.add("Reshape", each, build.int_constants(0, query_heads, -1, size))


def _weights(build: NodeBuilder, scores: ir.Value, q: ir.Value, k: ir.Value) -> ir.Value:
    """The softmax of the capped and masked scores."""
    cap = build.float_attribute("softcap", 0.0)
    if cap:
        number = build.constant_like(cap, q)
        scores = build.add("Mul", build.add("Tanh", build.add("Div", scores, number)), number)
    keep, mask = _visible(build, q, k), build.optional_input(_MASK)
    blind = None  # rows whose keys are all masked by a float mask
    if mask is not None:
        _check_length(build, mask)
        if mask.dtype == ir.DataType.BOOL:
            keep = mask if keep is None else build.add("And", mask, keep)
        else:
            most = build.add("ReduceMax", mask, build.int_constants(-1), keepdims=1)
            blind = build.add("Equal", most, build.constant_like(-math.inf, mask))
            scores = build.add("Add", scores, build.add("Where", blind, build.constant_like(0, mask), mask))
    if keep is not None:
        scores = build.add("Where", keep, scores, build.constant_like(_LOWEST, q))
    weights = build.add("Softmax", scores, axis=-1)
    zero = build.constant_like(0, q)
    if keep is not None and mask is not None:
        weights = build.add("Where", keep, weights, zero)
    return weights if blind is None else build.add("Where", blind, zero, weights)


def _visible(build: NodeBuilder, q: ir.Value, k: ir.Value) -> ir.Value | None:
    """The keys visible to each query by position, (L, S); None: all."""
    left, right = build.int_attribute("left_window_size", -1), build.int_attribute("right_window_size", -1)
    if build.int_attribute("is_causal", 0):
        right = 0
    if left < 0 and right < 0:
        return None
    rows = build.add("Unsqueeze", _positions(build, q), build.int_constants(1))
    columns = build.add("Unsqueeze", _positions(build, k), build.int_constants(0))
    conditions = []
    if right >= 0:
        conditions.append(build.add("LessOrEqual", columns, build.add("Add", rows, build.int_constants(right))))
    if left >= 0:
        conditions.append(build.add("GreaterOrEqual", columns, build.add("Sub", rows, build.int_constants(left))))
    return conditions[0] if len(conditions) == 1 else build.add("And", *conditions)


def _positions(build: NodeBuilder, x: ir.Value) -> ir.Value:
    """0, 1, ... along the third of four axes."""
    length = build.add("Squeeze", build.add("Shape", x, start=2, end=3))
    zero, one = (build.constant(np.array(number, np.int64)) for number in (0, 1))
    return build.add("Range", zero, length, one)


def _check_length(build: NodeBuilder, mask: ir.Value) -> None:
    """Reject a mask shorter than the keys, which the definition would pad."""
    keys = build.extents(1)
    length = None if keys is None else keys[-2]
    last = mask.shape[-1] if mask.shape is not None and len(mask.shape) else None
    if isinstance(last, int) and length is not None and last not in (1, length):
        raise build.error(f"has a mask of {last} keys, but there are {length} keys", _NO_PADDING)
