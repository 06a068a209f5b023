"""Decompose operators fused by ONNX Runtime's optimiser, where that is exact.

Folded weights (a BatchNormalization folded into a Conv) stay folded. Blocked layouts (nchwc) and attention are not
decomposed; `untrainable_models` has the messages about them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir

from ..shapes import infer_shapes
from .node_builder import NodeBuilder

DOMAIN = "com.microsoft"
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")  # in the standard domain in files of ONNX Runtime
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
_UNOPTIMISED = "Give the model from before the optimisation."


class Unfuse(ir.passes.InPlacePass):
    """Replace fused operators by the operators that they combine.

    Raises:
        ModelError: a node has an unsupported option; the message names it.

    Attributes:
        unfused: the operators that were replaced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unfused: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        names |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        opset = model.opset_imports.get("") or 0
        for node in list(model.graph.all_nodes()):
            if not can_unfuse(node):
                continue
            build = NodeBuilder(node, names)
            if node.op_type == "FusedMatMul":
                _state_ranks(model, node)
            for value, extra_output in zip(node.outputs[1:], _EXTRA.get(node.op_type, ()), strict=False):
                if extra_output is None and (value.uses() or value.is_graph_output()):
                    raise build.error("outputs its statistics", _UNOPTIMISED)
            self.unfused.append(node.op_type)
            _UNFUSE[node.op_type](build, opset)
        self.unfused = list(dict.fromkeys(self.unfused))
        return ir.passes.PassResult(model, bool(self.unfused))


def can_unfuse(node: ir.Node) -> bool:
    """Whether a node can be decomposed."""
    return node.domain == DOMAIN and node.op_type in _UNFUSE


def name_norms(proto: onnx.ModelProto, opset: int) -> None:
    """Move ONNX Runtime's own normalisations to its domain, in place.

    The runtime registers them in the standard domain, and its optimiser writes them into files of any opset; the
    standard LayerNormalization exists from opset 17 on.
    """
    norms = [
        node
        for node in proto.graph.node
        if not node.domain and node.op_type in NORMS and (node.op_type != "LayerNormalization" or opset < _LAYER_NORM)
    ]
    for node in norms:
        node.domain = DOMAIN
    if norms and all(entry.domain != DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))


def _state_ranks(model: ir.Model, node: ir.Node) -> None:
    """Set the ranks of a node's inputs, as far as they can be inferred."""
    if all(value is None or value.shape is not None for value in node.inputs):
        return
    shapes = infer_shapes(model, _BATCH)
    for value in node.inputs:
        if value is not None and value.shape is None and value.name in shapes:
            value.shape = ir.Shape([None] * len(shapes[value.name]))  # the batch is open


def _activated(build: NodeBuilder, value: ir.Value, name: str, numbers: Sequence[float]) -> ir.Value:
    if name not in _ACTIVATIONS:
        raise build.error(f"has the activation {name!r}", _UNOPTIMISED)
    if name == "Clip":
        low, high = (build.float_constant(number) for number in numbers)
        return build.add("Clip", value, low, high)
    return build.add(name, value, **dict(zip(_ACTIVATIONS[name], numbers, strict=False)))


def _conv(build: NodeBuilder, opset: int) -> None:
    """A Conv with an activation, and possibly an added tensor."""
    attributes = dict(build.node.attributes.items())
    name, numbers = attributes.pop("activation", None), attributes.pop("activation_params", None)
    inputs = [value for value in build.node.inputs[:3] if value is not None]
    value = plain = build.add("Conv", *inputs)
    producer = plain.producer()
    assert producer is not None
    producer.attributes.update(attributes)
    added = build.optional_input(3)
    if added is not None:
        value = build.add("Add", value, added)
    if name is not None:
        value = _activated(build, value, name.as_string(), [] if numbers is None else numbers.as_floats())
    build.replace_output(value, named=plain)


def _gemm(build: NodeBuilder, opset: int) -> None:
    attributes = dict(build.node.attributes.items())
    name = attributes.pop("activation", None)
    numbers = [attributes.pop(f"activation_{key}", None) for key in ("alpha", "beta", "gamma")]
    value = plain = build.add("Gemm", *build.node.inputs)
    producer = plain.producer()
    assert producer is not None
    producer.attributes.update(attributes)
    if name is not None:
        parameters = [number.as_float() for number in numbers if number is not None]
        value = _activated(build, value, name.as_string(), parameters)
    build.replace_output(value, named=plain)


