"""Count the multiply-adds of a graph's matrix products and convolutions, both forward and gradients.

Elementwise operators, reductions and copies are not counted; in networks they are a few percent of the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

Shape = tuple[int, ...]
Shapes = Callable[[ir.Value | None], Shape | None]


def multiply_adds(nodes: Iterable[ir.Node], shape: Shapes) -> int:
    """Multiply-adds of nodes; a node with an unknown shape counts as 0.

    Args:
        nodes: nodes of any graph, including ONNX Runtime's own operators.
        shape: returns the shape of a value, None if it is unknown.
    """
    total = 0
    for node in nodes:
        count = _COUNTS.get(node.op_type)
        if count is not None:
            total += count(node, [shape(value) for value in node.inputs], [shape(value) for value in node.outputs])
    return total


_Known = Sequence[Shape | None]


def _convolution(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """Each element of the result takes C / g * taps, where the weight is (O, C / g, taps...)."""
    weight, result = inputs[1], outputs[0]
    return 0 if weight is None or result is None else math.prod(result) * math.prod(weight[1:])


def _transposed_convolution(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """Each element of the input takes O / g * taps, where the weight is (C, O / g, taps...)."""
    image, weight = inputs[0], inputs[1]
    return 0 if weight is None or image is None else math.prod(image) * math.prod(weight[1:])


def _convolution_gradient(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """onnxruntime-training's ConvGrad: (dY, X, W) to (dX, dW, dB); dX and dW each take as much as the forward pass."""
    gradient, weight = inputs[0], inputs[2]
    if gradient is None or weight is None:
        return 0
    computed = sum(1 for value in node.outputs[:2] if value is not None and value.name)
    return computed * math.prod(gradient) * math.prod(weight[1:])


def _gemm(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """(M, K) times (K, N), either transposed."""
    left, result = inputs[0], outputs[0]
    if left is None or result is None or len(left) != 2:
        return 0
    return math.prod(result) * left[0 if _number(node, "transA") else 1]


def _matmul(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """(..., M, K) times (..., K, N); FusedMatMul may transpose the left side."""
    left, result = inputs[0], outputs[0]
    if not left or result is None:
        return 0
    if len(left) > 1 and _number(node, "transA"):
        return math.prod(result) * left[-2]
    return math.prod(result) * left[-1]


def _einsum(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
    """The product of all extents if there are at least two operands."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    terms = equation.split("->")[0].split(",")
    extents: dict[str, int] = {}
    rest = 1
    for term, shape in zip(terms, inputs, strict=False):
        if shape is None:
            return 0
        head, dots, tail = term.partition("...")
        named = [*zip(head, shape, strict=False), *zip(reversed(tail), reversed(shape), strict=False)]
        for letter, extent in named:
            extents[letter] = max(extent, extents.get(letter, 1))
        if dots:
            rest = max(rest, math.prod(shape[len(head) : len(shape) - len(tail)]))
    return math.prod(extents.values()) * rest if len(terms) > 1 else 0


def _recurrent(gates: int) -> Callable[[ir.Node, _Known, _Known], int]:
    def count(node: ir.Node, inputs: _Known, outputs: _Known) -> int:
        """For each step, direction and sample: W (gates H, I) and R (gates H, H)."""
        data, weight = inputs[0], inputs[1]
        if data is None or weight is None:
            return 0
        directions, rows, columns = weight
        return data[0] * data[1] * directions * rows * (columns + rows // gates)

    return count


def _number(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.value)


_COUNTS: dict[str, Callable[[ir.Node, _Known, _Known], int]] = {
    "Conv": _convolution,
    "FusedConv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "ConvGrad": _convolution_gradient,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "TransposeMatMul": _matmul,
    "Einsum": _einsum,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}
