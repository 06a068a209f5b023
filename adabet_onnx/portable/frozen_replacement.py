"""Replacing the frozen part of a model by another graph that computes the same values, for example in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError
from ..model.passes.unused import RemoveUnused
from ..model.prepare import Prepared
from .graph_split import Boundary
from .opset import lower_opset, raise_opset

_TOLERANCE = 1e-3  # a relative difference larger than rounding errors


def check_boundary_values(
    prepared: Prepared, frozen: ir.Model, boundary: Sequence[Boundary], feeds: Mapping[str, np.ndarray]
) -> None:
    """Check that the values at which the frozen part ends exist in the model's original graph too.

    Args:
        prepared: the prepared model with its original graph.
        frozen: the frozen graph, in float32.
        boundary: the outputs of the frozen graph.
        feeds: a batch of samples, by the names of the frozen graph's inputs.

    Raises:
        ModelError: a value does not exist there, or differs.
    """
    computed = [kept for kept in boundary if kept.given is None]
    made = {value.name for node in prepared.original.graph for value in node.outputs}
    mismatch = next((kept for kept in computed if kept.value not in made or not kept.samples_first), None)
    if mismatch is None:
        own = prepared.original.clone()
        values = {value.name: value for node in own.graph for value in node.outputs}
        own.graph.outputs.clear()
        own.graph.outputs.extend(values[kept.value] for kept in computed)
        RemoveUnused()(own)
        inputs = {old: feeds[new] for old, new in prepared.inputs if old in {v.name for v in own.graph.inputs}}
        expected = _run(own, [kept.value for kept in computed], inputs)
        actual = _run(frozen, [kept.name for kept in computed], feeds)
        pairs = zip(computed, expected, actual, strict=True)
        mismatch = next((kept for kept, first, second in pairs if not _same(first, second)), None)
    if mismatch is not None:
        raise ModelError(
            f"{prepared.model.name}: the frozen part ends at {mismatch.value!r}, which training has rewritten, so its "
            "int8 numbers have no place in the model. Select other layers, or use `frozen_precision='float32'`."
        )


def _run(graph: ir.Model, names: list[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = runtime.inference_session(graph, "the frozen part")
    taken = {value.name for value in session.get_inputs()}
    given = {name: array for name, array in feeds.items() if name in taken}
    return [np.asarray(array) for array in runtime.run_session(session, names, given, "the frozen part")]


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    if first.shape != second.shape:
        return False
    largest = max(1.0, float(np.abs(first).max(initial=0.0)))
    return bool(np.abs(first - second).max(initial=0.0) <= _TOLERANCE * largest)


def with_frozen_graph(prepared: Prepared, frozen: ir.Model, boundary: Sequence[Boundary]) -> ir.Model:
    """The original graph, with the frozen graph in place of the nodes that make its outputs.

    Args:
        prepared: the prepared model with its original graph.
        frozen: computes the same values, possibly in another precision.
        boundary: its outputs; `check_boundary_values` has accepted them.

    Raises:
        ModelError: the two graphs have no opset in common.
    """
    model, donor = prepared.original.clone(), frozen.clone()
    for each in (model, donor):
        raise_opset(each)
    if model.opset_imports.get("") != donor.opset_imports.get(""):
        lower_opset(model)
    if model.opset_imports.get("") != donor.opset_imports.get(""):
        raise ModelError(
            f"{prepared.model.name} needs opset {model.opset_imports.get('')}, its frozen part in int8 opset "
            f"{donor.opset_imports.get('')}. Use `frozen_precision='float32'`."
        )
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    outputs = {value.name: value for value in donor.graph.outputs}
    own = {value.name: value for value in graph.inputs}
    renamed = {new: old for old, new in prepared.inputs}
    made = {kept.value: outputs[kept.name] for kept in boundary if kept.given is None}
    given = {value: own[renamed[value.name or ""]] for value in donor.graph.inputs}
    donor.graph.outputs.clear()
    for name, value in made.items():
        values[name].replace_all_uses_with(value, replace_graph_outputs=True)
    for value, own_input in given.items():
        value.replace_all_uses_with(own_input)
    nodes, weights = list(donor.graph), list(donor.graph.initializers.values())
    donor.graph.remove(nodes)
    donor.graph.initializers.clear()
    first = next(iter(graph))
    graph.insert_before(first, nodes)
    RemoveUnused()(model)
    taken = {*graph.initializers, *own}
    taken |= {value.name for node in graph if node not in set(nodes) for value in node.outputs}
    for value in (*weights, *(value for node in nodes for value in node.outputs)):
        value.name = _unused_name(value.name or "value", taken)
    names = {node.name for node in graph if node not in set(nodes)}
    for node in nodes:
        node.name = _unused_name(node.name or node.op_type, names)
    for value in weights:
        if value.uses():
            graph.register_initializer(value)
    return model


def _unused_name(name: str, taken: set[str | None]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}/int8" if number == 1 else f"{name}/int8_{number}"
    taken.add(candidate)
    return candidate
