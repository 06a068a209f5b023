"""Bringing a graph to opset 17, which every supported ONNX Runtime reads, from an older or a newer one.

Nothing is changed unless every node can be: a graph has one opset.
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
# The newest opset and IR version that releases read (those between two of them as the first), found by loading
# models with them.
_RUNTIMES = (
    ((1, 17), 20, 9),
    ((1, 18), 21, 10),
    ((1, 21), 22, 10),
    ((1, 23), 23, 11),
    ((1, 24), 25, 13),
    ((1, 32), 26, 14),
)
# Operators whose CPU kernel came later than their opset: 1.24 had none, 1.32 has one.
_KERNELS = {"DeformConv": (1, 32)}


@dataclass(frozen=True)
class Kept:
    """A node that keeps a graph from opset 17.

    Attributes:
        node: its name.
        op_type: its operator.
        reason: what it has that opset 17 lacks.
    """

    node: str
    op_type: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op_type}) {self.reason}"


def lower_opset(model: ir.Model) -> list[Kept]:
    """Rewrite a graph, in place, for opset 17, whether its opset is older or newer.

    Args:
        model: a graph of opset 12 to 21. Shapes and dtypes on its values are used where a node needs them.

    Returns:
        The nodes that keep the graph from opset 17; if there are any, nothing was changed.
    """
    opset = model.opset_imports.get("") or 0
    if opset == TARGET:
        return []
    edits: list[tuple[ir.Node, Edit]] = []
    kept = []
    for node in model.graph:
        change = None if node.domain not in ("", "ai.onnx") else _edit(node, opset)
        if isinstance(change, str):
            kept.append(Kept(node.name or "", node.op_type, change))
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
    """Bring a graph of an older opset to 17, in place, before it is differentiated: rules write no older form.

    Args:
        model: a graph of opset 12 to 21; a newer one, and one with nodes that keep it from opset 17, stay as they are.
    """
    if (model.opset_imports.get("") or 0) < TARGET:
        annotate(model)  # some nodes change by the shapes that they take
        lower_opset(model)


def _edit(node: ir.Node, opset: int) -> Edit | str | None:
    """What to do to a node for opset 17: nothing, an edit, or why nothing can be done."""
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "holds a graph of its own"
    have, want = _schema(node.op_type, opset), _schema(node.op_type, TARGET)
    if have is not None and want is not None and have.since_version == want.since_version:
        return None
    wrong = None if want is None else _foreign_type(node, want)
    if wrong is not None:
        return f"takes or gives {wrong}, which it does not in opset {TARGET}"
    special = (UPWARD if opset < TARGET else DOWNWARD).get(node.op_type)
    special_edit = special(node, opset) if special is not None else None
    if special_edit is not None:
        return special_edit
    if have is None or want is None:
        return f"is not in opset {opset if have is None else TARGET}"
    return _carried_over(node, have, want)


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _carried_over(node: ir.Node, have: onnx.defs.OpSchema, want: onnx.defs.OpSchema) -> Edit | str | None:
    """Compare what a node uses with another version of its operator."""
    if want.deprecated:
        return f"is deprecated in opset {TARGET}"
    if len(node.inputs) > want.max_input or len(node.outputs) > want.max_output:
        return f"has more inputs or outputs than in opset {TARGET}"
    unneeded = []
    for name in sorted({*have.attributes, *want.attributes}):
        given = node.attributes.get(name)
        if name not in have.attributes:
            # A new attribute's default is what was done before it; one that is gone became something else.
            if want.since_version < have.since_version:
                return f"has no attribute {name!r} any more, as in opset {TARGET}"
        elif name not in want.attributes:
            if given is not None and given.value != _default(have, name):
                return f"has the attribute {name!r}, which opset {TARGET} lacks"
            unneeded.append(name)
        elif given is None and _default(have, name) != _default(want, name):
            return f"leaves {name!r} at its default, which is another one in opset {TARGET}"
    return (lambda edited: edited.without(*unneeded)) if unneeded else None


def _default(schema: onnx.defs.OpSchema, name: str) -> object:
    attribute = schema.attributes[name].default_value
    value = onnx.helper.get_attribute_value(attribute) if attribute.name else None
    return value.decode() if isinstance(value, bytes) else value


def _foreign_type(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    """The first type of a node's inputs and outputs that a schema does not have."""
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
        opset: of the graph.
        ir_version: of the file.
        op_types: operators it has.

    Returns:
        Such as ``"1.17"``; with a plus sign after it where no release up to that one is known to read the graph.
    """
    needed = max((_KERNELS[op_type] for op_type in op_types if op_type in _KERNELS), default=(1, 17))
    for release, newest_opset, newest_ir in _RUNTIMES:
        if opset <= newest_opset and ir_version <= newest_ir and release >= needed:
            return ".".join(map(str, release))
    return ".".join(map(str, _RUNTIMES[-1][0])) + "+"
