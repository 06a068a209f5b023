"""The entries of a manifest, by name: what other modules read of it (see `manifest` for their meaning)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainability.choices import Choices

_GRAPH_NAMES = ("labels", "learning_rate", "step", "loss", "logits")


@dataclass(frozen=True)
class ManifestContent:
    """The content of a manifest, with its folder."""

    folder: Path
    content: dict[str, Any]

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the model that the artifacts were made from."""
        return str(self.content["model_sha256"])

    @property
    def model_name(self) -> str | None:
        """Name of that model's file, without folders; None if it is unknown."""
        return self.content.get("model_name")

    @property
    def model_logits(self) -> str:
        """Name of the logits in the graph that an export puts trained values into."""
        return str(self.content["model_logits"])

    @property
    def file_names(self) -> dict[str, str]:
        """Names of the folder's files, by their role."""
        return {str(role): str(name) for role, name in self.content["files"].items()}

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of these files, by their role."""
        return dict(self.content["sha256"])

    @property
    def versions(self) -> dict[str, Any]:
        """Versions of what made the artifacts."""
        return dict(self.content.get("versions") or {})

    @property
    def notes(self) -> list[str]:
        """What a user should know, a sentence each."""
        return list(self.content["notes"])

    @property
    def precision(self) -> dict[str, Any] | None:
        """How far a frozen part in int8 moves logits; None where it is in float32."""
        return self.content.get("precision")

    @property
    def profile(self) -> str | None:
        """The profile that the graphs were written for."""
        return self.content.get("profile")

    @property
    def choices(self) -> Choices:
        """The choices that the artifacts were made with."""
        return Choices.from_manifest(self.content)

    @property
    def optimizer_entry(self) -> dict[str, Any]:
        """The optimizer: name, weight_decay, momentum, clip_norm."""
        return dict(self.content["optimizer"])

    @property
    def label_smoothing(self) -> float:
        """Of the cross-entropy."""
        return float(self.content.get("label_smoothing") or 0.0)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether training normalises by the statistics of the batch."""
        return self.content.get("batch_norm") == "batch"

    @property
    def selection_entry(self) -> dict[str, Any]:
        """The selection, as its file holds it."""
        return dict(self.content["selection"])

    @property
    def preprocessing_entry(self) -> dict[str, Any] | None:
        """The preprocessing, as it is stored."""
        return self.content.get("preprocessing")

    @property
    def class_axis_entry(self) -> int | None:
        """The class axis, as it is stored."""
        return self.content.get("class_axis")

    @property
    def label_entry(self) -> dict[str, Any]:
        """dtype and shape of the labels' input, of the backend "portable"."""
        return dict(self.content["label_details"])

    @property
    def graph_names(self) -> dict[str, str]:
        """Names of inputs and outputs of the portable graphs: labels, learning_rate, step, loss, logits."""
        return {role: str(self.content[role]) for role in _GRAPH_NAMES}

    @property
    def parameter_entries(self) -> list[dict[str, Any]]:
        """The trainable parameters."""
        return list(self.content["parameters"])

    @property
    def state_entries(self) -> list[dict[str, Any]]:
        """The optimizer's state and the running statistics; none of the backend "ort"."""
        return list(self.content.get("state") or [])

    @property
    def statistic_entries(self) -> list[dict[str, Any]]:
        """The running statistics, which the forward pass of a training step changes."""
        return [entry for entry in self.state_entries if entry.get("moves")]

    @property
    def predicted_step_bytes(self) -> dict[str, int] | None:
        """Predicted memory of a step, by batch size; None of the backend "ort"."""
        return self.content.get("predicted_step_bytes")