def _matmul(build: NodeBuilder, opset: int) -> None:
    """A number times a product of matrices, which may be transposed."""
    if build.int_attribute("transBatchA", 0) or build.int_attribute("transBatchB", 0):
        raise build.error("moves the axes of its batch", _UNOPTIMISED)
    factors = []
    for position, name in enumerate(("transA", "transB")):
        value = build.required_input(position)
        if build.int_attribute(name, 0):
            rank = build.rank(position)
            if rank is None or rank < 2:
                raise build.error("transposes a value of unknown rank", _UNOPTIMISED)
            value = build.add("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(value)
    product, alpha = build.add("MatMul", *factors), build.float_attribute("alpha", 1.0)
    build.replace_output(
        product if alpha == 1 else build.add("Mul", product, build.float_constant(alpha)), named=product
    )


def _gelu(build: NodeBuilder, opset: int) -> None:
    """X (1 + erf(x / sqrt 2)) / 2, where x includes the bias if there is one."""
    bias = build.optional_input(1)
    x = build.required_input(0) if bias is None else build.add("Add", build.required_input(0), bias)
    inner = build.add("Erf", build.add("Div", x, build.float_constant(math.sqrt(2))))
    build.replace_output(
        build.add(
            "Mul", build.add("Mul", x, build.add("Add", inner, build.float_constant(1))), build.float_constant(0.5)
        )
    )


def _fast_gelu(build: NodeBuilder, opset: int) -> None:
    """The form with tanh."""
    bias = build.optional_input(1)
    x = build.required_input(0) if bias is None else build.add("Add", build.required_input(0), bias)
    cube = build.add("Mul", build.add("Pow", x, build.float_constant(3)), build.float_constant(0.044715))
    inner = build.add("Tanh", build.add("Mul", build.add("Add", x, cube), build.float_constant(math.sqrt(2 / math.pi))))
    build.replace_output(
        build.add(
            "Mul", build.add("Mul", x, build.add("Add", inner, build.float_constant(1))), build.float_constant(0.5)
        )
    )


def _quick_gelu(build: NodeBuilder, opset: int) -> None:
    x, alpha = build.required_input(0), build.float_attribute("alpha", 1.702)
    inner = x if alpha == 1 else build.add("Mul", x, build.float_constant(alpha))
    build.replace_output(build.add("Mul", x, build.add("Sigmoid", inner)))


def _norm(build: NodeBuilder, opset: int) -> None:
    x, scale = build.required_input(0), build.required_input(1)
    build.replace_output(
        _normalised(build, opset, x, scale, build.optional_input(2), build.float_attribute("epsilon", 1e-5))
    )


def _skip_norm(build: NodeBuilder, opset: int) -> None:
    """A normalisation of a sum, which may be an output too."""
    centred = build.node.op_type == "SkipLayerNormalization"
    total = build.add("Add", build.required_input(0), build.required_input(1))
    bias = build.optional_input(4 if centred else 3)
    if bias is not None:
        total = build.add("Add", total, bias)
    y = _normalised(
        build,
        opset,
        total,
        build.required_input(2),
        build.optional_input(3) if centred else None,
        build.float_attribute("epsilon", 1e-12),
    )
    if len(build.node.outputs) > 3:
        build.replace_output(total, 3)
    build.replace_output(y)


def _normalised(
    build: NodeBuilder, opset: int, x: ir.Value, scale: ir.Value, bias: ir.Value | None, epsilon: float
) -> ir.Value:
    axis = build.int_attribute("axis", -1)
    if axis >= 0:
        raise build.error("counts its axis from the front", _UNOPTIMISED)
    centred = "Simplified" not in build.node.op_type
    if centred and opset >= _LAYER_NORM:
        inputs = [x, scale] if bias is None else [x, scale, bias]
        return build.add("LayerNormalization", *inputs, axis=axis, epsilon=epsilon)
    axes = list(range(axis, 0))

    def mean(value: ir.Value) -> ir.Value:
        if opset < _AXES_AS_INPUT:
            return build.add("ReduceMean", value, axes=axes, keepdims=1)
        return build.add("ReduceMean", value, build.int_constants(*axes), keepdims=1)

    if centred:
        x = build.add("Sub", x, mean(x))
    root = build.add("Sqrt", build.add("Add", mean(build.add("Mul", x, x)), build.float_constant(epsilon)))
    y = build.add("Mul", build.add("Div", x, root), scale)
    return y if bias is None else build.add("Add", y, bias)


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
# Outputs after the first: None if unsupported; the sum of a skip connection is supported.
_EXTRA: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(NORMS, (None, None)),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), (None, None, "sum")),
}
