"""Restoring the parameter names of the source after an exporter has lost them."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
from onnx import numpy_helper


def restore_names(proto: onnx.ModelProto, named: dict[str, np.ndarray]) -> None:
    """Rename, in place, initializers that have the values of a source parameter under another name.

    A transposed or reshaped copy counts as the same. If several parameters have the same values (fresh biases), the
    initializer's own name or its neighbours on the node decide; if they do not, it keeps its name.
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
    """Return the only candidate whose module is part of the old name, or has a parameter on the same node."""
    mentioned = [name for name in candidates if _module(name) and f"/{_module(name)}/" in f"/{old}/"]
    on_node = [name for name in candidates if _module(name) in {_module(neighbour) for neighbour in neighbours}]
    return next((names[0] for names in (mentioned, on_node) if len(names) == 1), None)


def _module(name: str) -> str:
    return name[: max(name.rfind("/"), name.rfind("."), 0)]


def _neighbours(proto: onnx.ModelProto, name: str, renamed: dict[str, str]) -> list[str]:
    nodes = [node for node in proto.graph.node if name in node.input]
    before = {value for node in nodes for value in node.input}
    nodes += [node for node in proto.graph.node if before & set(node.output)]
    return [renamed.get(value, value) for node in nodes for value in node.input if value != name]


def _digest(array: np.ndarray) -> tuple[int, str]:
    """Return a digest that is equal for arrays with the same numbers in any order."""
    flat = np.sort(np.asarray(array, np.float32).ravel())
    return flat.size, hashlib.sha256(flat.tobytes()).hexdigest()
