"""Build the graphs of a package from those of an artifact folder, with names and order as the format defines.

The prediction graph is the model with the trained tensors as inputs. The personal model has these tensors in a separate
file (ONNX external data), so that one small file personalises a deployed model.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from pathlib import Path

import onnx_ir as ir

from ..errors import ModelError
from ..model.dims import count, dims_or_none
from ..model.passes.slices import TrainSlices
from ..model.passes.unused import RemoveUnused
from ..training.manifest import Manifest
from .tensors import StoredTensor, selected


def frozen_graph(manifest: Manifest) -> ir.Model | None:
    """The graph that runs once per sample, with the model's input names; None if nothing is frozen."""
    given = {str(entry["name"]) for entry in manifest.boundary if entry["input"] is not None}
    model = ir.load(manifest.file("frozen"))
    graph = model.graph
    outputs = [value for value in graph.outputs if value.name not in given]
    if not outputs:
        return None
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    RemoveUnused()(model)
    _drop_inputs(graph)
    names = {new: old for old, new in manifest.feed_names}
    for value in graph.inputs:
        value.name = names[value.name or ""]
    return model


def step_graph(manifest: Manifest, tensors: Sequence[StoredTensor]) -> ir.Model:
    """The training step, with inputs and outputs in the order of the format."""
    names = manifest.graph_names
    inputs = [*_boundary(manifest), names["labels"], *(tensor.input for tensor in tensors)]
    outputs = [names["loss"], names["logits"], *(tensor.output for tensor in tensors)]
    return _in_order(manifest, "step", [*inputs, names["learning_rate"], names["step"]], outputs)


def evaluation_graph(manifest: Manifest, tensors: Sequence[StoredTensor]) -> ir.Model:
    """The graph for loss and logits, with inputs and outputs in the order of the format."""
    names = manifest.graph_names
    inputs = [*_boundary(manifest), names["labels"], *(tensor.input for tensor in selected(tensors))]
    return _in_order(manifest, "evaluation", inputs, [names["loss"], names["logits"]])


def prediction_graph(manifest: Manifest, tensors: Sequence[StoredTensor]) -> ir.Model:
    """The graph that computes the model's outputs from its inputs and the trained tensors."""
    model = _with_parts(manifest, tensors)
    graph = model.graph
    taken = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    for tensor in selected(tensors):
        value = graph.initializers.pop(tensor.name)
        if tensor.input != tensor.name and tensor.input in taken | set(graph.initializers):
            raise ModelError(f"{manifest.folder}: two values of the model would be called {tensor.input!r}.")
        value.const_value, value.name = None, tensor.input
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(tensor.shape)
        graph.inputs.append(value)
    return model


def personal_graph(manifest: Manifest, tensors: Sequence[StoredTensor], folder: Path, file: str) -> ir.Model:
    """The model with the trained tensors as external data in the same folder."""
    model = _with_parts(manifest, tensors)
    for tensor in selected(tensors):
        value = model.graph.initializers[tensor.name]
        shape = ir.Shape(tensor.shape)
        value.const_value = ir.ExternalTensor(
            file, tensor.offset, tensor.bytes, ir.DataType.FLOAT, shape=shape, name=tensor.name, base_dir=folder
        )
        value.dtype, value.shape = ir.DataType.FLOAT, shape
    return model


def _with_parts(manifest: Manifest, tensors: Sequence[StoredTensor]) -> ir.Model:
    """The model with trained tensors as separate initializers, split from the rest where only channels are trained."""
    model = manifest.model()
    TrainSlices({tensor.name: tensor.part for tensor in tensors if tensor.part is not None})(model)
    missing = [tensor.name for tensor in selected(tensors) if tensor.name not in model.graph.initializers]
    if missing:
        raise ModelError(f"{manifest.folder}: the model has no tensor {missing[0]!r}. Make the artifacts again.")
    return model


def _boundary(manifest: Manifest) -> list[str]:
    return [str(entry["name"]) for entry in manifest.boundary]


def _in_order(manifest: Manifest, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """A graph of the folder with its inputs and outputs in this order."""
    model = ir.load(manifest.file(name))
    _reorder(model.graph.inputs, inputs)
    _reorder(model.graph.outputs, outputs)
    return model


def _reorder(values: MutableSequence[ir.Value], names: Sequence[str]) -> None:
    place = {name: index for index, name in enumerate(names)}
    ordered = sorted(values, key=lambda value: place[value.name or ""])
    values.clear()
    values.extend(ordered)


def _drop_inputs(graph: ir.Graph) -> None:
    used = [value for value in graph.inputs if value.uses()]
    graph.inputs.clear()
    graph.inputs.extend(used)


def fix_samples(model: ir.Model) -> None:
    """Fix the batch size of a graph to one sample, in place."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        shape = dims_or_none(value)
        if shape is not None:
            value.shape = ir.Shape([count((extent,), 1) for extent in shape])
    for node in model.graph:
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
