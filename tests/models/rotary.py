"""Features turned by positions (rotary embeddings), with stored cosines and sines, as torch folds them."""

from __future__ import annotations

import numpy as np
import onnx

from .tiny import build, node, normal

POSITIONS, FEATURES = 5, 6


def turned(*, learned: bool = False, form: str = "halves", size: float = 1.0) -> onnx.ModelProto:
    """A MatMul over (batch, positions, features), its outputs turned, a scale that is learned, and a head of 3.

    Args:
        learned: whether the tables are two learned scales instead, of the same form.
        form: ``halves``: x cos + rotated sin; ``pairs``: first cos - second sin beside first sin + second cos.
        size: of the vectors (cos, sin).
    """
    half = FEATURES // 2
    angles = np.outer(np.arange(POSITIONS), 1 / 10 ** (np.arange(half) / half))
    if form == "halves":
        angles = np.concatenate([angles, angles], 1)
    tables = {"cos": (size * np.cos(angles)).astype(np.float32), "sin": (size * np.sin(angles)).astype(np.float32)}
    if learned:
        tables = {name: normal(*array.shape, scale=1.0) + i for i, (name, array) in enumerate(tables.items())}
    weights = {
        "q.weight": normal(4, FEATURES),
        "gamma": normal(FEATURES),
        "fc.weight": normal(FEATURES, 3),
        **tables,
        "half": np.array([half, half]),
    }
    nodes = [
        node("MatMul", ["input", "q.weight"], ["q"], "/q"),
        node("Split", ["q", "half"], ["first", "second"], "/split", axis=-1),
    ]
    if form == "halves":
        nodes += [
            node("Neg", ["second"], ["minus"], "/neg"),
            node("Concat", ["minus", "first"], ["rotated"], "/rotate", axis=-1),
            node("Mul", ["q", "cos"], ["qc"], "/cos"),
            node("Mul", ["sin", "rotated"], ["qs"], "/sin"),
            node("Add", ["qc", "qs"], ["turned"], "/turn"),
        ]
    else:
        for name, operator, tables_of in (("real", "Sub", ("cos", "sin")), ("other", "Add", ("sin", "cos"))):
            nodes += [
                node("Mul", ["first", tables_of[0]], [f"{name}1"], f"/{name}1"),
                node("Mul", ["second", tables_of[1]], [f"{name}2"], f"/{name}2"),
                node(operator, [f"{name}1", f"{name}2"], [name], f"/{name}"),
            ]
        nodes.append(node("Concat", ["real", "other"], ["turned"], "/turn", axis=-1))
    nodes += [
        node("Mul", ["turned", "gamma"], ["scaled"], "/scale"),
        node("ReduceMean", ["scaled"], ["mean"], "/mean", axes=[1], keepdims=0),
        node("MatMul", ["mean", "fc.weight"], ["logits"], "/fc"),
    ]
    return build(nodes, weights, input_shape=("N", POSITIONS, 4), output_shape=("N", 3), opset=17)
