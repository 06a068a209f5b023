"""Convert products of dynamically quantised activations back to float32.

ONNX has MatMulInteger and ConvInteger, followed by a Cast and a Mul by the scales, with or without a quantised bias in
between. ONNX Runtime adds DynamicQuantizeLSTM, DynamicQuantizeMatMul and MatMulIntegerToFloat. Dynamically quantised
activations are replaced by their float values; weights become the real numbers they represent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from ..uses import attributes_of, input_of
from .quantised import QuantisationGrid, cannot, float_name
from .replacement import replace_output

# Quantised operators of ONNX Runtime that are not supported.
WITHOUT_RULE = frozenset(
    {
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QMoE",
    }
)
_RESHAPING = frozenset({"Reshape", "Unsqueeze", "Identity"})
_ROUNDING = frozenset({"Floor", "Round", "Ceil"})


class GraphEditor(Protocol):
    """The interface of the pass in `dequantise` that the rules here use."""

    graph: ir.Graph
    taken: set[str]

    def initializer(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer."""

    def node_before(self, op_type: str, node: ir.Node, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
        """A float32 node before ``node``."""


def _integer_product(editor: GraphEditor, node: ir.Node) -> None:
    """Convert MatMulInteger or ConvInteger, including its rescaling, to one float product and its bias."""
    last, factor, bias = _rescaled(node)
    factors = [np.ones(()), factor]
    inputs: list[ir.Value | None] = []
    for position in (0, 1):
        value, zero = node.inputs[position], input_of(node, position + 2)
        assert value is not None
        producer = value.producer()
        if producer is not None and producer.op_type == "DynamicQuantizeLinear":
            inputs.append(producer.inputs[0])
            continue
        axis = 0 if node.op_type == "ConvInteger" else -1
        array = QuantisationGrid(np.ones(()), _constant(node, zero), None).real(_integers(node, value), axis)
        scale = factors[position]
        factors[position] = np.ones(())
        if node.op_type == "ConvInteger" and scale.size > 1:
            scale = scale.reshape([-1, *[1] * (array.ndim - 1)])
        inputs.append(editor.initializer(_name(editor, value), (array * scale).astype(np.float32)))
    if factors[1].size > 1 or factors[1].reshape(-1)[0] != 1:
        raise cannot(node, "its scale does not belong to a constant weight")
    if bias is not None and node.op_type == "ConvInteger":
        inputs.append(bias)
    value = editor.node_before(node.op_type.removesuffix("Integer"), node, inputs, **attributes_of(node))
    if bias is not None and node.op_type != "ConvInteger":
        value = _plus(editor, node, value, bias)
    replace_output(editor.graph, last, value)


def _rescaled(node: ir.Node) -> tuple[ir.Node, np.ndarray, ir.Value | None]:
    """The Mul after a product's Cast, the constant part of its other factor, and the bias."""
    after, product, added = _only_consumer(node.outputs[0]), node.outputs[0], None
    if after is not None and after.op_type == "Add":
        added = next((value for value in after.inputs if value is not product), None)
        product = after.outputs[0]
        after = _only_consumer(product)
    mul = _only_consumer(after.outputs[0]) if after is not None and after.op_type == "Cast" else None
    if after is None or mul is None or mul.op_type != "Mul":
        raise cannot(node, "it is not followed by a Cast and a Mul by the scales")
    other = next((value for value in mul.inputs if value is not after.outputs[0]), None)
    factor = _scale(other)
    if factor is None:
        raise cannot(node, "the scales after it are not computed the way quantize_dynamic does")
    bias = None
    if added is not None:
        bias = _quantised_bias(added, other)
        if bias is None:
            raise cannot(
                node, f"{added.name!r}, which is added to it, is not a constant bias rounded to multiples of its scales"
            )
    return mul, factor, bias


def _quantised_bias(value: ir.Value, scale: ir.Value | None) -> ir.Value | None:
    """The constant vector from which an integer bias was quantised, by dividing by the product's scale and rounding."""
    producer = value.producer()
    while producer is not None and producer.op_type in _RESHAPING and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    for kinds in ({"Cast"}, _ROUNDING):
        source = producer.inputs[0] if producer is not None and producer.op_type in kinds else None
        producer = None if source is None else source.producer()
    if producer is None or producer.op_type != "Div" or _factors(producer.inputs[1]) != _factors(scale):
        return None
    bias = producer.inputs[0]
    tensor = ir.convenience.get_const_tensor(bias) if bias is not None else None
    return bias if tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 1 else None


def _factors(value: ir.Value | None) -> set[ir.Value | None]:
    """The factors of a product of scales."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Mul":
        return {value}
    return set().union(*(_factors(operand) for operand in producer.inputs))


def _lstm(editor: GraphEditor, node: ir.Node) -> None:
    """Convert an LSTM: W and R, stored as (directions, inputs, gates), become (directions, gates, inputs)."""
    inputs = [input_of(node, position) for position in range(8)]
    for position, scale_at in ((1, 8), (2, 10)):
        value = inputs[position]
        assert value is not None
        integers = _integers(node, value)
        parts = [_constant(node, input_of(node, scale_at + offset)) for offset in (0, 1)]
        directions, _, gates = integers.shape
        if any(part.size not in (1, directions, directions * gates) for part in parts):
            raise cannot(node, f"scale and zero point do not fit {value.name!r}")
        spread = [part.reshape(directions, 1, -1) if part.size > 1 else part.reshape(()) for part in parts]
        array = QuantisationGrid(spread[0], spread[1], None).real(integers, 0).transpose(0, 2, 1)
        inputs[position] = editor.initializer(_name(editor, value), np.ascontiguousarray(array))
    while inputs[-1] is None:
        inputs.pop()
    count = len(node.outputs)
    name = (node.name or "LSTM").removesuffix("_quant")
    lstm = ir.node("LSTM", inputs, attributes_of(node), num_outputs=count, name=name)
    editor.graph.insert_before(node, lstm)
    for old, new in zip(node.outputs, lstm.outputs, strict=True):
        output_name, old.name = old.name, None
        new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name = output_name
    editor.graph.remove(node, safe=True)


def _float_product(editor: GraphEditor, node: ir.Node) -> None:
    """Convert DynamicQuantizeMatMul, which reads floats, or MatMulIntegerToFloat, which reads quantised activations."""
    if node.op_type == "DynamicQuantizeMatMul":
        a, b_scale, b_zero, bias = node.inputs[0], input_of(node, 2), input_of(node, 3), input_of(node, 4)
    else:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if producer is None or producer.op_type != "DynamicQuantizeLinear":
            raise cannot(node, "its first input is not dynamically quantised")
        a, b_scale, b_zero, bias = producer.inputs[0], input_of(node, 3), input_of(node, 5), input_of(node, 6)
    b = node.inputs[1]
    assert b is not None
    grid = QuantisationGrid(_constant(node, b_scale), _constant(node, b_zero), None)
    weight = editor.initializer(_name(editor, b), grid.real(_integers(node, b), -1))
    value = editor.node_before("MatMul", node, [a, weight])
    if bias is not None:
        value = _plus(editor, node, value, bias)
    replace_output(editor.graph, node, value)


def _plus(editor: GraphEditor, node: ir.Node, product: ir.Value, bias: ir.Value) -> ir.Value:
    """Add a bias by a separate node."""
    product.name = f"{product.name}/product"
    total = editor.node_before("Add", node, [product, bias])
    adding = total.producer()
    assert adding is not None
    adding.name = f"{adding.name}/bias"
    return total


# Rules by operator.
DYNAMIC: dict[str, Callable[[GraphEditor, ir.Node], None]] = {
    "ConvInteger": _integer_product,
    "DynamicQuantizeLSTM": _lstm,
    "DynamicQuantizeMatMul": _float_product,
    "MatMulInteger": _integer_product,
    "MatMulIntegerToFloat": _float_product,
}


def _name(editor: GraphEditor, value: ir.Value) -> str:
    return float_name(value.name or "", "", editor.taken)


def _integers(node: ir.Node, value: ir.Value) -> np.ndarray:
    """A constant weight."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise cannot(node, f"its input {value.name!r} is computed as integers")
    return tensor.numpy()


def _constant(node: ir.Node, value: ir.Value | None) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if value is not None and tensor is None:
        raise cannot(node, f"{value.name!r} is computed in the graph")
    return np.zeros(()) if tensor is None else tensor.numpy().astype(np.float64)


def _only_consumer(value: ir.Value) -> ir.Node | None:
    consumers = value.consumers()
    return consumers[0] if len(consumers) == 1 and not value.is_graph_output() else None


def _scale(value: ir.Value | None) -> np.ndarray | None:
    """A product of scales, in which dynamic scales count as 1; None if it is anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy().astype(np.float64)
    producer = value.producer()
    if producer is None:
        return None
    if producer.op_type == "DynamicQuantizeLinear":
        return np.ones(()) if value is producer.outputs[1] else None
    if producer.op_type != "Mul":
        return None
    parts = [_scale(part) for part in producer.inputs]
    return None if parts[0] is None or parts[1] is None else parts[0] * parts[1]
