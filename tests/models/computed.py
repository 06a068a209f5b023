"""Models whose weights are computed from constants, as written by exporters without constant folding.

Each is built twice: with the computation, and with plain weights that numpy has computed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from .tiny import build, node, normal

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}  # where ONNX's gates stand in torch's order
HIDDEN, STEPS, INPUTS = 4, 6, 5


def recurrent(kind: str, *, plain: bool) -> onnx.ModelProto:
    """torch's LSTM or GRU named ``g``, batch first, with a Gemm ``f`` on the last step's output."""
    gates = GATES[kind]
    rows = len(gates) * HIDDEN
    torch_like = {
        "g.weight_ih_l0": normal(rows, INPUTS),
        "g.weight_hh_l0": normal(rows, HIDDEN),
        "g.bias_ih_l0": normal(rows),
        "g.bias_hh_l0": normal(rows, scale=0.2),
    }
    values = {"f.weight": normal(3, HIDDEN), "f.bias": normal(3), "last": np.array(-1)}
    made = []
    if plain:
        values |= in_order_of_onnx(kind, torch_like)
    else:
        values |= torch_like | {"zero": np.array([0])}
        values |= {f"at{i}": np.array([i * HIDDEN]) for i in range(len(gates) + 1)}
        for name in torch_like:
            made += [
                node("Slice", [name, f"at{i}", f"at{i + 1}", "zero"], [f"{name}/{i}"], f"/g/{name}/Slice_{i}")
                for i in range(len(gates))
            ]
            made.append(node("Concat", [f"{name}/{i}" for i in gates], [f"{name}/all"], f"/g/{name}/Concat", axis=0))
        made.append(node("Concat", ["g.bias_ih_l0/all", "g.bias_hh_l0/all"], ["biases"], "/g/Concat", axis=0))
        given = ("g.weight_ih_l0/all", "g.weight_hh_l0/all", "biases")
        made += [node("Unsqueeze", [name, "zero"], [out], f"/g/{out}") for name, out in zip(given, "WRB", strict=True)]
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    made += [
        node("Transpose", ["input"], ["steps"], "/g/Transpose", perm=[1, 0, 2]),
        node(kind, ["steps", "W", "R", "B"], ["all"], f"/g/{kind}", hidden_size=HIDDEN, **more),
        node("Gather", ["all", "last"], ["step"], "/Gather", axis=0),  # (1, N, H)
        node("Gather", ["step", "first"], ["h"], "/Gather_1", axis=0),
        node("Gemm", ["h", "f.weight", "f.bias"], ["logits"], "/f/Gemm", transB=1),
    ]
    return build(made, values | {"first": np.array(0)}, input_shape=("N", STEPS, INPUTS))


def in_order_of_onnx(kind: str, torch_like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """W, R and B, assembled by numpy."""

    def ordered(name: str) -> np.ndarray:
        parts = np.split(torch_like[name], len(GATES[kind]))
        return np.concatenate([parts[i] for i in GATES[kind]])

    biases = np.concatenate([ordered("g.bias_ih_l0"), ordered("g.bias_hh_l0")])
    return {"W": ordered("g.weight_ih_l0")[None], "R": ordered("g.weight_hh_l0")[None], "B": biases[None]}


def _convolution(weight: np.ndarray, name: str, made: list[onnx.NodeProto], values: dict[str, np.ndarray]):
    nodes = [
        *made,
        node("Conv", ["input", name, "c.bias"], ["a"], "/c/Conv", pads=[1] * 4),
        node("Relu", ["a"], ["b"], "/relu"),
        node("GlobalAveragePool", ["b"], ["p"], "/pool"),
        node("Flatten", ["p"], ["q"], "/flat"),
        node("Gemm", ["q", "fc.weight", "fc.bias"], ["logits"], "/fc", transB=1),
    ]
    values |= {"c.bias": normal(6), "fc.weight": normal(3, 6), "fc.bias": normal(3)}
    return nodes, values


def standardised(*, plain: bool) -> onnx.ModelProto:
    """Weight standardisation: each output channel's weights minus their mean, over their norm."""
    v = normal(6, 3, 3, 3)
    w = v - v.mean((1, 2, 3), keepdims=True)
    w = w / np.sqrt((w**2).sum((1, 2, 3), keepdims=True))
    axes = {"axes": [1, 2, 3]}
    made = [
        node("ReduceMean", ["c.weight"], ["m"], "/c/mean", **axes),
        node("Sub", ["c.weight", "m"], ["centred"], "/c/sub"),
        node("ReduceL2", ["centred"], ["n"], "/c/norm", **axes),
        node("Div", ["centred", "n"], ["w"], "/c/div"),
    ]
    nodes, values = _convolution(w, "w", [] if plain else made, {"w": w} if plain else {"c.weight": v})
    return build(nodes, values)


