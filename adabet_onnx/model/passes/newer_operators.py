"""Operators that came with opsets 23 to 25, written with those of opset 21.

They are functions by their definition in ONNX: RMSNormalization, RotaryEmbedding, Swish, and Attention (`attention`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from ...errors import ModelError
from .attention import is_capped, lower_attention
from .node_builder import NodeBuilder

_HERE = ("", "ai.onnx")
_END = np.iinfo(np.int64).max


class LowerNewerOperators(ir.passes.InPlacePass):
    """Replace each node whose operator an opset does not have, in the graph and in those inside it.

    Args:
        opset: that the graph is to be of.

    Raises:
        ModelError: a node has a newer operator that is not known, or an option that is not supported; it is named.

    Attributes:
        lowered: the operators that were replaced.
        capped: whether an Attention caps its scores and masks some, which onnxruntime up to 1.23 does in another order.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        self._opset = opset
        self.lowered: list[str] = []
        self.capped = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        have = model.opset_imports.get("") or self._opset
        taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        taken |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        found = []
        for node in list(model.graph.all_nodes()):
            if not is_newer(node.op_type, node.domain, self._opset) or not _is_in(node.op_type, have):
                continue
            lower = _LOWER.get(node.op_type)
            if lower is None:
                since = onnx.defs.get_schema(node.op_type, have, "").since_version
                raise ModelError(
                    f"node {node.name or node.outputs[0].name!r} ({node.op_type}) is an operator of opset {since} that "
                    f"is not supported; of those newer than opset {self._opset}, {', '.join(sorted(_LOWER))} are. "
                    f"Export the model at an opset up to {self._opset}, or write it without {node.op_type}."
                )
            self.capped |= is_capped(node)
            lower(NodeBuilder(node, taken))
            found.append(node.op_type)
        self.lowered = list(dict.fromkeys(found))
        return ir.passes.PassResult(model, bool(found))


def is_newer(op_type: str, domain: str, opset: int) -> bool:
    """Whether an operator is one of ONNX's own and newer than an opset."""
    return domain in _HERE and not _is_in(op_type, opset)


def _is_in(op_type: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _rms_normalization(build: NodeBuilder) -> None:
    """X / sqrt(mean(x^2) + epsilon) * scale, over the axes from the given one on."""
    x, axis = build.x(0), build.integer("axis", -1)
    if axis >= 0:
        rank = build.rank(0)
        if rank is None:
            raise build.refusal("normalises from an axis on that is counted from the front, over an unknown rank")
        axis -= rank
    single = build.to_float(x)
    squares = build.op("Mul", single, single)
    mean = build.op("ReduceMean", squares, build.ints(*range(axis, 0)), keepdims=1)
    root = build.op("Sqrt", build.op("Add", mean, build.single(build.real("epsilon", 1e-5))))
    build.become(build.op("Mul", build.as_before(build.op("Div", single, root), x), build.x(1)))


def _swish(build: NodeBuilder) -> None:
    """X sigmoid(alpha x)."""
    x, alpha = build.x(0), build.real("alpha", 1.0)
    inner = x if alpha == 1 else build.op("Mul", x, build.number(alpha, x))
    build.become(build.op("Mul", x, build.op("Sigmoid", inner)))


def _rotary_embedding(build: NodeBuilder) -> None:
    """Turn pairs of features by the angles that stand for positions."""
    x, heads, part = build.x(0), build.integer("num_heads", 0), build.integer("rotary_embedding_dim", 0)
    rank = build.rank(0) or (3 if heads else 4)
    if rank == 3 and not heads:
        raise build.refusal("takes an input of three axes and no number of heads (num_heads)")
    across = 2 if rank == 3 else 1  # the axis of heads
    if rank == 3:
        x = build.op("Reshape", x, build.ints(0, 0, heads, -1))  # (batch, positions, heads, features)
    positions = build.given(3)
    cos, sin = build.x(1), build.x(2)
    if positions is not None:
        cos, sin = (build.op("Gather", cache, positions, axis=0) for cache in (cos, sin))
    cos, sin = (build.op("Unsqueeze", cache, build.ints(across)) for cache in (cos, sin))
    turned, rest = x, None
    extents = build.extents(0)
    features = extents[-1] if extents is not None and rank == 4 else None
    if part and part != features:
        turned, rest = _slice(build, x, 0, part), _slice(build, x, part, _END)
    interleaved = build.integer("interleaved", 0)
    if interleaved:
        first, second = (_slice(build, turned, start, _END, 2) for start in (0, 1))
    else:
        first, second = build.halves(turned)
    real = build.op("Sub", build.op("Mul", cos, first), build.op("Mul", sin, second))
    imaginary = build.op("Add", build.op("Mul", sin, first), build.op("Mul", cos, second))
    if interleaved:
        pairs = [build.op("Unsqueeze", value, build.ints(-1)) for value in (real, imaginary)]
        joined = build.op("Reshape", build.op("Concat", *pairs, axis=-1), build.ints(0, 0, 0, -1))
    else:
        joined = build.op("Concat", real, imaginary, axis=-1)
    if rest is not None:
        joined = build.op("Concat", joined, rest, axis=-1)
    build.become(build.op("Reshape", joined, build.ints(0, 0, -1)) if rank == 3 else joined)


def _slice(build: NodeBuilder, x: ir.Value, start: int, end: int, step: int = 1) -> ir.Value:
    return build.op("Slice", x, build.ints(start), build.ints(end), build.ints(-1), build.ints(step))


_LOWER: dict[str, Callable[[NodeBuilder], None]] = {
    "Attention": lower_attention,
    "RMSNormalization": _rms_normalization,
    "RotaryEmbedding": _rotary_embedding,
    "Swish": _swish,
}
