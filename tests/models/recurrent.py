"""Recurrent layers of torch as those of ONNX."""

from __future__ import annotations

import numpy as np

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # where ONNX's gates stand in torch's order


def as_onnx(kind, parameters, layer):
    """Torch's tensors of a recurrent layer, laid out as the inputs W, R and B."""

    def ordered(name):
        parts = np.split(parameters[name], len(GATES[kind]))
        return np.concatenate([parts[i] for i in GATES[kind]])

    ends = [end for end in ("", "_reverse") if f"body.weight_ih_l{layer}{end}" in parameters]
    w, r = (np.stack([ordered(f"body.weight_{of}_l{layer}{end}") for end in ends]) for of in ("ih", "hh"))
    b = np.stack([np.concatenate([ordered(f"body.bias_{of}_l{layer}{end}") for of in ("ih", "hh")]) for end in ends])
    return {1: w, 2: r, 3: b}
