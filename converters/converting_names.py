"""Giving parameters the names that they have in the source, where an exporter lost them."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
from onnx import numpy_helper


def restore_names(proto: onnx.ModelProto, named: dict[str, np.ndarray]) -> None:
    """Rename initializers, in place, that hold a source parameter's values under another name.

    A transposed or reshaped copy counts as the same. Where several parameters hold the same values (fresh biases), the
    initializer's own name or its neighbours on the node decide, and if they do not, it keeps the name it has.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    by_value: dict[tuple[int, str], list[str]] = {}
    for name, array in named.items():
        if name not in tensors:
            by_value.setdefault(_digest(array), []).append(name)
    lost = {
        tensor.name: by_value.get(_digest(numpy_helper.to_array(tensor)), [])
        for tensor in proto.graph.initializer
        if tensor.name not in named and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    }
    renamed: dict[str, str] = {}
    for certain in (True, False):
        for old, candidates in lost.items():
            free = [name for name in candidates if name not in renamed.values()]
            if old in renamed or not free or (certain and len(candidates) > 1):
                continue
            new = free[0] if len(candidates) == 1 else _choose(old, free, _neighbours(proto, old, renamed))
            if new is not None:
                renamed[old] = new
    for tensor in proto.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)


def _choose(old: str, candidates: list[str], neighbours: list[str]) -> str | None:
    """The one candidate whose module the old name mentions, or whose module has a parameter on the same node."""
    mentioned = [name for name in candidates if _module(name) and f"/{_module(name)}/" in f"/{old}/"]
    beside = [name for name in candidates if _module(name) in {_module(neighbour) for neighbour in neighbours}]
    return next((found[0] for found in (mentioned, beside) if len(found) == 1), None)


def _module(name: str) -> str:
    return name[: max(name.rfind("/"), name.rfind("."), 0)]


def _neighbours(proto: onnx.ModelProto, name: str, renamed: dict[str, str]) -> list[str]:
    nodes = [node for node in proto.graph.node if name in node.input]
    before = {value for node in nodes for value in node.input}
    nodes += [node for node in proto.graph.node if before & set(node.output)]
    return [renamed.get(value, value) for node in nodes for value in node.input if value != name]


def _digest(array: np.ndarray) -> tuple[int, str]:
    """The same for two arrays that hold the same numbers, in whatever order."""
    flat = np.sort(np.asarray(array, np.float32).ravel())
    return flat.size, hashlib.sha256(flat.tobytes()).hexdigest()
