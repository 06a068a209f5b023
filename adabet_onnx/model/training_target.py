"""What must be known of a selection to prepare a model for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .layers import Layer
from .open import Model


class TrainingTarget(Protocol):
    """What is to be trained of a model: a `selection.record.Selection`, or another value that says as much."""

    @property
    def model_sha256(self) -> str:
        """The model it was chosen for."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of layers."""

    @property
    def parameters(self) -> Sequence[str]:
        """Names of the initializers of these layers to train."""

    @property
    def channels(self) -> Mapping[str, Sequence[int]] | None:
        """Output channels to train, of the layers that are not trained whole."""

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Values that inputs were bound to when it was chosen."""


@dataclass(frozen=True)
class WholeLayers:
    """Layers to be trained whole; the attributes are those of `TrainingTarget`."""

    model_sha256: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    channels: None = None
    inputs: None = None


def whole(model: Model, layers: Sequence[Layer]) -> WholeLayers:
    """All parameters of these layers of a model."""
    names = dict.fromkeys(parameter.name for layer in layers for parameter in layer.parameters)
    return WholeLayers(model.sha256, tuple(layer.name for layer in layers), tuple(names))
