"""The result of a pre-flight check, as values and as JSON: verdicts on layers, and the nodes that prevent training.

``Check.to_json()`` returns, and ``check`` prints: format "adabet-onnx/check", version 1, with
    model, model_sha256, loss
    backends        portable and ort, each with ``installed`` and ``obstacle`` (why it can train no layer, or null)
    layers          in model order, each with
        name, op_type, trainable
        backend     the one that ``auto`` uses: portable, else ort; null for none
        portable, ort   each with ``trainable``, ``repairs`` (sentences), and ``reason`` (null if it is trainable)
    nodes           nodes without a gradient between the loss and a layer: node, op_type, layer (the one it belongs to,
                    or the one before it, or null), backend, reason, remedy
    decisions       how the model's parts were interpreted, see `decisions`
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..frames import frame
from ..showing import clipped, counted, file_name, html_table, named, one_line
from .decisions import Decision

FORMAT, VERSION = "adabet-onnx/check", 1
_BACKENDS = ("portable", "ort")
_OF_LAYERS = ("name", "op_type", "trainable", "backend")
_COLUMNS = (*_OF_LAYERS, *(f"{name}.{of}" for name in _BACKENDS for of in ("trainable", "repairs", "reason")))


@dataclass(frozen=True)
class Obstacle:
    """A node without a gradient between the loss and a layer; see the module for the attributes."""

    node: str
    op_type: str
    layer: str | None
    backend: str
    reason: str
    remedy: str

    def __repr__(self) -> str:
        return one_line(self, f"{self.backend}: {clipped(self, 200)}")

    def __str__(self) -> str:
        where = f", in layer {self.layer!r}," if self.layer else ""
        return f"node {self.node!r} ({self.op_type}){where} {self.reason}. {self.remedy}"


@dataclass(frozen=True)
class Verdict:
    """Whether one backend can train one layer.

    Attributes:
        trainable: whether it can.
        repairs: the rewrites needed between the layer and the loss.
        reason: why it cannot; None if it can.
    """

    trainable: bool
    repairs: tuple[str, ...]
    reason: str | None

    def __repr__(self) -> str:
        repairs = f"after {counted(len(self.repairs), 'repair')}" if self.repairs else None
        return one_line(self, "trainable", repairs) if self.trainable else one_line(self, clipped(self.reason, 200))


@dataclass(frozen=True)
class CheckedLayer:
    """The check result for a layer; see the module for the attributes."""

    name: str
    op_type: str
    portable: Verdict
    ort: Verdict

    def __repr__(self) -> str:
        status = f"trained by {self.backend}" if self.trainable else f"cannot be trained: {clipped(self.reason, 150)}"
        return one_line(self, repr(clipped(self.name)), self.op_type, status)

    @property
    def backend(self) -> str | None:
        """The backend that trains it: portable, else ort; None if neither can."""
        return next((backend for backend in _BACKENDS if getattr(self, backend).trainable), None)

    @property
    def trainable(self) -> bool:
        """Whether any backend can train it."""
        return self.backend is not None

    @property
    def reason(self) -> str | None:
        """Why no backend can train it, or None."""
        return None if self.trainable else self.portable.reason


@dataclass(frozen=True)
class Check:
    """The result of `check_model`.

    Attributes:
        model: name of the model in messages.
        model_sha256: SHA-256 of the model file.
        loss: the loss that was checked.
        layers: in model order.
        obstacles: nodes without a gradient, for either backend.
        installed: by backend, whether its runtime is installed.
        refused: by backend, why it can train no layer; None if it can.
        decisions: how the model's parts were interpreted.
    """

    model: str
    model_sha256: str
    loss: str
    layers: tuple[CheckedLayer, ...]
    obstacles: tuple[Obstacle, ...]
    installed: dict[str, bool]
    refused: dict[str, str | None]
    decisions: tuple[Decision, ...] = ()

    @property
    def untrainable(self) -> dict[str, str]:
        """Layers that no backend can train, and why."""
        return {layer.name: layer.reason for layer in self.layers if layer.reason is not None}

    def __repr__(self) -> str:
        lost = f"not {named([*self.untrainable])}" if self.untrainable else None
        return one_line(self, f"{file_name(self.model)}: {self._summary()}", lost)

    def _repr_html_(self) -> str:
        headings = ("layer", "operator", "backend", "portable", "ort", "reason")
        ordered = sorted(self.layers, key=lambda layer: layer.trainable)  # untrainable layers first
        rows = [
            (
                layer.name,
                layer.op_type,
                layer.backend or "none",
                *("yes" if verdict.trainable else "no" for verdict in (layer.portable, layer.ort)),
                layer.reason or "",
            )
            for layer in ordered
        ]
        lines = [f"{name}: no layer can be trained: {reason}" for name, reason in self.refused.items() if reason]
        missing = [name for name, is_installed in self.installed.items() if not is_installed]
        lines += [f"{name}: its runtime is not installed" for name in missing]
        return html_table(f"{file_name(self.model)}: {self._summary()}", headings, rows, lines=lines, what="layer")

    def _summary(self) -> str:
        able = sum(layer.trainable for layer in self.layers)
        return f"{able:,} of {counted(len(self.layers), 'layer')} can be trained ({self.loss})"

    def to_dataframe(self, library: str | None = None) -> Any:
        """Return a row for each layer; columns as in the JSON's ``layers``, nested ones with a dot.

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas if installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: the library is not one of these.
            RuntimeMissingError: the library is not installed, or neither is.
        """
        rows = []
        for entry in self.to_json()["layers"]:
            row = {key: entry[key] for key in _OF_LAYERS}
            for backend in _BACKENDS:
                verdict = entry[backend] | {"repairs": list(entry[backend]["repairs"])}
                row |= {f"{backend}.{key}": value for key, value in verdict.items()}
            rows.append(row)
        return frame(rows, _COLUMNS, library)

    def only(self, names: Collection[str]) -> Check:
        """Return the check restricted to some of the layers."""
        layers = tuple(layer for layer in self.layers if layer.name in names)
        return replace(self, layers=layers)

    def to_json(self) -> dict[str, Any]:
        """Return the check as JSON values, see the module."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "loss": self.loss,
            "backends": {
                backend: {"installed": self.installed[backend], "obstacle": self.refused[backend]}
                for backend in _BACKENDS
            },
            "layers": [
                {
                    "name": layer.name,
                    "op_type": layer.op_type,
                    "trainable": layer.trainable,
                    "backend": layer.backend,
                    "portable": asdict(layer.portable),
                    "ort": asdict(layer.ort),
                }
                for layer in self.layers
            ],
            "nodes": [asdict(obstacle) for obstacle in self.obstacles],
            "decisions": [asdict(decision) for decision in self.decisions],
        }
