"""Operators that ONNX Runtime's optimiser puts in place of several, taken apart again where that is exact.

What it merged into weights (BatchNormalization into a Conv) stays merged. Blocked layouts (nchwc) and attention are
not taken apart: see `untrainable_models` for what is said of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir

from ..shapes import infer_shapes
from .node_builder import NodeBuilder

DOMAIN = "com.microsoft"
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")  # without a domain of their own in ONNX Runtime
_LAYER_NORM, _AXES_AS_INPUT = 17, 18  # opsets
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Clip": (),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
_BATCH = 2


class Unfuse(ir.passes.InPlacePass):
    """Write fused operators as those that they stand for.

    Raises:
        ModelError: one has an option that is not supported; it is named.

    Attributes:
        unfused: the operators that are gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unfused: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        taken |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        opset = model.opset_imports.get("") or 0
        for node in list(model.graph.all_nodes()):
            if not can_unfuse(node):
                continue
            build = NodeBuilder(node, taken)
            if node.op_type == "FusedMatMul":
                _state_ranks(model, node)
            for value, what in zip(node.outputs[1:], _EXTRA.get(node.op_type, ()), strict=False):
                if what is None and (value.uses() or value.is_graph_output()):
                    raise build.refusal("gives out its statistics", "Give the model as it was before optimisation.")
            self.unfused.append(node.op_type)
            _UNFUSE[node.op_type](build, opset)
        self.unfused = list(dict.fromkeys(self.unfused))
        return ir.passes.PassResult(model, bool(self.unfused))


def can_unfuse(node: ir.Node) -> bool:
    """Whether a node is one that is taken apart here."""
    return node.domain == DOMAIN and node.op_type in _UNFUSE


def name_norms(proto: onnx.ModelProto, opset: int) -> None:
    """Give ONNX Runtime's own normalisations its domain, in place.

    It registers them as operators of ONNX's, where the optimiser leaves them in a file of any opset; ONNX's own
    LayerNormalization came with opset 17.
    """
    found = [
        node
        for node in proto.graph.node
        if not node.domain and node.op_type in NORMS and (node.op_type != "LayerNormalization" or opset < _LAYER_NORM)
    ]
    for node in found:
        node.domain = DOMAIN
    if found and all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))


def _state_ranks(model: ir.Model, node: ir.Node) -> None:
    """Let a node's inputs have shapes, as far as they can be inferred."""
    if all(value is None or value.shape is not None for value in node.inputs):
        return
    shapes = infer_shapes(model, _BATCH)
    for value in node.inputs:
        if value is not None and value.shape is None and value.name in shapes:
            value.shape = ir.Shape([None] * len(shapes[value.name]))  # the batch is open


def _activated(build: NodeBuilder, value: ir.Value, name: str, numbers: Sequence[float]) -> ir.Value:
    if name not in _ACTIVATIONS:
        raise build.refusal(f"has the activation {name!r}", "Give the model as it was before optimisation.")
    if name == "Clip":
        low, high = (build.single(number) for number in numbers)
        return build.op("Clip", value, low, high)
    return build.op(name, value, **dict(zip(_ACTIVATIONS[name], numbers, strict=False)))


def _conv(build: NodeBuilder, opset: int) -> None:
    """The activation of a Conv, to which a tensor may have been added."""
    attributes = dict(build.node.attributes.items())
    name, numbers = attributes.pop("activation", None), attributes.pop("activation_params", None)
    inputs = [value for value in build.node.inputs[:3] if value is not None]
    value = plain = build.op("Conv", *inputs)
    made = plain.producer()
    assert made is not None
    made.attributes.update(attributes)
    added = build.given(3)
    if added is not None:
        value = build.op("Add", value, added)
    if name is not None:
        value = _activated(build, value, name.as_string(), [] if numbers is None else numbers.as_floats())
    build.become(value, named=plain)


def _gemm(build: NodeBuilder, opset: int) -> None:
    attributes = dict(build.node.attributes.items())
    name = attributes.pop("activation", None)
    numbers = [attributes.pop(f"activation_{key}", None) for key in ("alpha", "beta", "gamma")]
    value = plain = build.op("Gemm", *build.node.inputs)
    made = plain.producer()
    assert made is not None
    made.attributes.update(attributes)
    if name is not None:
        given = [number.as_float() for number in numbers if number is not None]
        value = _activated(build, value, name.as_string(), given)
    build.become(value, named=plain)


