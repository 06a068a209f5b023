"""Graph surgery: make layers' activations, or what the score needs of them, outputs of the graph.

Three kinds of probe:

* ``activations``: the activation itself becomes an output, named as it is in the graph. All of them at once cost
  memory that grows with depth. (Where the batch is not its first axis, or is merged with another, the output is
  ``LAYER/activation`` of shape (N, D).)
* ``gram``: the centred Gram matrix (X - mean)(X - mean)^T of each activation X, flattened to (N, D), is computed
  inside the graph, and only that (N, N) matrix becomes an output, named ``LAYER/gram``. Distances between the points
  follow from it. Centring keeps float32 exact enough when activations lie far from the origin. How it is computed
  stands in `gram`.
* ``sketch``: k numbers for each sample, ``LAYER/sketch`` (N, K), whose distances are nearly those of the activation,
  and exactly those where it has no more than k elements. Those of a sample do not depend on the others, so a batch may
  have any size, and distances of all samples follow outside. How it is computed stands in `sketch`.

The probed file names its outputs in metadata_props under ``adabet_onnx.probes``: a JSON object from layer name to
output name. Of sketches it also says how large and with which seed of their signs, under ``adabet_onnx.sketch``: a JSON
object with ``size`` and ``seed``; sketches of one size and seed can be compared. It takes any batch size.
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
    """A copy of the graph whose outputs are the probes of all layers, in model order.

    What only the old output needed is dropped.

    Args:
        model: the opened model; it is not changed.
        kind: activations, gram or sketch.
        group: for gram, the batch size that its blocks are sized for; others work too.
        sketch: for sketch, k: the most numbers of one sketch.
        seed: for sketch, of its signs.

    Returns:
        The probed graph, and the output name of each layer.

    Raises:
        UsageError: an unknown kind.
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
        outputs: of each layer, the name of its sketch (N, K).
        samples: of each layer, the value (N, C, ...) that the mean and variance of its channels follow from.
    """

    model: ir.Model
    outputs: dict[str, str]
    samples: dict[str, ir.Value]


@guarded("probing")
def add_sketches(model: Model, layers: Collection[str], *, sketch: int, seed: int) -> SketchGraph:
    """A copy of the graph whose outputs are the sketches of some layers, in model order.

    Args:
        model: the opened model; it is not changed.
        layers: names of the layers.
        sketch: k: the most numbers of one sketch.
        seed: of the signs.
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
    """A copy of the graph whose outputs are the centred Gram matrices of single channels, (C, N, N) for each layer.

    Args:
        model: the opened model; it is not changed.
        channels: of the layers that are wanted.
        group: the batch size that blocks are sized for; others work too.

    Returns:
        The probed graph, and the output name of each layer; a Conv and the BatchNormalization after it share one.
    """
    probed, activations = _with_activations(model, [layer for layer in model.layers if layer.name in channels])
    outputs = GramProbes(probed.graph, group).add_channels(activations, channels)
    probed.graph.outputs.extend(dict.fromkeys(outputs.values()))
    return probed, {name: value.name or "" for name, value in outputs.items()}


def _with_activations(model: Model, layers: Sequence[Layer]) -> tuple[ir.Model, dict[str, ir.Value]]:
    """A copy of the graph without outputs and without what only they needed, and the activations of layers in it."""
    probed = model.graph.clone()
    graph = probed.graph
    values = {value.name: value for node in graph for value in node.outputs}
    activations = {layer.name: _by_sample(graph, layer, values[layer.activation]) for layer in layers}
    graph.outputs.clear()
    graph.outputs.extend(dict.fromkeys(activations.values()))
    MergePads()(probed)  # onnxruntime does so only where nothing but one Conv reads what the Pad gives
    RemoveUnused()(probed)
    graph.outputs.clear()
    return probed, activations


def _by_sample(graph: ir.Graph, layer: Layer, value: ir.Value) -> ir.Value:
    """The activation with the batch as its first axis, its shape written down."""
    assert layer.activation_shape is not None
    assert layer.activation_size is not None
    shape: tuple[int, ...] = layer.activation_shape
    if layer.batch_axis or layer.batch_merged:
        name, shape = f"{layer.name}/activation", (layer.activation_size,)
        producer = value.producer()
        assert producer is not None
        rank, axis, added = len(layer.activation_shape) + (not layer.batch_merged), layer.batch_axis, []
        if layer.before_batch > 1:  # tokens * batch: the two apart, so that the batch can be put first
            rest = layer.activation_shape
            apart = (*rest[:axis], layer.before_batch, -1, rest[axis] // layer.before_batch, *rest[axis + 1 :])
            added.append(_reshaped(graph, value, apart, f"{name}/apart"))
            value, rank, axis = added[-1].outputs[0], rank + 2, axis + 1
        order = [axis, *(other for other in range(rank) if other != axis)]
        if order != sorted(order):  # onnxruntime fuses any Transpose of two axes into a Gemm, as if it swapped them
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
    """A Reshape, not yet in the graph, with its target in it."""
    target = ir.Value(name=f"{name}/shape", const_value=ir.tensor(np.array(shape, np.int64)))
    graph.register_initializer(target)
    node = ir.node("Reshape", [value, target], name=f"{name}/reshape")
    node.outputs[0].name = name
    return node
