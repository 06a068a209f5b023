"""Which values of several graphs are the same: made by equal nodes from equal values."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import onnx_ir as ir

from ..model.uses import reads

_PLAIN = frozenset(
    {
        *(ir.AttributeType.FLOAT, ir.AttributeType.INT, ir.AttributeType.STRING),
        *(ir.AttributeType.FLOATS, ir.AttributeType.INTS, ir.AttributeType.STRINGS),
    }
)
_SMALL = 1 << 12  # elements of a constant that is identified by its content


class Numbering:
    """Numbers the values of graphs; equal values of different graphs get the same number.

    Inputs are the same if their names are. Large constants are the same if names and elements are, small ones if their
    elements are. Other values are identified by operator, attributes and inputs.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._large: dict[str, list[ir.TensorProtocol]] = {}

    def of(self, graph: ir.Graph) -> dict[ir.Value, int]:
        """The numbers of a graph's values; its nodes must be sorted."""
        numbers: dict[ir.Value, int] = {}
        for value in graph.inputs:
            numbers[value] = self._number(("input", value.name))
        for value in graph.initializers.values():
            numbers[value] = self._number(self._constant(value))
        for node in graph:
            inputs = tuple(-1 if value is None else numbers[value] for value in reads(node))
            attributes = tuple(sorted((name, _content(item)) for name, item in node.attributes.items()))
            key = (node.domain, node.op_type, attributes, inputs, len(node.outputs))
            for position, value in enumerate(node.outputs):
                numbers[value] = self._number((*key, position))
        return numbers

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _constant(self, value: ir.Value) -> Hashable:
        tensor, name = value.const_value, value.name or ""
        if tensor is None:
            return ("unknown", name)
        shape = tuple(int(extent) for extent in tensor.shape.numpy())
        if tensor.size <= _SMALL:
            return ("constant", tensor.dtype, shape, tensor.tobytes())
        known = self._large.setdefault(name, [])
        for position, other in enumerate(known):
            if other is tensor or (other.dtype == tensor.dtype and _equal(other, tensor)):
                return ("weight", name, position)
        known.append(tensor)
        return ("weight", name, len(known) - 1)


def _content(attribute: ir.Attr) -> str | bytes:
    """The content of an attribute; graphs and tensors are serialised."""
    if attribute.type in _PLAIN:
        return f"{attribute.type} {attribute.value!r}"
    return bytes(ir.serde.serialize_attribute(attribute).SerializeToString())


def _equal(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    a, b = one.numpy(), other.numpy()
    return a.shape == b.shape and bool(np.array_equal(a.view(np.uint8), b.view(np.uint8)))
