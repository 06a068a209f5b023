"""The tensors that change in training, in the order of packages: parameters, statistics, the optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.channels import Slice
from ..training.manifest import Manifest

PARAMETER, STATISTIC, OPTIMIZER = KINDS = ("parameter", "statistic", "optimizer")
_ALIGNED = 64
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a package.

    Attributes:
        name: name of the model's tensor, or of the optimizer's state.
        kind: parameter, statistic or optimizer.
        input: its name as an input of the graphs.
        output: the name of its new value.
        shape: its shape.
        offset: its position in the file, in bytes.
        part: the slice of the model's tensor, if the parameter is only a part of it.
    """

    name: str
    kind: str
    input: str
    output: str
    shape: tuple[int, ...]
    offset: int
    part: Slice | None = None

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return _FLOAT.itemsize * math.prod(self.shape)

    @property
    def end(self) -> int:
        """The position where the next tensor begins, aligned."""
        return -(-(self.offset + self.bytes) // _ALIGNED) * _ALIGNED

    def to_json(self) -> dict[str, Any]:
        """Its entry in device.json."""
        entry: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "input": self.input,
            "output": self.output,
            "dtype": "float32",
            "shape": list(self.shape),
            "offset": self.offset,
            "bytes": self.bytes,
        }
        if self.part is not None:
            entry["channels"] = {"axis": self.part.axis, "indices": list(self.part.indices)}
        return entry


def stored_tensors(manifest: Manifest) -> tuple[StoredTensor, ...]:
    """The tensors of an artifact folder, in the order of a package."""
    entries = [(PARAMETER, entry) for entry in manifest.parameter_entries]
    entries += [(STATISTIC if entry.get("moves") else OPTIMIZER, entry) for entry in manifest.state_entries]
    entries.sort(key=lambda pair: KINDS.index(pair[0]))
    tensors: list[StoredTensor] = []
    for kind, entry in entries:
        part = entry.get("channels")
        tensors.append(
            StoredTensor(
                str(entry["name"]),
                kind,
                str(entry["input"]),
                str(entry["output"]),
                tuple(int(extent) for extent in entry["shape"]),
                tensors[-1].end if tensors else 0,
                None if part is None else Slice(int(part["axis"]), tuple(part["indices"])),
            )
        )
    return tuple(tensors)


def selected(tensors: Sequence[StoredTensor]) -> tuple[StoredTensor, ...]:
    """The tensors that differ in a personal model: parameters and statistics."""
    return tuple(tensor for tensor in tensors if tensor.kind != OPTIMIZER)


def packed(tensors: Sequence[StoredTensor], values: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file with the values of these tensors."""
    data = bytearray(tensors[-1].end)
    for tensor in tensors:
        array = np.ascontiguousarray(values[tensor.name], _FLOAT).reshape(tensor.shape)
        data[tensor.offset : tensor.offset + tensor.bytes] = array.tobytes()
    return bytes(data)