def weight_norm(*, plain: bool) -> onnx.ModelProto:
    """torch's parametrised weight norm: g v / |v|."""
    g, v = 1 + normal(6, 1, 1, 1), normal(6, 3, 3, 3)
    w = g * v / np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
    names = ["c.parametrizations.weight.original0", "c.parametrizations.weight.original1"]
    made = [
        node("ReduceL2", [names[1]], ["n"], "/c/norm", axes=[1, 2, 3]),
        node("Div", [names[1], "n"], ["d"], "/c/div"),
        node("Mul", ["d", names[0]], ["w"], "/c/mul"),
    ]
    given = dict(zip(names, (g, v), strict=True))
    return build(*_convolution(w, "w", [] if plain else made, {"w": w} if plain else given))


def spectral_norm(*, plain: bool) -> onnx.ModelProto:
    """torch's spectral norm with its stored vectors: w / (u . W v)."""
    v, left, right = normal(6, 3, 3, 3), normal(6), normal(27)
    left, right = left / np.linalg.norm(left), right / np.linalg.norm(right)
    w = v / (left @ v.reshape(6, 27) @ right)
    given = {"c.weight_orig": v, "c.weight_u": left, "c.weight_v": right, "flat": np.array([6, -1])}
    made = [
        node("Reshape", ["c.weight_orig", "flat"], ["matrix"], "/c/reshape"),
        node("MatMul", ["matrix", "c.weight_v"], ["mv"], "/c/mv"),
        node("MatMul", ["c.weight_u", "mv"], ["sigma"], "/c/sigma"),
        node("Div", ["c.weight_orig", "sigma"], ["w"], "/c/div"),
    ]
    return build(*_convolution(w, "w", [] if plain else made, {"w": w.astype(np.float32)} if plain else given))


def joined_biases(*, plain: bool) -> onnx.ModelProto:
    """A Gemm whose weight and bias are concatenated, like those of queries and keys."""
    parts = {"q.weight": normal(4, 8), "k.weight": normal(5, 8), "q.bias": normal(4), "k.bias": normal(5)}
    w, b = (np.concatenate([parts[f"{side}.{what}"] for side in "qk"]) for what in ("weight", "bias"))
    made = [
        node("Concat", ["q.weight", "k.weight"], ["w"], "/join", axis=0),
        node("Concat", ["q.bias", "k.bias"], ["b"], "/join_1", axis=0),
    ]
    nodes = [
        *([] if plain else made),
        node("Gemm", ["input", "w", "b"], ["h"], "/qk", transB=1),
        node("Tanh", ["h"], ["t"], "/tanh"),
        node("Gemm", ["t", "fc.weight", "fc.bias"], ["logits"], "/fc", transB=1),
    ]
    values = {"fc.weight": normal(3, 9), "fc.bias": normal(3)} | ({"w": w, "b": b} if plain else parts)
    return build(nodes, values, input_shape=("N", 8))


def integers(*, plain: bool) -> onnx.ModelProto:
    """int8 weights behind a Cast and a Mul by a scale per channel."""
    stored = (normal(6, 3, 3, 3) * 100).astype(np.int8)
    scale = np.abs(normal(6, 1, 1, 1)) / 50
    made = [
        node("Cast", ["c.weight"], ["real"], "/c/cast", to=onnx.TensorProto.FLOAT),
        node("Mul", ["real", "c.scale"], ["w"], "/c/mul"),
    ]
    w = stored.astype(np.float32) * scale
    given = {"c.weight": stored, "c.scale": scale}
    return build(*_convolution(w, "w", [] if plain else made, {"w": w} if plain else given))


CONVOLUTIONS: dict[str, Callable[..., onnx.ModelProto]] = {
    "weight standardisation": standardised,
    "weight norm": weight_norm,
    "spectral norm": spectral_norm,
    "int8": integers,
}
MODELS: dict[str, Callable[..., onnx.ModelProto]] = {
    "LSTM": lambda *, plain: recurrent("LSTM", plain=plain),
    "GRU": lambda *, plain: recurrent("GRU", plain=plain),
    **CONVOLUTIONS,
    "joined": joined_biases,
}
