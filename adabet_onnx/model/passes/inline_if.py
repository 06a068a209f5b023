"""Replace every If with a constant condition by the branch that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ..constant_values import evaluate, varying
from ..uses import detach
from .unused import RemoveUnused

# Given computed conditions, returns the values of those that are known.
Known = Callable[[ir.Model, Sequence[ir.Value]], Mapping[ir.Value, np.ndarray]]


def constants(model: ir.Model, conditions: Sequence[ir.Value]) -> dict[ir.Value, np.ndarray]:
    """The values of the conditions that depend on no input, whatever operators compute them."""
    changing = varying(model.graph)
    return evaluate(model, [value for value in conditions if value not in changing])


class InlineConstantIfs(ir.passes.InPlacePass):
    """Replace each If of the graph with a constant condition by the nodes of its branch, until none is left.

    The outputs of the If keep their names; names inside the branch are changed if they are in use.

    Args:
        known: returns the values of computed conditions.

    Attributes:
        inlined: names of the replaced nodes.
    """

    def __init__(self, known: Known = constants) -> None:
        super().__init__()
        self._known = known
        self.inlined: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        before = len(self.inlined)
        while True:
            decided = self._decided(model)
            if not decided:
                break
            names = _Names(model)
            for node, branch in decided:
                _inline(model.graph, node, branch, names)
                self.inlined.append(node.name or "")
            RemoveUnused()(model)
            common.NameFixPass()(model)  # names from nested graphs may now clash
        return ir.passes.PassResult(model, len(self.inlined) > before)

    def _decided(self, model: ir.Model) -> list[tuple[ir.Node, ir.Graph]]:
        """The Ifs with a constant condition, and the branch that each takes."""
        ifs = [node for node in model.graph if node.op_type == "If" and node.domain in ("", "ai.onnx")]
        conditions = {node: value for node in ifs if node.inputs and (value := node.inputs[0]) is not None}
        arrays = {
            value: tensor.numpy()
            for value in conditions.values()
            if (tensor := ir.convenience.get_const_tensor(value)) is not None and not _is_fed(value)
        }
        undecided = list(
            dict.fromkeys(value for value in conditions.values() if value not in arrays and not _is_fed(value))
        )
        if undecided:
            arrays |= self._known(model, undecided)
        decided = []
        for node, value in conditions.items():
            branch = _branch(node, arrays.get(value))
            if branch is not None:
                decided.append((node, branch))
        return decided


def _is_fed(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_initializer()


def _branch(node: ir.Node, condition: np.ndarray | None) -> ir.Graph | None:
    if condition is None or condition.size != 1:
        return None
    attribute = node.attributes.get("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    if attribute is None or attribute.type != ir.AttributeType.GRAPH:
        return None
    branch = attribute.as_graph()
    return branch if len(branch.outputs) == len(node.outputs) and not branch.inputs else None


class _Names:
    """Names of values and nodes in use in the graph."""

    def __init__(self, model: ir.Model) -> None:
        graph = model.graph
        self._values = {value.name for value in (*graph.inputs, *graph.initializers.values())}
        self._values |= {value.name for node in graph for value in node.outputs}
        self._nodes = {node.name for node in graph}

    def free_value(self, name: str, inside: str) -> str:
        return _free(name, inside, self._values)

    def free_node(self, name: str, inside: str) -> str:
        return _free(name, inside, self._nodes)


def _free(name: str, inside: str, used: set[str | None]) -> str:
    """The name itself, or prefixed by that of the node that contained it if it is in use."""
    if name in used:
        name = f"{inside}/{name}"
    while name in used:
        name += "'"
    used.add(name)
    return name


def _inline(graph: ir.Graph, node: ir.Node, branch: ir.Graph, names: _Names) -> None:
    inside = node.name or node.op_type
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[value.name or ""]
        value.name = names.free_value(value.name or "constant", inside)
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    produced: set[ir.Value] = set()
    for inner in nodes:
        inner.name = names.free_node(inner.name or inner.op_type, inside)
        for value in inner.outputs:
            produced.add(value)
            value.name = names.free_value(value.name, inside) if value.name else value.name
    graph.insert_before(node, nodes)
    for output, result in zip(node.outputs, results, strict=True):
        if result not in produced:  # an outer value, an initializer, or returned twice
            copy = ir.node("Identity", [result], name=names.free_node(f"{inside}/identity", inside))
            graph.insert_before(node, copy)
            result = copy.outputs[0]
        produced.discard(result)
        _take_over(output, result)
    detach(node)
    graph.remove(node, safe=True)


def _take_over(output: ir.Value, result: ir.Value) -> None:
    """Replace a value by another, which takes over its name."""
    name = output.name
    output.name = None
    if name:
        result.name = name
    first, second = (output, result) if output.is_graph_output() else (result, output)
    result.type = first.type if first.type is not None else second.type
    result.shape = first.shape if first.shape is not None else second.shape
    if result.type is None:
        result.shape = None  # a shape without a type cannot be serialised
    output.replace_all_uses_with(result, replace_graph_outputs=True)
