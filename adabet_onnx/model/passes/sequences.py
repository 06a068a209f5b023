"""Replace sequences of tensors inside the graph by Split, Squeeze and Concat.

torch writes a split or a chunk as SplitToSequence with a SequenceAt for each part. A sequence whose tensors are all
known needs no node: its readers can use the tensors directly.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..constant_values import evaluate, varying
from ..shapes import Shapes, infer_shapes, measured_shapes
from ..uses import input_of, subgraphs
from .constants import constants_of_shapes
from .unused import RemoveUnused

SEQUENCES = frozenset(
    {
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SplitToSequence",
    }
)
_BATCHES = (2, 3)
_AXES_AS_INPUT = 13  # the opset in which attributes of Split, Squeeze and Unsqueeze became inputs
_MOST_PARTS = 4096
_CONSTANT = "Use a constant there in the source (torch: a plain int, or torch.stack and gather)"


class _UnknownSequenceError(Exception):
    """The reason why a sequence is unknown, and the remedy."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


class DecomposeSequences(ir.passes.InPlacePass):
    """Replace operations on sequences by operations on their tensors.

    Raises:
        ModelError: a sequence, or a position in it, is not the same in every run; the message names the node.

    Attributes:
        rewritten: names of the replaced nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rewritten: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph.all_nodes() if is_sequence_node(node)]
        if not nodes:
            return ir.passes.PassResult(model, False)
        walk = _SequenceWalk(model)
        walk.walk(model.graph)
        RemoveUnused()(model)
        remaining = [node for node in model.graph.all_nodes() if is_sequence_node(node)]
        for node in sorted(remaining, key=lambda node: node not in walk.unknown):  # nodes with a known reason first
            unknown = walk.unknown.get(node) or _UnknownSequenceError(
                "produces a sequence that another node needs", _CONSTANT
            )
            raise ModelError(
                f"node {node.name!r} ({node.op_type}) {unknown.why}. Sequences are supported if their tensors, and the "
                f"positions in them, are the same in every run. {unknown.remedy} and export again."
            )
        self.rewritten = [node.name or "" for node in nodes]
        return ir.passes.PassResult(model, True)


def is_sequence_node(node: ir.Node) -> bool:
    """Whether an operator produces or reads a sequence or an optional value."""
    return node.op_type in SEQUENCES and node.domain in ("", "ai.onnx")


class _SequenceWalk:
    """The traversal of a graph.

    Attributes:
        unknown: nodes whose sequence is unknown, with the reason.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._opset = model.opset_imports.get("") or 0
        self._known: dict[ir.Value, list[ir.Value]] = {}
        self._unnamed: set[ir.Value] = set()  # parts that may take over the name of the value they replace
        self._shapes: list[Shapes] | None = None
        self._used_names = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        self._used_names |= set(model.graph.initializers)
        self.unknown: dict[ir.Node, _UnknownSequenceError] = {}

    def walk(self, graph: ir.Graph) -> None:
        """Rewrite the nodes of a graph and of its subgraphs, in order."""
        for node in list(graph):
            for inner in subgraphs(node):
                self.walk(inner)
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Identity" and node.inputs[0] in self._known:
                self._known[node.outputs[0]] = self._known[node.inputs[0]]
            elif is_sequence_node(node):
                try:
                    self._rewrite(node, graph)
                except _UnknownSequenceError as unknown:
                    self.unknown[node] = unknown

    def _rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        result = node.outputs[0]
        if node.op_type == "SequenceEmpty":
            self._known[result] = []
        elif node.op_type == "SequenceConstruct":
            self._known[result] = [value for value in node.inputs if value is not None]
        elif node.op_type == "SplitToSequence":
            self._known[result] = self._parts(node, graph)
        elif node.op_type == "SequenceInsert":
            parts = self._sequence(node)
            position = self._index(node, 2, len(parts), len(parts) + 1)
            value = node.inputs[1]
            assert value is not None
            self._known[result] = [*parts[:position], value, *parts[position:]]
        elif node.op_type == "SequenceErase":
            parts = self._sequence(node)
            position = self._index(node, 1, len(parts) - 1, len(parts))
            self._known[result] = [*parts[:position], *parts[position + 1 :]]
        elif node.op_type == "SequenceAt":
            parts = self._sequence(node)
            self._replace_output(graph, node, parts[self._index(node, 1, None, len(parts))])
        elif node.op_type == "SequenceLength":
            length = np.array(len(self._sequence(node)), np.int64)
            self._replace_output(graph, node, self._constant(graph, f"{node.name}/length", length))
        elif node.op_type == "ConcatFromSequence":
            self._replace_output(graph, node, self._joined(node, graph))
        else:
            raise _UnknownSequenceError("uses optional values or maps a sequence", "Avoid them in the source")

    def _sequence(self, node: ir.Node) -> list[ir.Value]:
        """The tensors of the sequence that a node reads."""
        value = node.inputs[0]
        if value not in self._known or value is None:
            producer = None if value is None else value.producer()
            origin = "is an input" if producer is None else f"comes from node {producer.name!r} ({producer.op_type})"
            raise _UnknownSequenceError(
                f"reads a sequence that {origin}, so it may differ from run to run",
                "Avoid a list that is an input or grows in a loop (torch: allocate a tensor beforehand)",
            )
        return self._known[value]

    def _index(self, node: ir.Node, position: int, default: int | None, count: int) -> int:
        """A position in a sequence of length ``count``, counted from the start."""
        position_input = input_of(node, position)
        if position_input is None and default is not None:
            index = default
        else:
            array = None if position_input is None else self._array(position_input)
            if array is None or array.size != 1:
                raise _UnknownSequenceError(
                    "takes a position in a sequence from a value that varies between runs", _CONSTANT
                )
            index = int(array.reshape(-1)[0])
        if not -count <= index < count:
            raise _UnknownSequenceError(
                f"takes position {index} of a sequence of length {count}", "Correct it in the source"
            )
        return index % count

    def _parts(self, node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
        x = node.inputs[0]
        assert x is not None
        axis = node.attributes.get_int("axis", 0)
        sizes_input = input_of(node, 1)
        sizes = self._sizes(x, axis, sizes_input)
        if not 0 < len(sizes) <= _MOST_PARTS:
            raise _UnknownSequenceError(
                f"produces {len(sizes)} tensors; 1 to {_MOST_PARTS} are supported", "Split into larger parts"
            )
        base = self._free(node.name or node.op_type)
        split = ir.node("Split", [x], {"axis": axis}, name=base, num_outputs=len(sizes))
        if self._opset < _AXES_AS_INPUT:
            split.attributes["split"] = ir.AttrInt64s("split", sizes)
        else:
            split.resize_inputs(2)
            split.replace_input_with(1, self._constant(graph, f"{base}/sizes", np.array(sizes, np.int64)))
        for index, value in enumerate(split.outputs):
            value.name, value.type = self._free(f"{base}/part_{index}"), x.type
        graph.insert_before(node, split)
        parts = list(split.outputs)
        if sizes_input is None and not node.attributes.get_int("keepdims", 1):
            parts = [self._moved(graph, node, "Squeeze", value, axis) for value in parts]
        self._unnamed.update(parts)
        return parts

    def _sizes(self, x: ir.Value, axis: int, sizes_input: ir.Value | None) -> list[int]:
        array = np.array(1) if sizes_input is None else self._array(sizes_input)
        if array is None:
            raise _UnknownSequenceError("splits a value into sizes that vary between runs", _CONSTANT)
        if array.ndim == 1:
            return [int(size) for size in array]
        size, total = int(array.reshape(-1)[0]), self._extent(x, axis)
        if size <= 0:
            raise _UnknownSequenceError(f"splits a value into tensors of size {size}", "Correct it in the source")
        return [min(size, total - start) for start in range(0, total, size)]

    def _extent(self, x: ir.Value, axis: int) -> int:
        """The extent of a value along an axis, which must not depend on the batch."""
        name = x.name or ""
        for shapes in (self._shapes or self._infer(), self._infer(), None):
            if shapes is None:
                shapes = self._measure(x)
            if all(name in by_name for by_name in shapes):
                first, second = (by_name[name] for by_name in shapes)
                if -len(first) <= axis < len(first) and first[axis] == second[axis]:
                    return first[axis]
                break
        raise _UnknownSequenceError(
            f"splits {name!r} along axis {axis}, which is the batch or has an unknown length",
            "Split along another axis, or into a list of sizes,",
        )

    def _infer(self) -> list[Shapes]:
        self._shapes = [infer_shapes(self._model, batch) for batch in _BATCHES]
        return self._shapes

    def _measure(self, x: ir.Value) -> list[Shapes]:
        node = x.producer()
        if node is None or node.graph is not self._model.graph:
            return [{}]
        try:
            return [measured_shapes(self._model, [x.name or ""], batch) for batch in _BATCHES]
        except ModelError:
            return [{}]

    def _array(self, value: ir.Value) -> np.ndarray | None:
        """The array of a value that is the same in every run, else None."""
        tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
        if tensor is not None:
            return tensor.numpy()
        node = value.producer()
        if node is None or node.graph is not self._model.graph:
            return None
        evaluated = {} if value in varying(self._model.graph) else evaluate(self._model, [value])
        return (evaluated or constants_of_shapes(self._model, [value])).get(value)

    def _joined(self, node: ir.Node, graph: ir.Graph) -> ir.Value:
        parts = self._sequence(node)
        if not parts:
            raise _UnknownSequenceError("joins a sequence without tensors", "Correct it in the source")
        axis = node.attributes.get_int("axis", 0)
        if node.attributes.get_int("new_axis", 0):
            parts = [self._moved(graph, node, "Unsqueeze", value, axis) for value in parts]
        joined = self._add(graph, node, ir.node("Concat", parts, {"axis": axis}), parts[0])
        self._unnamed.add(joined)
        return joined

    def _moved(self, graph: ir.Graph, node: ir.Node, op_type: str, value: ir.Value, axis: int) -> ir.Value:
        if self._opset < _AXES_AS_INPUT:
            return self._add(graph, node, ir.node(op_type, [value], {"axes": [axis]}), value)
        axes = self._constant(graph, f"{node.name}/axes", np.array([axis], np.int64))
        return self._add(graph, node, ir.node(op_type, [value, axes]), value)

    def _add(self, graph: ir.Graph, node: ir.Node, new: ir.Node, like: ir.Value) -> ir.Value:
        """Insert a node before another one; its result gets the type of ``like``."""
        new.name = self._free(f"{node.name}/{new.op_type.lower()}")
        new.outputs[0].name, new.outputs[0].type = self._free(f"{new.name}:0"), like.type
        graph.insert_before(node, new)
        return new.outputs[0]

    def _constant(self, graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
        name = self._free(name)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        while name in self._used_names:
            name += "'"
        self._used_names.add(name)
        return name

    def _replace_output(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
        """Replace a node's output by a value, which takes over its name."""
        output = node.outputs[0]
        maker = value.producer()
        if value in self._unnamed and maker is not None and maker.graph is graph:
            self._unnamed.discard(value)
        else:
            copy = ir.node("Identity", [value], name=self._free(f"{node.name}/identity"))
            copy.outputs[0].type = value.type
            graph.insert_before(node, copy)
            value = copy.outputs[0]
        name, shape = output.name, output.shape
        if value.type is None:
            value.type = output.type
        output.name = None
        value.name = name
        value.shape = shape if value.type is not None else None  # a shape without a type cannot be serialised
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
