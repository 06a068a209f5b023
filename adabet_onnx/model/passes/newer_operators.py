"""Replace operators of opsets 23 to 25 by those of opset 21.

ONNX defines them as functions of older operators: RMSNormalization, RotaryEmbedding, Swish, Attention (`attention`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from ...errors import ModelError
from .attention import is_capped, lower_attention
from .node_builder import NodeBuilder

_STANDARD = ("", "ai.onnx")
_END = np.iinfo(np.int64).max


class LowerNewerOperators(ir.passes.InPlacePass):
    """Replace each node whose operator is missing in the target opset, including those in subgraphs.

    Args:
        opset: the target opset.

    Raises:
        ModelError: a newer operator, or an option of one, is not supported; the message names the node.

    Attributes:
        lowered: the operators that were replaced.
        capped: whether an Attention caps its scores and masks some, which onnxruntime up to 1.23 does in a different
            order.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        self._opset = opset
        self.lowered: list[str] = []
        self.capped = False

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        current = model.opset_imports.get("") or self._opset
        names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        names |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        replaced = []
        for node in list(model.graph.all_nodes()):
            if not is_newer(node.op_type, node.domain, self._opset) or not _is_in(node.op_type, current):
                continue
            lower = _LOWER.get(node.op_type)
            if lower is None:
                since = onnx.defs.get_schema(node.op_type, current, "").since_version
                raise ModelError(
                    f"node {node.name or node.outputs[0].name!r} ({node.op_type}) is an unsupported operator of opset "
                    f"{since}; of those newer than opset {self._opset}, {', '.join(sorted(_LOWER))} are supported. "
                    f"Export the model at an opset up to {self._opset}, or write it without {node.op_type}."
                )
            self.capped |= is_capped(node)
            lower(NodeBuilder(node, names))
            replaced.append(node.op_type)
        self.lowered = list(dict.fromkeys(replaced))
        return ir.passes.PassResult(model, bool(replaced))


def is_newer(op_type: str, domain: str, opset: int) -> bool:
    """Whether an operator is a standard one and newer than an opset."""
    return domain in _STANDARD and not _is_in(op_type, opset)


def _is_in(op_type: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return True


def _rms_normalization(build: NodeBuilder) -> None:
    """X / sqrt(mean(x^2) + epsilon) * scale, over the axes from the given one on."""
    x, axis = build.required_input(0), build.int_attribute("axis", -1)
    if axis >= 0:
        rank = build.rank(0)
        if rank is None:
            raise build.error("has an axis counted from the front, but the rank of its input is unknown")
        axis -= rank
    single = build.to_float(x)
    squares = build.add("Mul", single, single)
    mean = build.add("ReduceMean", squares, build.int_constants(*range(axis, 0)), keepdims=1)
    root = build.add("Sqrt", build.add("Add", mean, build.float_constant(build.float_attribute("epsilon", 1e-5))))
    build.replace_output(build.add("Mul", build.as_before(build.add("Div", single, root), x), build.required_input(1)))


def _swish(build: NodeBuilder) -> None:
    """X sigmoid(alpha x)."""
    x, alpha = build.required_input(0), build.float_attribute("alpha", 1.0)
    inner = x if alpha == 1 else build.add("Mul", x, build.constant_like(alpha, x))
    build.replace_output(build.add("Mul", x, build.add("Sigmoid", inner)))


def _rotary_embedding(build: NodeBuilder) -> None:
    """Rotate pairs of features by angles that encode positions."""
    x, heads, part = (
        build.required_input(0),
        build.int_attribute("num_heads", 0),
        build.int_attribute("rotary_embedding_dim", 0),
    )
    rank = build.rank(0) or (3 if heads else 4)
    if rank == 3 and not heads:
        raise build.error("has an input of three axes but no number of heads (num_heads)")
    across = 2 if rank == 3 else 1  # the axis of heads
    if rank == 3:
        x = build.add("Reshape", x, build.int_constants(0, 0, heads, -1))  # (batch, positions, heads, features)
    positions = build.optional_input(3)
    cos, sin = build.required_input(1), build.required_input(2)
    if positions is not None:
        cos, sin = (build.add("Gather", cache, positions, axis=0) for cache in (cos, sin))
    cos, sin = (build.add("Unsqueeze", cache, build.int_constants(across)) for cache in (cos, sin))
    rotated, unrotated = x, None
    extents = build.extents(0)
    features = extents[-1] if extents is not None and rank == 4 else None
    if part and part != features:
        rotated, unrotated = _slice(build, x, 0, part), _slice(build, x, part, _END)
    interleaved = build.int_attribute("interleaved", 0)
    if interleaved:
        first, second = (_slice(build, rotated, start, _END, 2) for start in (0, 1))
    else:
        first, second = build.halves(rotated)
    real = build.add("Sub", build.add("Mul", cos, first), build.add("Mul", sin, second))
    imaginary = build.add("Add", build.add("Mul", sin, first), build.add("Mul", cos, second))
    if interleaved:
        pairs = [build.add("Unsqueeze", value, build.int_constants(-1)) for value in (real, imaginary)]
        joined = build.add("Reshape", build.add("Concat", *pairs, axis=-1), build.int_constants(0, 0, 0, -1))
    else:
        joined = build.add("Concat", real, imaginary, axis=-1)
    if unrotated is not None:
        joined = build.add("Concat", joined, unrotated, axis=-1)
    build.replace_output(build.add("Reshape", joined, build.int_constants(0, 0, -1)) if rank == 3 else joined)


def _slice(build: NodeBuilder, x: ir.Value, start: int, end: int, step: int = 1) -> ir.Value:
    return build.add(
        "Slice",
        x,
        build.int_constants(start),
        build.int_constants(end),
        build.int_constants(-1),
        build.int_constants(step),
    )


_LOWER: dict[str, Callable[[NodeBuilder], None]] = {
    "Attention": lower_attention,
    "RMSNormalization": _rms_normalization,
    "RotaryEmbedding": _rotary_embedding,
    "Swish": _swish,
}
