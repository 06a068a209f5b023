"""The content of device.json as dataclasses; docs/device-package.md defines each entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..showing import listed, one_line

PARAMETER, STATISTIC, OPTIMIZER = KINDS = ("parameter", "statistic", "optimizer")
Shape = tuple[int | str, ...]  # "N", the number of samples, comes first if present


@dataclass(frozen=True)
class PackageFile:
    """A file of the package."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackageInput:
    """An input of the model."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class PackageOutput:
    """An output of the prediction graphs; ``role`` is logits, probabilities or None."""

    name: str
    dtype: str
    shape: Shape
    role: str | None


@dataclass(frozen=True)
class Labels:
    """Type and shape of labels, number of classes, and the label that is ignored."""

    dtype: str
    shape: Shape
    classes: int | None
    ignore: int | None


@dataclass(frozen=True)
class Preprocessed:
    """How raw data is converted to an input: (x * scale - mean) / std."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_axis: int | None
    data: str
    bgr: bool


@dataclass(frozen=True)
class Start:
    """Default settings of training."""

    learning_rate: float
    batch_size: int
    epochs: int
    seed: int


@dataclass(frozen=True)
class ScoredLayer:
    """A scored layer: an output of the scoring graph, its size per sample, and the activation size D."""

    name: str
    output: str
    numbers: int
    size: int


@dataclass(frozen=True)
class ScoringPlan:
    """How layers are scored."""

    file: str
    samples: int
    points: int
    subsets: int
    seed: int
    layers: tuple[ScoredLayer, ...]


@dataclass(frozen=True)
class BoundaryTensor:
    """An output of the frozen graph from which training steps start."""

    name: str
    dtype: str
    shape: Shape
    bytes: int
    input: str | None


@dataclass(frozen=True)
class EntryNames:
    """Names of inputs and outputs of the training graphs."""

    labels: str
    learning_rate: str
    step: str
    loss: str
    logits: str


@dataclass(frozen=True)
class ChannelPart:
    """The part of one of the model's tensors that a tensor holds."""

    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class PackageTensor:
    """A float32 tensor that changes in training: its place in a state file, and its names in the graphs."""

    name: str
    kind: str
    input: str
    output: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    channels: ChannelPart | None = None

    @property
    def end(self) -> int:
        """The position where it ends in a state file."""
        return self.offset + self.bytes

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class PackageEntry:
    """One choice of layers, with its graphs."""

    name: str
    layers: tuple[str, ...]
    trained: int
    frozen: str | None
    step: str
    evaluation: str
    prediction: str
    state: str
    model: str | None
    selected: str
    selected_bytes: int
    boundary: tuple[BoundaryTensor, ...]
    names: EntryNames
    logits_shape: Shape
    class_axis: int | None
    tensors: tuple[PackageTensor, ...]
    memory: tuple[tuple[int, int], ...]
    frozen_multiply_adds: int
    step_multiply_adds: int

    @property
    def personal(self) -> tuple[PackageTensor, ...]:
        """The tensors that differ in a personal model: parameters and statistics."""
        return tuple(tensor for tensor in self.tensors if tensor.kind != OPTIMIZER)

    @property
    def files(self) -> dict[str, str]:
        """The names of its files, by key."""
        keys = ("frozen", "step", "evaluation", "prediction", "state", "model", "selected")
        return {key: name for key in keys if (name := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Device:
    """A device package: its folder, and the content of its device.json."""

    folder: Path
    model: str
    model_sha256: str
    opset: int
    ir_version: int
    oldest_onnxruntime: str
    profile: str | None
    forward_batch: int | None
    loss: str
    files: tuple[PackageFile, ...]
    weights: str | None
    inputs: tuple[PackageInput, ...]
    outputs: tuple[PackageOutput, ...]
    labels: Labels
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessed | None
    training: Start
    scoring: ScoringPlan | None
    entries: tuple[PackageEntry, ...]

    def __repr__(self) -> str:
        return one_line(self, str(self.folder), self.model, f"entries {listed([e.name for e in self.entries])}")

    def entry(self, name: str) -> PackageEntry:
        """The entry with this name.

        Raises:
            UsageError: there is no such entry.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(repr(entry.name) for entry in self.entries)
        raise UsageError(f"{self.folder} has no entry {name!r}: choose one of {known}.")
