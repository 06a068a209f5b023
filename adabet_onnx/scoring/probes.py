"""Graph surgery: turns layers' activations, or what the score needs of them, into outputs of the graph.

Three kinds of probe:

* ``activations``: the activation itself becomes an output, with its name in the graph. All of them together take
  memory that grows with depth. (If the batch is not its first axis, or is merged with another axis, the output is
  ``LAYER/activation`` of shape (N, D).)
* ``gram``: the centred Gram matrix (X - mean)(X - mean)^T of each activation X, flattened to (N, D), is computed
  inside the graph, and only that (N, N) matrix becomes an output, named ``LAYER/gram``. Distances between the points
  follow from it. Centring keeps float32 exact enough when activations lie far from the origin. See `gram`.
* ``sketch``: k numbers for each sample, ``LAYER/sketch`` (N, K), whose distances approximate those of the activation,
  and equal them if it has at most k elements. A sample's sketch does not depend on other samples, so a batch may
  have any size, and the distances of all samples are computed outside the graph. See `sketch`.

The probed file names its outputs in metadata_props under ``adabet_onnx.probes``: a JSON object from layer name to
output name. For sketches, ``adabet_onnx.sketch`` holds a JSON object with their ``size`` and the ``seed`` of their
signs; sketches of the same size and seed can be compared. The file accepts any batch size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..errors import UsageError
from ..model.channels import Channels
from ..model.error_context import guarded
from ..model.layers import Layer
from ..model.metadata import set_metadata
from ..model.open import Model
from ..model.passes.pads import MergePads
from ..model.passes.unused import RemoveUnused
from ..vocabulary import PROBES
from .gram import GramProbes
from .sketch import SKETCH, SketchProbes


@guarded("probing")
def add_probes(
    model: Model, kind: str, *, group: int = 32, sketch: int = SKETCH, seed: int = 0
) -> tuple[ir.Model, dict[str, str]]:
    """Copy the graph and replace its outputs by the probes of all layers, in model order.

    Nodes that only the old output needed are removed.

    Args:
        model: the opened model, which is not changed.
        kind: activations, gram or sketch.
        group: for gram, the batch size that its blocks are optimised for; others also work.
        sketch: for sketch, k: the maximum size of a sketch.
        seed: for sketch, random seed of its signs.

    Returns:
        The probed graph, and the output name of each layer.

    Raises:
        UsageError: the kind is unknown.
    """
    if kind not in PROBES:
        raise UsageError(f"unknown kind of probe {kind!r}: choose one of {', '.join(PROBES)}.")
    if sketch < 1:
        raise UsageError(f"a sketch must have at least 1 number, not {sketch}.")
    probed, activations = _with_activations(model, model.layers)
    if kind == "gram":
        outputs = GramProbes(probed.graph, group).add(activations)
    elif kind == "sketch":
        sketches = SketchProbes(probed.graph, sketch, seed).add(activations)
        outputs = {name: made.sketch for name, made in sketches.items()}
        set_metadata(probed, "sketch", {"size": sketch, "seed": seed})
    else:
        outputs = activations
    probed.graph.outputs.extend(dict.fromkeys(outputs.values()))
    names = {name: value.name or "" for name, value in outputs.items()}
    set_metadata(probed, "probes", names)
    return probed, names


@dataclass(frozen=True)
class SketchGraph:
    """A graph with sketches of some layers.

    Attributes:
        model: the graph.
        outputs: for each layer, the name of its sketch (N, K).
        samples: for each layer, the value (N, C, ...) for computing the mean and variance of its channels.
    """

    model: ir.Model
    outputs: dict[str, str]
    samples: dict[str, ir.Value]


@guarded("probing")
def add_sketches(model: Model, layers: Collection[str], *, sketch: int, seed: int) -> SketchGraph:
    """Copy the graph and replace its outputs by the sketches of some layers, in model order.

    Args:
        model: the opened model, which is not changed.
        layers: names of the layers.
        sketch: k: the maximum size of a sketch.
        seed: random seed of the signs.
    """
    probed, activations = _with_activations(model, [layer for layer in model.layers if layer.name in layers])
    made = SketchProbes(probed.graph, sketch, seed).add(activations)
    probed.graph.outputs.extend(each.sketch for each in made.values())
    return SketchGraph(
        probed,
        {name: each.sketch.name or "" for name, each in made.items()},
        {name: each.sample for name, each in made.items()},
    )


@guarded("probing")
def add_channel_probes(
    model: Model, channels: Mapping[str, Channels], *, group: int = 32
) -> tuple[ir.Model, dict[str, str]]:
    """Copy the graph and replace its outputs by the centred Gram matrices of single channels, (C, N, N) for each layer.

    Args:
        model: the opened model, which is not changed.
        channels: the channels of the layers to probe.
        group: the batch size that blocks are optimised for; others also work.

    Returns:
        The probed graph, and the output name of each layer; a Conv and the BatchNormalization after it share one.
    """
    probed, activations = _with_activations(model, [layer for layer in model.layers if layer.name in channels])
    outputs = GramProbes(probed.graph, group).add_channels(activations, channels)
    probed.graph.outputs.extend(dict.fromkeys(outputs.values()))
    return probed, {name: value.name or "" for name, value in outputs.items()}


def _with_activations(model: Model, layers: Sequence[Layer]) -> tuple[ir.Model, dict[str, ir.Value]]:
    """Copy the graph without its outputs and the nodes only they needed; also return the layers' activations in it."""
    probed = model.graph.clone()
    graph = probed.graph
    values = {value.name: value for node in graph for value in node.outputs}
    activations = {layer.name: _by_sample(graph, layer, values[layer.activation]) for layer in layers}
    graph.outputs.clear()
    graph.outputs.extend(dict.fromkeys(activations.values()))
    MergePads()(probed)  # onnxruntime only does so if a single Conv is the only reader of the Pad
    RemoveUnused()(probed)
    graph.outputs.clear()
    return probed, activations