def _matmul(build: NodeBuilder, opset: int) -> None:
    """A number times a product of matrices, some of them transposed."""
    if build.integer("transBatchA", 0) or build.integer("transBatchB", 0):
        raise build.refusal("moves the axes of its batch", "Give the model as it was before optimisation.")
    factors = []
    for position, name in enumerate(("transA", "transB")):
        value = build.x(position)
        if build.integer(name, 0):
            rank = build.rank(position)
            if rank is None or rank < 2:
                raise build.refusal(
                    "transposes a value of unknown rank", "Give the model as it was before optimisation."
                )
            value = build.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(value)
    product, alpha = build.op("MatMul", *factors), build.real("alpha", 1.0)
    build.become(product if alpha == 1 else build.op("Mul", product, build.single(alpha)), named=product)


def _gelu(build: NodeBuilder, opset: int) -> None:
    """X (1 + erf(x / sqrt 2)) / 2, of a sum where there is a bias."""
    bias = build.given(1)
    x = build.x(0) if bias is None else build.op("Add", build.x(0), bias)
    inner = build.op("Erf", build.op("Div", x, build.single(math.sqrt(2))))
    build.become(build.op("Mul", build.op("Mul", x, build.op("Add", inner, build.single(1))), build.single(0.5)))


def _fast_gelu(build: NodeBuilder, opset: int) -> None:
    """The form with tanh."""
    bias = build.given(1)
    x = build.x(0) if bias is None else build.op("Add", build.x(0), bias)
    cube = build.op("Mul", build.op("Pow", x, build.single(3)), build.single(0.044715))
    inner = build.op("Tanh", build.op("Mul", build.op("Add", x, cube), build.single(math.sqrt(2 / math.pi))))
    build.become(build.op("Mul", build.op("Mul", x, build.op("Add", inner, build.single(1))), build.single(0.5)))


def _quick_gelu(build: NodeBuilder, opset: int) -> None:
    x, alpha = build.x(0), build.real("alpha", 1.702)
    inner = x if alpha == 1 else build.op("Mul", x, build.single(alpha))
    build.become(build.op("Mul", x, build.op("Sigmoid", inner)))


def _norm(build: NodeBuilder, opset: int) -> None:
    x, scale = build.x(0), build.x(1)
    build.become(_normalised(build, opset, x, scale, build.given(2), build.real("epsilon", 1e-5)))


def _skip_norm(build: NodeBuilder, opset: int) -> None:
    """A normalisation of a sum, which may be given out too."""
    centred = build.node.op_type == "SkipLayerNormalization"
    total = build.op("Add", build.x(0), build.x(1))
    bias = build.given(4 if centred else 3)
    if bias is not None:
        total = build.op("Add", total, bias)
    y = _normalised(build, opset, total, build.x(2), build.given(3) if centred else None, build.real("epsilon", 1e-12))
    if len(build.node.outputs) > 3:
        build.become(total, 3)
    build.become(y)


def _normalised(
    build: NodeBuilder, opset: int, x: ir.Value, scale: ir.Value, bias: ir.Value | None, epsilon: float
) -> ir.Value:
    axis = build.integer("axis", -1)
    if axis >= 0:
        raise build.refusal("counts its axis from the front", "Give the model as it was before optimisation.")
    centred = "Simplified" not in build.node.op_type
    if centred and opset >= _LAYER_NORM:
        given = [x, scale] if bias is None else [x, scale, bias]
        return build.op("LayerNormalization", *given, axis=axis, epsilon=epsilon)
    axes = list(range(axis, 0))

    def mean(value: ir.Value) -> ir.Value:
        if opset < _AXES_AS_INPUT:
            return build.op("ReduceMean", value, axes=axes, keepdims=1)
        return build.op("ReduceMean", value, build.ints(*axes), keepdims=1)

    if centred:
        x = build.op("Sub", x, mean(x))
    root = build.op("Sqrt", build.op("Add", mean(build.op("Mul", x, x)), build.single(epsilon)))
    y = build.op("Mul", build.op("Div", x, root), scale)
    return y if bias is None else build.op("Add", y, bias)


_UNFUSE: dict[str, Callable[[NodeBuilder, int], None]] = {
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gelu": _gelu,
    "LayerNormalization": _norm,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _norm,
    "SkipLayerNormalization": _skip_norm,
    "SkipSimplifiedLayerNormalization": _skip_norm,
}
# Outputs behind the first that are not made: None. The sum of a skip is.
_EXTRA: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(NORMS, (None, None)),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), (None, None, "sum")),
}
