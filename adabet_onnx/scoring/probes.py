"""Graph surgery: make layers' activations, or what the score needs of them, outputs of the graph.

Two kinds of probe:

* ``activations``: the activation itself becomes an output, named as it is in the graph. All of them at once cost
  memory that grows with depth.
* ``gram``: right after each activation X, flattened to (N, D), its centred Gram matrix (X - mean)(X - mean)^T is
  computed inside the graph, and only that (N, N) matrix becomes an output, named ``LAYER/gram``. Distances between
  the points follow from it. Centring keeps float32 exact enough when activations lie far from the origin.

The probed file names its outputs in metadata_props under ``adabet_onnx.probes``: a JSON object from layer name to
output name.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ..errors import UsageError
from ..model.open import Model, set_metadata

KINDS = ("activations", "gram")


def add_probes(model: Model, kind: str) -> tuple[ir.Model, dict[str, str]]:
    """A copy of the graph whose outputs are the probes of all layers, in model order.

    What only the old output needed is dropped.

    Args:
        model: the opened model; it is not changed.
        kind: activations or gram.

    Returns:
        The probed graph, and the output name of each layer.

    Raises:
        UsageError: an unknown kind.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of probe {kind!r}: choose one of {', '.join(KINDS)}.")
    probed = model.graph.clone()
    graph = probed.graph
    values = {value.name: value for node in graph for value in node.outputs}
    outputs: dict[str, str] = {}
    probes: list[ir.Value] = []
    for layer in model.layers:
        value = values[layer.activation]
        if kind == "gram":
            value = _gram(graph, value, f"{layer.name}/gram")
        else:
            value.dtype = ir.DataType.FLOAT
            assert layer.activation_shape is not None
            value.shape = ir.Shape(["N", *layer.activation_shape])
        outputs[layer.name] = value.name or ""
        probes.append(value)
    graph.outputs.clear()
    graph.outputs.extend(dict.fromkeys(probes))
    common.RemoveUnusedNodesPass()(probed)
    set_metadata(probed, "probes", outputs)
    return probed, outputs


def _gram(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """Flatten, subtract the batch mean, multiply by the transpose: four nodes right after the value's own."""
    producer = value.producer()
    assert producer is not None
    flat = ir.node("Flatten", [value], {"axis": 1}, name=f"{name}/flatten")
    if (graph.opset_imports.get("") or 0) >= 18:
        axes = ir.Value(name=f"{name}/axes", const_value=ir.tensor(np.array([0], np.int64)))
        graph.register_initializer(axes)
        mean = ir.node("ReduceMean", [flat.outputs[0], axes], {"keepdims": 1}, name=f"{name}/mean")
    else:
        mean = ir.node("ReduceMean", [flat.outputs[0]], {"axes": [0], "keepdims": 1}, name=f"{name}/mean")
    centred = ir.node("Sub", [flat.outputs[0], mean.outputs[0]], name=f"{name}/centred")
    gram = ir.node("Gemm", [centred.outputs[0], centred.outputs[0]], {"transB": 1}, name=f"{name}/product")
    new = [flat, mean, centred, gram]
    for node in new:
        node.outputs[0].name = f"{node.name}:0"
        node.outputs[0].dtype = ir.DataType.FLOAT
    gram.outputs[0].name = name
    gram.outputs[0].shape = ir.Shape(["N", "N"])
    graph.insert_after(producer, new)
    return gram.outputs[0]
