"""The interface of a selection, as far as preparing a model for training needs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .layers import Layer
from .open import Model


class TrainingTarget(Protocol):
    """The part of a model to train: a `selection.record.Selection`, or any object with the same attributes."""

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model it was made for."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of layers."""

    @property
    def parameters(self) -> Sequence[str]:
        """Names of the initializers of these layers to train."""

    @property
    def channels(self) -> Mapping[str, Sequence[int]] | None:
        """Output channels to train, for layers that are not trained whole."""

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """Values that inputs were bound to when it was made."""


@dataclass(frozen=True)
class WholeLayers:
    """Layers to train whole; the attributes are those of `TrainingTarget`."""

    model_sha256: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    channels: None = None
    inputs: None = None


def whole_layers(model: Model, layers: Sequence[Layer]) -> WholeLayers:
    """A training target of all parameters of these layers."""
    names = dict.fromkeys(parameter.name for layer in layers for parameter in layer.parameters)
    return WholeLayers(model.sha256, tuple(layer.name for layer in layers), tuple(names))
