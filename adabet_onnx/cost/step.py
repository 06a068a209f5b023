"""The graph of a step, with its memory and multiply-adds at a batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..model.liveness import VIEWS
from ..model.uses import reads
from ..portable.memory import micro_batch, step_bytes
from ..portable.order import execution_order
from .graphs import StepGraph
from .memory import (
    Simulation,
    frozen_bytes,
    loaded_bytes,
    portable_bytes,
)
from .multiply_adds import multiply_adds
from .value_sizes import ValueSizes


@dataclass(frozen=True)
class StepWork:
    """Multiply-adds of the frozen pass, of the forward part after it and of the backward pass; and sizes in bytes.

    Attributes:
        saved: activations kept for the backward pass.
        let_go: features that the backward pass does not need. If they are computed in the step, because an earlier
            layer is trained as well, they are freed before the backward pass.
    """

    frozen: int
    forward: int
    back: int
    saved: int
    let_go: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes of the frozen pass and of a step after it.

    Attributes:
        loaded_frozen: what the frozen graph adds to a step if it stays loaded.
        least_frozen: lower bound of the frozen pass if fewer layers are trained.
    """

    frozen: int
    tail: int
    loaded_frozen: int = 0
    least_frozen: int = 0


class PredictedStep:
    """The graph of a step with everything that does not depend on the batch size.

    Args:
        graph: the graph of the step.
        packing: see `Simulation`.
    """

    def __init__(self, graph: StepGraph, *, packing: bool) -> None:
        self.graph = graph
        self.simulation = Simulation(graph.model, frugal=True, packing=packing)
        self._frozen = None
        if graph.frozen is not None:
            self._frozen = Simulation(graph.frozen, frugal=True, packing=packing, copied=True)
        self._order = execution_order(list(graph.model.graph))
        self._split = _split(self._order, graph)
        self._saved = _saved(self._order, self._split, graph)

    def work(self, batch: int) -> StepWork:
        """The work for this many samples."""
        graph, sizes = self.graph, ValueSizes(self.graph.model.graph, {}, batch)
        parts = (self._order[: self._split], self._order[self._split :])
        forward, back = (multiply_adds(nodes, sizes.shape) for nodes in parts)
        frozen = 0
        if graph.frozen is not None:
            frozen = multiply_adds(graph.frozen.graph, ValueSizes(graph.frozen.graph, {}, batch).shape)
        saved = sum(sizes.size(value) for value in self._saved)
        kept = sum(sizes.size(value) for value in self._saved if value.name in graph.data)
        return StepWork(frozen, forward, back, saved, max(0, graph.stored_bytes * batch - kept))

    def memory(self, batch: int) -> StepMemory:
        """The memory for this many samples with the portable backend."""
        graph, carried = self.graph, self.graph.update_bytes + self.graph.state_bytes
        tail = portable_bytes(self.simulation.parts(batch), carried, graph.large_bytes)
        if graph.frozen is None or self._frozen is None:
            return StepMemory(0, tail)
        micro = micro_batch(step_bytes(graph.frozen, 1), step_bytes(graph.model, batch), batch)
        parts, one = self._frozen.parts(micro), self._frozen.parts(1)
        frozen = frozen_bytes(parts, carried)
        least = frozen_bytes(one, 0) - graph.stored_bytes
        others = parts.inputs * (batch - micro) // micro  # inputs of the step's other samples
        return StepMemory(frozen, tail, loaded_bytes(parts) + others, least)


def _split(order: Sequence[ir.Node], step: StepGraph) -> int:
    """The number of nodes that run before the first one that needs the labels."""
    needing = (i for i, node in enumerate(order) for value in reads(node) if value and value.name == step.labels)
    return next(needing, len(order))


def _saved(order: Sequence[ir.Node], split: int, step: StepGraph) -> list[ir.Value]:
    """The data, and values computed from it before the loss, that are read after the loss; without the logits."""
    owner: dict[ir.Value, ir.Value] = {}
    made: set[ir.Value] = set()
    for node in order[:split]:
        inputs = [value for value in reads(node) if value is not None]
        made.update(value for value in inputs if value.name in step.data)
        if any(value in made for value in inputs):
            made.update(node.outputs)
        if node.op_type in VIEWS and inputs:
            owner[node.outputs[0]] = owner.get(inputs[0], inputs[0])
    read = (value for node in order[split:] for value in reads(node) if value is not None and value in made)
    return [value for value in dict.fromkeys(owner.get(v, v) for v in read) if value.name != step.logits]
