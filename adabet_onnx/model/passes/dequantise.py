"""Convert quantised models back to float32: each quantised value is replaced by the real number it represents.

Weights and biases become float32 initializers. QuantizeLinear and DequantizeLinear of activations are dropped, and
quantised operators become their float counterparts. Rounding is lost, and so is saturation, with one exception:
quantisers drop a Relu if the range of a type begins at zero, so a Clip to that range replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ..uses import attributes_of, input_of
from .dynamic import DYNAMIC, WITHOUT_RULE
from .quantised import QuantisationGrid, cannot, float_name, grid_of
from .replacement import replace_output
from .signs import MOVING, not_negative
from .unused import RemoveUnused

OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QGemm", *DYNAMIC, *WITHOUT_RULE})
_PREFIX = "QLinear"
# Operators with a scale and a zero point for every input and the output: float counterpart and number of inputs.
_PLAIN = {
    "QLinearMatMul": ("MatMul", 2),
    "QLinearAdd": ("Add", 2),
    "QLinearMul": ("Mul", 2),
    "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1),
    "QLinearAveragePool": ("AveragePool", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
}
# Number of required inputs.
_NEEDED = {"DynamicQuantizeLSTM": 3, "DynamicQuantizeMatMul": 3, "MatMulIntegerToFloat": 4, "QGemm": 6}


def is_quantised(model: ir.Model) -> bool:
    """Whether any node produces or reads quantised numbers."""
    return any(_is_quantised(node) for node in model.graph.all_nodes())


def input_ranges(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Smallest and largest value that quantised inputs can represent, by name."""
    ranges = {}
    for node in model.graph:
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        if value is not None and value.is_graph_input() and value.name:
            bounds = grid_of(node, node.inputs[1], input_of(node, 2), ir.DataType.UINT8).bounds
            if bounds is not None:
                ranges[value.name] = bounds
    return ranges


class Dequantise(ir.passes.InPlacePass):
    """Convert a quantised graph back to float32.

    Raises (on call):
        ModelError: a node cannot be converted; the message names it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph if _is_quantised(node)]
        if not nodes and not is_quantised(model):
            return ir.passes.PassResult(model, False)
        dequantiser = _Dequantiser(model.graph)
        for node in nodes:
            dequantiser.check(node)
        for node in list(model.graph):
            dequantiser.rewrite(node)
        RemoveUnused()(model)
        remaining = next((node for node in model.graph.all_nodes() if _is_quantised(node)), None)
        if remaining is not None:
            raise cannot(remaining, "it is in a subgraph, or its result is not converted back to float")
        return ir.passes.PassResult(model, True)


def _is_quantised(node: ir.Node) -> bool:
    return node.op_type in OPERATORS or node.op_type.startswith(_PREFIX)


def _inputs(node: ir.Node) -> list[tuple[int, int, int]]:
    """Positions of (value, scale, zero point) among the inputs."""
    if node.op_type == "DequantizeLinear":
        return [(0, 1, 2)]
    if node.op_type == "QLinearConcat":
        return [(index, index + 1, index + 2) for index in range(2, len(node.inputs), 3)]
    if node.op_type in ("QLinearConv", "QGemm"):
        return [(0, 1, 2), (3, 4, 5)]
    if node.op_type in _PLAIN:
        return [(3 * index, 3 * index + 1, 3 * index + 2) for index in range(_PLAIN[node.op_type][1])]
    return []


def _output_positions(node: ir.Node) -> tuple[int, int] | None:
    """Positions of the output's scale and zero point."""
    fixed = {"QuantizeLinear": (1, 2), "QLinearConcat": (0, 1), "QLinearConv": (6, 7), "QGemm": (7, 8)}
    if node.op_type in _PLAIN:
        first = 3 * _PLAIN[node.op_type][1]
        return first, first + 1
    return fixed.get(node.op_type)


