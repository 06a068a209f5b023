"""Names of the inputs and outputs of the training graphs; they are the same in all graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..model.dims import dims
from ..model.prepare import Prepared
from .builder import Builder
from .optimizers import Optimizer


@dataclass(frozen=True)
class StepTensor:
    """A parameter or a state tensor that a step updates.

    Attributes:
        name: name of the parameter or state tensor.
        input: name of the graph input for its value.
        output: name of the graph output for its new value.
        shape: its shape.
        parameter: the parameter that a state tensor belongs to; for a parameter its own name.
        gradient: name of a parameter's gradient in the gradient graph; "" for state.
        moves: whether the forward pass updates it (running statistics) rather than the optimizer.
    """

    name: str
    input: str
    output: str
    shape: tuple[int, ...]
    parameter: str
    gradient: str = ""
    moves: bool = False


@dataclass(frozen=True)
class TrainingGraphNames:
    """Names of the inputs and outputs of the graphs, the same in all of them."""

    labels: str
    learning_rate: str
    step: str
    loss: str
    logits: str
    parameters: tuple[StepTensor, ...]
    state: tuple[StepTensor, ...]

    @property
    def moments(self) -> tuple[StepTensor, ...]:
        """The optimizer's state."""
        return tuple(tensor for tensor in self.state if not tensor.moves)

    @property
    def statistics(self) -> tuple[StepTensor, ...]:
        """Running statistics."""
        return tuple(tensor for tensor in self.state if tensor.moves)


def name_all(
    build: Builder, prepared: Prepared, logits: ir.Value, loss: str, optimizer: Optimizer, moving: Sequence[ir.Value]
) -> TrainingGraphNames:
    """Choose names that are unused in the graph.

    Args:
        build: knows the names in the graph.
        prepared: the trainable graph.
        logits: its output.
        loss: one of vocabulary.LOSSES.
        optimizer: the optimizer whose state is named.
        moving: running statistics that training updates.
    """
    labels = build.unique("labels" if loss == "cross-entropy" else "target")
    rate, step_name, loss_name = build.unique("learning_rate"), build.unique("step"), build.unique("loss")
    parameters, state = [], []
    for name in in_order(prepared):
        tensor = prepared.graph.graph.initializers[name].const_value
        assert tensor is not None
        shape = tuple(int(extent) for extent in tensor.shape.numpy())
        output, gradient = build.unique(f"{name}.new"), build.unique(f"{name}.gradient")
        parameters.append(StepTensor(name, name, output, shape, name, gradient))
        for moment in optimizer.moments:
            own = build.unique(f"{name}.{moment}")
            state.append(StepTensor(own, own, build.unique(f"{own}.new"), shape, name))
    for value in moving:
        own = value.name or ""
        shape = tuple(d for d in dims(value) if isinstance(d, int))
        state.append(StepTensor(own, own, build.unique(f"{own}.new"), shape, own, moves=True))
    return TrainingGraphNames(labels, rate, step_name, loss_name, logits.name or "", tuple(parameters), tuple(state))


def in_order(prepared: Prepared) -> list[str]:
    """The trained parameters in the order of their first use in the graph."""
    at = {node: i for i, node in enumerate(prepared.graph.graph)}
    values = prepared.graph.graph.initializers
    first = {name: min((at.get(node, 0) for node, _ in values[name].uses()), default=0) for name in prepared.trainable}
    return sorted(prepared.trainable, key=first.__getitem__)
