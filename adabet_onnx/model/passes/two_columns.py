"""Replace two columns 1 - p and p, with p the sigmoid of a number z, by the Softmax of 0 and z, which is the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ...pieces import path_of
from ..probabilities import behind_shape, tail_of
from ..trial_runs import compare

_MOST_DIFFERENCE = 1e-4  # of the outputs' size


def logits_of_columns(model: ir.Model, value: ir.Value, name: str, notes: list[str]) -> str:
    """Rewrite in place; return the name of the new logits.

    Args:
        model: the graph.
        value: the two columns.
        name: of the model, for messages.
        notes: receives a sentence about the rewrite.

    Raises:
        ModelError: the outputs change on random inputs.
    """
    original = model.clone()
    tail = tail_of(value)
    concat = behind_shape(value)[0].producer()
    assert tail is not None
    assert concat is not None
    graph, base = model.graph, concat.name or "columns"
    z = tail.logits
    p = concat.inputs[0 if tail.flipped else 1]
    assert p is not None
    nodes = []
    for step in reversed(behind_shape(p)[1]):  # z in the shape of p
        name_of = f"{base}/{step.name}"
        node = ir.Node(step.domain, step.op_type, [z, *step.inputs[1:]], step.attributes.values(), name=name_of)
        nodes.append(node)
        z = _named(node, f"{name_of}:0")
    zero = ir.Value(name=f"{base}/zero", const_value=ir.tensor(np.zeros((), np.float32), name=f"{base}/zero"))
    graph.register_initializer(zero)
    nodes.append(ir.node("Mul", [z, zero], name=f"{base}/no_logit"))
    zero_logit = _named(nodes[-1], f"{base}/no_logit:0")
    axis = {"axis": tail.axes[0]}
    nodes.append(ir.node("Concat", [z, zero_logit] if tail.flipped else [zero_logit, z], axis, name=f"{base}/logits"))
    logits = _named(nodes[-1], f"{base}/logits:0")
    nodes.append(ir.node("Softmax", [logits], axis, name=f"{base}/softmax"))
    columns, old = _named(nodes[-1], f"{base}/columns"), concat.outputs[0]
    graph.insert_before(concat, nodes)
    columns.shape, columns.type, old_name = old.shape, old.type, old.name
    old.replace_all_uses_with(columns, replace_graph_outputs=True)
    graph.remove(concat, safe=True)
    old.name, columns.name = None, old_name
    difference = compare(original, model)
    if difference is not None and difference > _MOST_DIFFERENCE:
        raise ModelError(
            f"{name}: the columns {old_name!r} were treated as 1 - p and p, with p the sigmoid of "
            f"{tail.logits.name!r}, but the outputs change (by {difference:.0%}). Name the logits, which may be that "
            f"value (`open_model({path_of(name)}, logits={tail.logits.name!r})`)."
        )
    checked = "" if difference is None else f" (on random inputs, outputs differ by {difference:.2g} of their size)"
    columns_are = "p and 1 - p" if tail.flipped else "1 - p and p"
    notes.append(
        f"the columns {old_name!r} are {columns_are}, with p the sigmoid of {tail.logits.name!r}: they are now "
        f"computed as the Softmax of {logits.name!r}, 0 and that number, which are the logits{checked}"
    )
    return logits.name or ""


def _named(node: ir.Node, name: str) -> ir.Value:
    value = node.outputs[0]
    value.name, value.dtype = name, ir.DataType.FLOAT
    return value
