"""The state of a training in a file.

``state.bin``: the initial values, float32 little-endian, consecutively at the offsets in the manifest. Checkpoints:
safetensors files with every parameter and state tensor by name, and two entries of metadata: ``step`` (number of
updates so far) and ``properties`` (a JSON object of strings).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialised

from ..errors import RecordError, TrainingError
from .names import StepTensor

_FLOAT = np.dtype("<f4")


@dataclass
class TrainingState:
    """Parameters and optimizer state by name, the number of updates so far, and properties."""

    tensors: dict[str, np.ndarray]
    step: int = 0
    properties: dict[str, str] = field(default_factory=dict)


def offsets(tensors: Sequence[StepTensor]) -> list[int]:
    """The offset of each tensor in state.bin, in bytes."""
    starts, total = [], 0
    for tensor in tensors:
        starts.append(total)
        total += _FLOAT.itemsize * math.prod(tensor.shape)
    return starts


def write_initial(path: Path, tensors: Sequence[StepTensor], values: Mapping[str, np.ndarray]) -> None:
    """Write state.bin; tensors without a value are zero."""
    with path.open("wb") as file:
        for tensor in tensors:
            value = values.get(tensor.name)
            array = np.zeros(tensor.shape, _FLOAT) if value is None else value.astype(_FLOAT).reshape(tensor.shape)
            file.write(np.ascontiguousarray(array).tobytes())


def read_initial(path: Path, entries: Sequence[Mapping[str, Any]]) -> TrainingState:
    """Read state.bin according to the manifest's entries of parameters and state.

    Raises:
        RecordError: the file is shorter than the manifest requires.
    """
    data = path.read_bytes()
    tensors = {}
    for entry in entries:
        count, offset = math.prod(entry["shape"]), int(entry["offset"])
        if offset < 0 or offset + count * _FLOAT.itemsize > len(data):
            raise RecordError(f"{path} is too short for {entry['name']!r}. Make the artifacts again.")
        array = np.frombuffer(data, _FLOAT, count, offset)
        tensors[str(entry["name"])] = array.astype(np.float32).reshape(entry["shape"])
    return TrainingState(tensors)


def save(path: Path, state: TrainingState) -> None:
    """Write a checkpoint.

    Raises:
        OSError: the file cannot be written.
    """
    metadata = {"step": str(state.step), "properties": json.dumps(state.properties)}
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in state.tensors.items()}
    path.write_bytes(serialised(tensors, metadata=metadata))


def load(path: Path, entries: Sequence[Mapping[str, Any]]) -> TrainingState:
    """Read a checkpoint, and check that it belongs to a training with these parameters and state.

    Raises:
        TrainingError: it is damaged, or belongs to another training.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no dict)
        properties = json.loads(metadata["properties"])
        state = TrainingState(tensors, int(metadata["step"]), {str(k): str(v) for k, v in properties.items()})
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise TrainingError(f"the checkpoint {path} cannot be read: {error}. {_REMEDY}") from error
    for entry in entries:
        tensor = tensors.get(str(entry["name"]))
        if tensor is None or list(tensor.shape) != list(entry["shape"]) or tensor.dtype != np.float32:
            raise TrainingError(
                f"the checkpoint {path} does not fit: {entry['name']!r} is missing or differs. {_REMEDY}"
            )
    return state


_REMEDY = "If it belongs to an earlier training, train again without `resume`; otherwise make the artifacts again."
