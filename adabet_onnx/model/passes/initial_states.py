"""Make stored initial states of LSTM, GRU and RNN fit any batch size.

Exporters store them for the batch of the example. Zeros are the default of a node, so they are dropped; one state for
all samples is expanded to the batch at run time.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from ..constant_values import evaluate, varying
from ..shapes import BATCH, Shapes, infer_shapes

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_LENGTHS, _STATES = 4, {5: "initial_h", 6: "initial_c"}  # positions of inputs
_KEEPING_ZEROS = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_OTHER_BATCH = 7  # a batch size that no stored state has


class FreeInitialStates(ir.passes.InPlacePass):
    """Drop initial states of zeros, and expand others that are the same for all samples.

    A constant sequence_lens with the default value, all steps for each sample, is dropped too.

    Raises:
        ModelError: a stored state differs from sample to sample; the message names the node.

    Attributes:
        dropped: names of the nodes whose state was zeros.
        expanded: names of the nodes whose state is expanded to the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batch_is_open = False
        self.dropped: list[str] = []
        self.expanded: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph if node.op_type in RECURRENT and node.domain in ("", "ai.onnx")]
        known = _constants(model, nodes)
        shapes = infer_shapes(model, _OTHER_BATCH) if known else {}
        self._batch_is_open = any(BATCH in map(str, value.shape) for value in model.graph.inputs if value.shape)
        modified = False
        for node in nodes:
            for position, value in enumerate(node.inputs):
                if value is not None and position in _STATES and value not in known and _is_zeros(value):
                    node.replace_input_with(position, None)
                    self.dropped.append(node.name or "")
                    modified = True
                if value not in known or value is None:
                    continue
                if position == _LENGTHS:
                    modified |= _drop_lengths(node, known[value], shapes)
                elif position in _STATES:
                    modified |= self._free(node, position, value, known[value], shapes)
        self.dropped, self.expanded = (list(dict.fromkeys(names)) for names in (self.dropped, self.expanded))
        return ir.passes.PassResult(model, modified)

    def _free(self, node: ir.Node, position: int, value: ir.Value, state: np.ndarray, shapes: Shapes) -> bool:
        if not state.any():
            node.replace_input_with(position, None)
            self.dropped.append(node.name or "")
            return True
        axis = 0 if node.attributes.get_int("layout", 0) else 1
        x = node.inputs[0]
        if state.ndim != 3 or x is None or node.graph is None:
            return False
        extents = shapes.get(x.name or "")
        if self._batch_is_open and extents is not None and len(extents) == 3 and extents[axis] == state.shape[axis]:
            return False  # it fits any batch
        first = state.take([0], axis)
        if not np.array_equal(np.broadcast_to(first, state.shape), state):
            raise ModelError(
                f"node {node.name!r} ({node.op_type}) has a stored {_STATES[position]} of shape {list(state.shape)} "
                f"that differs between its {state.shape[axis]} samples, so it fits no other batch; expected is the "
                "same state for all samples. Make the state an input, or the same for all samples, and export again."
            )
        node.replace_input_with(position, _expanded(node, position, value, first, axis))
        self.expanded.append(node.name or "")
        return True


def _is_zeros(value: ir.Value) -> bool:
    """Whether a value consists of zeros, for example stored ones that are expanded."""
    node = value.producer()
    while node is not None and node.op_type in _KEEPING_ZEROS and node.domain in ("", "ai.onnx") and node.inputs[0]:
        value = node.inputs[0]
        node = value.producer()
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return tensor is not None and not tensor.numpy().any()


def _constants(model: ir.Model, nodes: list[ir.Node]) -> dict[ir.Value, np.ndarray]:
    """The states and lengths that are constant."""
    values = dict.fromkeys(
        value
        for node in nodes
        for position, value in enumerate(node.inputs)
        if value is not None and position in (_LENGTHS, *_STATES)
    )
    if not values:
        return {}
    changing = varying(model.graph)
    fixed = [value for value in values if value not in changing]
    stored = {
        value: tensor.numpy() for value in fixed if (tensor := ir.convenience.get_const_tensor(value)) is not None
    }
    computed = [value for value in fixed if value not in stored]
    return stored | (evaluate(model, computed) if computed else {})


def _drop_lengths(node: ir.Node, lengths: np.ndarray, shapes: Shapes) -> bool:
    x = node.inputs[0]
    extents = shapes.get(x.name or "") if x is not None else None
    axis = 1 if node.attributes.get_int("layout", 0) else 0
    if extents is None or len(extents) != 3 or not np.all(lengths == extents[axis]):
        return False
    node.replace_input_with(_LENGTHS, None)
    return True


def _expanded(node: ir.Node, position: int, value: ir.Value, first: np.ndarray, axis: int) -> ir.Value:
    """Expand a state to the batch of the node's first input, by nodes inserted before it."""
    graph, base = node.graph, f"{node.name}/{_STATES[position]}"
    assert isinstance(graph, ir.Graph)

    def constant(suffix: str, array: np.ndarray) -> ir.Value:
        initializer = ir.Value(name=f"{base}/{suffix}", const_value=ir.tensor(array, name=f"{base}/{suffix}"))
        graph.register_initializer(initializer)
        return initializer

    def apply(op_type: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        new = ir.node(op_type, list(inputs), attributes, name=f"{base}/{op_type.lower()}")
        new.outputs[0].name = f"{new.name}:0"
        graph.insert_before(node, new)
        return new.outputs[0]

    if value.shape is None or [*value.shape] != [*first.shape]:
        value = constant("one", first)
    one = constant("ones", np.ones(1, np.int64))
    batch = apply("Gather", apply("Shape", node.inputs[0]), constant("axis", np.array([axis], np.int64)), axis=0)
    extents = [one, one, one]
    extents[axis] = batch
    return apply("Expand", value, apply("Concat", *extents, axis=0))