class _Dequantiser:
    """The conversion of one graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.taken = {value.name or "" for value in (*graph.inputs, *graph.initializers.values())}
        self.taken |= {value.name or "" for node in graph for value in node.outputs}
        self._made: dict[tuple[object, ...], ir.Value] = {}
        self._early: dict[
            ir.Value, tuple[ir.Node, QuantisationGrid]
        ] = {}  # constants converted before operators that move elements
        self._rewriters: dict[str, Callable[[ir.Node], ir.Value]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "QLinearConv": self._conv,
            "QLinearConcat": self._concat,
            "QGemm": self._gemm,
        }

    def check(self, node: ir.Node) -> None:
        """Check, before any change, that a node has all inputs, each with the scale it was quantised with.

        onnx's checker does not cover operators of other domains.
        """
        needed = _NEEDED.get(node.op_type, 3 * _PLAIN[node.op_type][1] + 1 if node.op_type in _PLAIN else 0)
        if any(input_of(node, position) is None for position in range(needed)):
            present = sum(value is not None for value in node.inputs[:needed])
            raise cannot(
                node, f"it needs its first {needed} inputs but has only {present} of them: the file is damaged"
            )
        for value_at, scale_at, zero_at in _inputs(node):
            value = input_of(node, value_at)
            if value is None or ir.convenience.get_const_tensor(value) is not None:
                continue
            source = value
            producer = source.producer()
            while producer is not None and producer.op_type in MOVING and producer.inputs[0] is not None:
                source = producer.inputs[0]
                producer = source.producer()
            if producer is None:
                if source.is_graph_input() and source is value:
                    continue
                grid = grid_of(node, node.inputs[scale_at], input_of(node, zero_at))
                if source.is_initializer() and grid.scale.size == 1:  # a table that rows are gathered from
                    self._early[source] = node, grid
                    continue
                raise cannot(node, f"its input {value.name!r} is computed as integers")
            positions = _output_positions(producer)
            if positions is None:
                raise cannot(node, f"its input {value.name!r} is computed as integers by {producer.name!r}")
            produced_grid = grid_of(
                producer, input_of(producer, positions[0]), input_of(producer, positions[1]), ir.DataType.UINT8
            )
            read_grid = grid_of(node, node.inputs[scale_at], input_of(node, zero_at))
            if not produced_grid.same(read_grid):
                raise cannot(node, f"its input {value.name!r} was quantised with another scale or zero point")

    def rewrite(self, node: ir.Node) -> None:
        """Replace one node, where it is a quantised one."""
        if node.op_type in DYNAMIC:
            DYNAMIC[node.op_type](self, node)
        elif node.op_type == "DynamicQuantizeLinear":
            pass  # only products use its result, and they read its input instead
        elif node.op_type in self._rewriters:
            self._replace(node, self._rewriters[node.op_type](node))
        elif node.op_type in _PLAIN:
            self._replace(node, self._plain(node))
        elif _is_quantised(node):
            raise cannot(node, "this operator is not supported")
        else:
            self._move(node)

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        """Replace the node's output by ``value``, which takes over its name if it is new or for a graph output."""
        output = node.outputs[0]
        new = value.name == _new_name(output)
        if output.is_graph_output() and (value.producer() is None or value.is_graph_output()):
            value, new = self.node_before("Identity", node, [value]), True
        if new or output.is_graph_output():
            replace_output(self.graph, node, value)
            value.type = ir.TensorType(ir.DataType.FLOAT)
        else:
            output.replace_all_uses_with(value)
            self.graph.remove(node, safe=True)

    def node_before(self, op_type: str, node: ir.Node, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
        """Insert a float32 node before ``node``, with a similar name."""
        name = node.name or op_type
        for mark in ("_quant", "_quantized", "_QuantizeLinear"):
            name = name.removesuffix(mark)
        new_node = ir.node(op_type, inputs, attributes or None, name=name)
        value = new_node.outputs[0]
        value.name = _new_name(node.outputs[0])
        value.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(node, new_node)
        return value

    def initializer(self, name: str, array: np.ndarray) -> ir.Value:
        """A new initializer; its name is changed if it is in use."""
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def _real(
        self, node: ir.Node, value: ir.Value | None, grid: QuantisationGrid, axis: int, block: int = 0, output: str = ""
    ) -> ir.Value:
        """The real numbers of a quantised value: a new initializer, or the value itself if already converted."""
        assert value is not None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            if value.is_graph_input():
                value.type = ir.TensorType(ir.DataType.FLOAT)
            return value
        if tensor.dtype == ir.DataType.FLOAT:  # its QuantizeLinear is already removed
            return value
        key = (value.name, grid.scale.tobytes(), grid.zero.tobytes(), axis, block)
        if key not in self._made:
            try:
                array = grid.real(tensor.numpy(), axis, block)
            except ValueError as error:
                raise cannot(node, f"scale and zero point do not fit {value.name!r} ({error})") from error
            if not np.isfinite(array).all():
                raise cannot(node, f"the scale of {value.name!r} is not a finite number")
            name = float_name(value.name or "", output, self.taken - {output})
            self._made[key] = self._initializer_in_place_of(name, output, array)
        return self._made[key]

    def _initializer_in_place_of(self, name: str, output: str, array: np.ndarray) -> ir.Value:
        if name == output:  # the value of that name is about to be removed
            for node in self.graph:
                for value in node.outputs:
                    if value.name == output:
                        value.name = f"{output}/quantised"
            self.taken.discard(name)
        return self.initializer(name, array)

    def _quantize(self, node: ir.Node) -> ir.Value:
        x = node.inputs[0]
        assert x is not None
        default = node.attributes.get_int("output_dtype", 0)
        grid = grid_of(node, node.inputs[1], input_of(node, 2), ir.DataType(default) if default else ir.DataType.UINT8)
        return self._saturated(node, x, grid)

    def _saturated(self, node: ir.Node, x: ir.Value, grid: QuantisationGrid) -> ir.Value:
        """Add a Clip if the type's range begins at zero and ``x`` may be negative."""
        bounds = grid.bounds
        if bounds is None or bounds[0] != 0 or not_negative(x):
            return x
        low = self.initializer(f"{node.name}/low", np.array(0, np.float32))
        high = self.initializer(f"{node.name}/high", np.array(bounds[1], np.float32))
        clip = ir.node("Clip", [x, low, high], name=f"{node.name}/clip")
        clip.outputs[0].name = f"{node.name}/clipped"
        clip.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.insert_before(node, clip)
        return clip.outputs[0]

    def _dequantize(self, node: ir.Node) -> ir.Value:
        grid = grid_of(node, node.inputs[1], input_of(node, 2))
        axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
        return self._real(node, node.inputs[0], grid, axis, block, node.outputs[0].name or "")

    def _real_input(self, node: ir.Node, number: int, axis: int = 1) -> tuple[ir.Value, QuantisationGrid]:
        value_at, scale_at, zero_at = _inputs(node)[number]
        grid = grid_of(node, node.inputs[scale_at], input_of(node, zero_at))
        return self._real(node, node.inputs[value_at], grid, axis), grid

    def _finish_output(self, node: ir.Node, value: ir.Value) -> ir.Value:
        positions = _output_positions(node)
        assert positions is not None
        scale, zero = (input_of(node, place) for place in positions)
        if scale is None:
            return value
        return self._saturated(node, value, grid_of(node, scale, zero, ir.DataType.UINT8))

    def _bias(self, node: ir.Node, position: int, scale: np.ndarray) -> ir.Value | None:
        value = input_of(node, position)
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if value is None:
            return None
        if tensor is None:
            raise cannot(node, f"its bias {value.name!r} is computed in the graph")
        array = (tensor.numpy().astype(np.float64) * scale.reshape(-1)).astype(np.float32)
        return self.initializer(float_name(value.name or "", "", self.taken), array)

    def _conv(self, node: ir.Node) -> ir.Value:
        x, input_grid = self._real_input(node, 0)
        weight, weight_grid = self._real_input(node, 1, axis=0)
        bias = self._bias(node, 8, input_grid.scale * weight_grid.scale)
        value = self.node_before(
            "Conv", node, [x, weight, *([bias] if bias is not None else [])], **attributes_of(node)
        )
        return self._finish_output(node, value)

    def _gemm(self, node: ir.Node) -> ir.Value:
        attributes = attributes_of(node)
        a, first = self._real_input(node, 0)
        b, second = self._real_input(node, 1, axis=0 if attributes.get("transB") else 1)
        alpha = float(attributes.get("alpha", 1.0))
        bias = self._bias(node, 6, alpha * first.scale * second.scale)
        value = self.node_before("Gemm", node, [a, b, *([bias] if bias is not None else [])], **attributes)
        return self._finish_output(node, value)

    def _concat(self, node: ir.Node) -> ir.Value:
        values: list[ir.Value | None] = [self._real_input(node, number)[0] for number in range(len(_inputs(node)))]
        return self._finish_output(node, self.node_before("Concat", node, values, **attributes_of(node)))

    def _plain(self, node: ir.Node) -> ir.Value:
        attributes = attributes_of(node)
        if attributes.pop("channels_last", 0):
            raise cannot(node, "its channels are the last axis")
        op_type, count = _PLAIN[node.op_type]
        values: list[ir.Value | None] = [self._real_input(node, number, axis=-1)[0] for number in range(count)]
        return self._finish_output(node, self.node_before(op_type, node, values, **attributes))

    def _move(self, node: ir.Node) -> None:
        """Update an ordinary node: its result becomes real if its input was quantised."""
        first = node.inputs[0] if node.inputs else None
        if first in self._early and node.op_type in MOVING:
            assert first is not None
            taker, grid = self._early[first]
            node.replace_input_with(0, self._real(taker, first, grid, 0))
        tensors = [value for value in node.inputs if value is not None]
        if node.op_type not in MOVING or not tensors:
            return
        if tensors[0].dtype == ir.DataType.FLOAT and node.outputs[0].dtype in _INTEGERS:
            for value in node.outputs:
                value.type = ir.TensorType(ir.DataType.FLOAT)


_INTEGERS = frozenset({ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16})


def _new_name(output: ir.Value) -> str:
    return f"{output.name}/float32"