def _by_sample(graph: ir.Graph, layer: Layer, value: ir.Value) -> ir.Value:
    """Return the activation with the batch as its first axis and with a shape annotation."""
    assert layer.activation_shape is not None
    assert layer.activation_size is not None
    shape: tuple[int, ...] = layer.activation_shape
    if layer.batch_axis or layer.batch_merged:
        name, shape = f"{layer.name}/activation", (layer.activation_size,)
        producer = value.producer()
        assert producer is not None
        rank, axis, added = len(layer.activation_shape) + (not layer.batch_merged), layer.batch_axis, []
        if layer.before_batch > 1:  # tokens * batch: split the two, so that the batch can be moved to the front
            rest = layer.activation_shape
            apart = (*rest[:axis], layer.before_batch, -1, rest[axis] // layer.before_batch, *rest[axis + 1 :])
            added.append(_reshaped(graph, value, apart, f"{name}/apart"))
            value, rank, axis = added[-1].outputs[0], rank + 2, axis + 1
        order = [axis, *(other for other in range(rank) if other != axis)]
        if order != sorted(order):  # (onnxruntime fuses any Transpose of two axes into a Gemm, as if it swapped them)
            added.append(ir.node("Transpose", [value], {"perm": order}, name=f"{name}/transpose"))
            value = added[-1].outputs[0]
            value.name = f"{name}/transposed"
        added.append(_reshaped(graph, value, (-1, *shape), name))
        graph.insert_after(producer, added)
        value = added[-1].outputs[0]
    value.dtype = ir.DataType.FLOAT
    value.shape = ir.Shape(["N", *shape])
    return value


def _reshaped(graph: ir.Graph, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Node:
    """Create a Reshape node with its target shape; the node is not yet in the graph."""
    target = ir.Value(name=f"{name}/shape", const_value=ir.tensor(np.array(shape, np.int64)))
    graph.register_initializer(target)
    node = ir.node("Reshape", [value, target], name=f"{name}/reshape")
    node.outputs[0].name = name
    return node
