"""Converting a graph from an older or newer opset to opset 17, which every supported ONNX Runtime reads.

Nothing is changed unless every node can be converted, since a graph has only one opset.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from .builder import Builder
from .opset_downward import DOWNWARD
from .opset_edits import Edit, EditedNode
from .opset_upward import UPWARD
from .shapes import annotate

TARGET = 17
# The newest opset and IR version that releases read (a release between two of them reads what the first does), found by
# loading models with them.
_RUNTIMES = (
    ((1, 17), 20, 9),
    ((1, 18), 21, 10),
    ((1, 21), 22, 10),
    ((1, 23), 23, 11),
    ((1, 24), 25, 13),
    ((1, 32), 26, 14),
)
# Operators whose CPU kernel was added later than their opset: 1.24 had none, 1.32 has one.
_KERNELS = {"DeformConv": (1, 32)}


@dataclass(frozen=True)
class UnconvertedNode:
    """A node that prevents a graph from being converted to opset 17.

    Attributes:
        node: its name.
        op_type: its operator.
        reason: what it uses that opset 17 lacks.
    """

    node: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op_type}) {self.reason}"


def lower_opset(model: ir.Model) -> list[UnconvertedNode]:
    """Convert a graph, in place, to opset 17, whether its opset is older or newer.

    Args:
        model: a graph of opset 12 to 21. Shapes and dtypes of its values are used if a node needs them.

    Returns:
        The nodes that prevent the conversion; if there are any, nothing was changed.
    """
    opset = model.opset_imports.get("") or 0
    if opset == TARGET:
        return []
    edits: list[tuple[ir.Node, Edit]] = []
    kept = []
    for node in model.graph:
        change = None if node.domain not in ("", "ai.onnx") else _edit(node, opset)
        if isinstance(change, str):
            kept.append(UnconvertedNode(node.name or "", node.op_type, change))
        elif change is not None:
            edits.append((node, change))
    if kept:
        return kept
    build = Builder(model.graph, opset=TARGET)
    before = {value for node, _ in edits for value in node.inputs if value is not None}
    for node, edit in edits:
        build.begin(node.name or node.op_type)
        edit(EditedNode(node, build))
        model.graph.insert_before(node, build.take())
    for value in build.initializers:
        if value.uses():
            model.graph.register_initializer(value)
    for value in before:  # axes that became attributes
        if value.is_initializer() and not value.uses() and not value.is_graph_input() and not value.is_graph_output():
            del model.graph.initializers[value.name or ""]
    model.opset_imports[""] = TARGET
    return []


def raise_opset(model: ir.Model) -> None:
    """Convert a graph of an older opset to opset 17, in place.

    This is done before it is differentiated, since rules write no older form.

    Args:
        model: a graph of opset 12 to 21. It is not changed if it is newer, or if a node prevents the conversion.
    """
    if (model.opset_imports.get("") or 0) < TARGET:
        annotate(model)  # some nodes are converted according to their shapes
        lower_opset(model)


def _edit(node: ir.Node, opset: int) -> Edit | str | None:
    """The change that a node needs for opset 17: None, an edit, or the reason why none is possible."""
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "contains a subgraph"
    current, target = _schema(node.op_type, opset), _schema(node.op_type, TARGET)
    if current is not None and target is not None and current.since_version == target.since_version:
        return None
    foreign_type = None if target is None else _foreign_type(node, target)
    if foreign_type is not None:
        return f"takes or gives {foreign_type}, which it does not in opset {TARGET}"
    special = (UPWARD if opset < TARGET else DOWNWARD).get(node.op_type)
    special_edit = special(node, opset) if special is not None else None
    if special_edit is not None:
        return special_edit
    if current is None or target is None:
        return f"is not in opset {opset if current is None else TARGET}"
    return _carried_over(node, current, target)


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _carried_over(node: ir.Node, current: onnx.defs.OpSchema, target: onnx.defs.OpSchema) -> Edit | str | None:
    """Compare what a node uses with the target version of its operator."""
    if target.deprecated:
        return f"is deprecated in opset {TARGET}"
    if len(node.inputs) > target.max_input or len(node.outputs) > target.max_output:
        return f"has more inputs or outputs than in opset {TARGET}"
    unneeded = []
    for name in sorted({*current.attributes, *target.attributes}):
        given = node.attributes.get(name)
        if name not in current.attributes:
            # A new attribute's default is the former behaviour; a removed attribute was replaced by something else.
            if target.since_version < current.since_version:
                return f"has no attribute {name!r} any more, as in opset {TARGET}"
        elif name not in target.attributes:
            if given is not None and given.value != _default(current, name):
                return f"has the attribute {name!r}, which opset {TARGET} lacks"
            unneeded.append(name)
        elif given is None and _default(current, name) != _default(target, name):
            return f"leaves {name!r} at its default, which differs in opset {TARGET}"
    return (lambda edited: edited.without(*unneeded)) if unneeded else None


def _default(schema: onnx.defs.OpSchema, name: str) -> object:
    attribute = schema.attributes[name].default_value
    value = onnx.helper.get_attribute_value(attribute) if attribute.name else None
    return value.decode() if isinstance(value, bytes) else value


def _foreign_type(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    """The first type of a node's inputs and outputs that a schema does not allow."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for i, value in enumerate(values):
            if value is None or value.dtype is None:
                continue
            type_str = formals[min(i, len(formals) - 1)].type_str
            name = f"tensor({value.dtype.name.lower()})"
            if name not in allowed.get(type_str, {type_str}):
                return name
    return None


def oldest_runtime(opset: int, ir_version: int, op_types: Collection[str]) -> str:
    """The oldest release of ONNX Runtime (from 1.17 on) that reads a graph.

    Args:
        opset: opset of the graph.
        ir_version: IR version of the file.
        op_types: its operators.

    Returns:
        For example ``"1.17"``; with a plus sign after it if no release up to that one is known to read the graph.
    """
    needed = max((_KERNELS[op_type] for op_type in op_types if op_type in _KERNELS), default=(1, 17))
    for release, newest_opset, newest_ir in _RUNTIMES:
        if opset <= newest_opset and ir_version <= newest_ir and release >= needed:
            return ".".join(map(str, release))
    return ".".join(map(str, _RUNTIMES[-1][0])) + "+"
