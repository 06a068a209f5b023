"""Recurrent layers whose initial state is stored in the file, for the batch of the exporter's example."""

from __future__ import annotations

import numpy as np
import onnx

from .tiny import build, node, normal

STEPS, INPUTS, UNITS = 4, 5, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",), "RNN": ("h",)}


def state(kind: str, name: str, directions: int, batch: int) -> np.ndarray:
    """Of one of the kinds ``zeros``, ``one`` (the same for each sample) and ``many``."""
    shape = (directions, batch, UNITS)
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    seed = {"h": 1, "c": 2}[name]
    array = np.random.default_rng(seed).standard_normal((directions, 1 if kind == "one" else batch, UNITS))
    return np.broadcast_to(array.astype(np.float32), shape).copy()


def recurrent(
    op_type: str,
    kind: str,
    *,
    batch: int = 1,
    extent: int | str | None = None,
    directions: int = 1,
    made: str = "stored",
    lengths: int | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A recurrent layer over (batch, steps, inputs), and a Gemm on all that it gives.

    Args:
        op_type: LSTM, GRU or RNN.
        kind: of state: see `state`.
        batch: that the states are stored for.
        extent: of the input's first axis; None: ``batch``.
        directions: 1 or 2.
        made: ``stored`` as initializers, ``expanded`` or ``filled`` from constants by a node.
        lengths: a constant sequence_lens; None: none.
        opset: of the model.
    """
    gates, direction = GATES[op_type] * UNITS, "bidirectional" if directions == 2 else "forward"
    weights = {
        "W": normal(directions, gates, INPUTS, scale=0.5),
        "R": normal(directions, gates, UNITS, scale=0.5),
        "B": normal(directions, 2 * gates, scale=0.5),
        "fc.weight": normal(STEPS * directions * UNITS, 3),
        "fc.bias": normal(3),
        "flat": np.array([-1, STEPS * directions * UNITS]),
        "shape": np.array([directions, batch, UNITS]),
    }
    nodes = [node("Transpose", ["input"], ["x"], "/first", perm=[1, 0, 2])]
    if lengths is not None:
        weights["lengths"] = np.full(batch, lengths, np.int32)
    for name in STATES[op_type]:
        array = state(kind, name, directions, batch)
        if made == "stored":
            weights[name] = array
        elif made == "expanded":
            weights[f"{name}.one"] = array[:, :1]
            nodes.append(node("Expand", [f"{name}.one", "shape"], [name], f"/expand_{name}"))
        else:
            assert kind == "zeros"
            nodes.append(node("ConstantOfShape", ["shape"], [name], f"/fill_{name}"))
    inputs = ["x", "W", "R", "B", "lengths" if lengths is not None else "", *STATES[op_type]]
    nodes += [
        node(op_type, inputs, ["y"], "/cell", hidden_size=UNITS, direction=direction),
        node("Transpose", ["y"], ["z"], "/back", perm=[2, 0, 1, 3]),
        node("Reshape", ["z", "flat"], ["f"], "/flat"),
        node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    extent = batch if extent is None else extent
    return build(nodes, weights, input_shape=(extent, STEPS, INPUTS), output_shape=(extent, 3), opset=opset)
