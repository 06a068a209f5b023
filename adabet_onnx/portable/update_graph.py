"""The graph of an optimizer's update alone, and the inputs that it shares with the graph of a step."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..model.prepare import Prepared
from .builder import Builder
from .names import StepTensor, TrainingGraphNames
from .opset import TARGET
from .optimizers import Updates
from .recipe import Recipe


def update_graph(prepared: Prepared, recipe: Recipe, names: TrainingGraphNames) -> ir.Model:
    """Write the optimizer alone; the gradients are inputs."""
    opset = max(prepared.graph.opset_imports.get("") or 0, TARGET)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="update")
    build = Builder(graph, opset=opset, allowed=recipe.allowed)
    rate, step = learning_rate_input(names), step_number_input(names)
    parameters = [float_input(tensor.input, tensor.shape) for tensor in names.parameters]
    gradients = [float_input(tensor.gradient, tensor.shape) for tensor in names.parameters]
    state = [float_input(tensor.input, tensor.shape) for tensor in names.moments]
    moments = by_parameter(names, state)
    updates = Updates(build, recipe.optimizer, rate, step)
    new: list[ir.Value] = []
    new_state: list[ir.Value] = []
    for tensor, value, gradient in zip(names.parameters, parameters, updates.clipped(gradients), strict=True):
        build.begin(f"{tensor.name}/update")
        changed, new_moments = updates.update(value, gradient, moments[tensor.name])
        new.append(changed)
        new_state += new_moments
    graph.extend(build.take())
    for value in build.initializers:
        graph.register_initializer(value)
    for name, value in zip(output_names((*names.parameters, *names.moments)), (*new, *new_state), strict=True):
        value.name = name
    graph.inputs.extend([*parameters, *gradients, *state, rate, step])
    graph.outputs.extend([*new, *new_state])
    return ir.Model(graph, ir_version=prepared.graph.ir_version)


def output_names(tensors: Sequence[StepTensor]) -> list[str]:
    """Names of the outputs that new values are returned by."""
    return [tensor.output for tensor in tensors]


def by_parameter(names: TrainingGraphNames, values: Sequence[ir.Value]) -> dict[str, list[ir.Value]]:
    """The moments' values, listed by the name of their parameter."""
    lists: dict[str, list[ir.Value]] = {tensor.name: [] for tensor in names.parameters}
    for tensor, value in zip(names.moments, values, strict=True):
        lists[tensor.parameter].append(value)
    return lists


def float_input(name: str, shape: Sequence[int]) -> ir.Value:
    """A float32 graph input."""
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def learning_rate_input(names: TrainingGraphNames) -> ir.Value:
    """The input of the learning rate: a single number; onnxruntime accepts shape (1,) as well."""
    return ir.Value(name=names.learning_rate, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))


def step_number_input(names: TrainingGraphNames) -> ir.Value:
    """The input of the step number."""
    return ir.Value(name=names.step, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
