"""Find inputs that are ids: row indices of a table that the model looks up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

_SAME_NUMBERS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})


@dataclass(frozen=True)
class LookupTable:
    """The table in which ids are looked up.

    Attributes:
        name: name of the initializer.
        rows: number of rows.
    """

    name: str
    rows: int


def lookup_table(graph: ir.Model, name: str) -> LookupTable | None:
    """The table that an input's numbers index, the smallest if there are several; None if they are not ids.

    They are ids if a Gather uses them, with unchanged values (`_SAME_NUMBERS`), as indices along the first axis of an
    initializer with two axes: an embedding.
    """
    for value in graph.graph.inputs:
        if value.name == name:
            return min(_tables(value, set()), key=lambda table: table.rows, default=None)
    return None


def _tables(value: ir.Value, seen: set[int]) -> Iterator[LookupTable]:
    if id(value) in seen:
        return
    seen.add(id(value))
    for use in value.uses():
        node, index = use.node, use.idx
        if node.op_type in _SAME_NUMBERS and index == 0:
            yield from _tables(node.outputs[0], seen)
        elif node.op_type == "Gather" and index == 1:
            table, axis = node.inputs[0], node.attributes.get("axis")
            if table is None or not table.is_initializer() or table.shape is None or len(table.shape) != 2:
                continue
            rows = table.shape[0]
            if isinstance(rows, int) and (axis is None or axis.as_int() in (0, -2)):
                yield LookupTable(table.name or "", rows)
