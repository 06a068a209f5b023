"""What a pre-flight found, as values and as JSON: verdicts on layers, and the nodes that stand in the way.

What ``Check.to_json()`` gives, and ``check`` prints: format "adabet-onnx/check", version 1, with
    model, model_sha256, loss
    backends        portable and ort, each with ``installed`` and ``obstacle`` (what keeps all layers from it, or null)
    layers          in model order, each with
        name, op_type, trainable
        backend     the one that ``auto`` takes: portable, else ort; null for none
        portable, ort   each with ``trainable``, ``repairs`` (sentences), and ``reason`` (null where it is trainable)
    nodes           without a gradient between the loss and a layer: node, op_type, layer (that it is, or that stands
                    before it; or null), backend, reason, remedy
    decisions       what the model's parts were taken for, see `decisions`
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
    """A node without a gradient between the loss and a layer; the attributes are those of the module."""

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
        repairs: what is rewritten for it between the layer and the loss.
        reason: why it cannot; None where it can.
    """

    trainable: bool
    repairs: tuple[str, ...]
    reason: str | None

    def __repr__(self) -> str:
        repairs = f"after {counted(len(self.repairs), 'repair')}" if self.repairs else None
        return one_line(self, "trainable", repairs) if self.trainable else one_line(self, clipped(self.reason, 200))


@dataclass(frozen=True)
class CheckedLayer:
    """What is known of a layer; the attributes are those of the module."""

    name: str
    op_type: str
    portable: Verdict
    ort: Verdict

    def __repr__(self) -> str:
        how = f"trained by {self.backend}" if self.trainable else f"cannot be trained: {clipped(self.reason, 150)}"
        return one_line(self, repr(clipped(self.name)), self.op_type, how)

    @property
    def backend(self) -> str | None:
        """Which backend trains it: portable, else ort; None for none."""
        return next((backend for backend in _BACKENDS if getattr(self, backend).trainable), None)

    @property
    def trainable(self) -> bool:
        """Whether a backend can train it."""
        return self.backend is not None

    @property
    def reason(self) -> str | None:
        """Why no backend can, or None."""
        return None if self.trainable else self.portable.reason


@dataclass(frozen=True)
class Check:
    """What `check_model` found.

    Attributes:
        model: what messages call it.
        model_sha256: of the file.
        loss: that was asked about.
        layers: in model order.
        obstacles: nodes without a gradient, for either backend.
        installed: whether what a backend trains with is installed, by backend.
        refused: what keeps every layer from a backend, by backend; None for nothing.
        decisions: what the model's parts were taken for.
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
        return one_line(self, f"{file_name(self.model)}: {self._sum()}", lost)

    def _repr_html_(self) -> str:
        headings = ("layer", "operator", "backend", "portable", "ort", "reason")
        ordered = sorted(self.layers, key=lambda layer: layer.trainable)  # what stands in the way first
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
        lines = [f"{name}: no layer can be trained, since {why}" for name, why in self.refused.items() if why]
        missing = [name for name, there in self.installed.items() if not there]
        lines += [f"{name}: what it trains with is not installed" for name in missing]
        return html_table(f"{file_name(self.model)}: {self._sum()}", headings, rows, lines=lines, what="layer")

    def _sum(self) -> str:
        able = sum(layer.trainable for layer in self.layers)
        return f"{able:,} of {counted(len(self.layers), 'layer')} can be trained ({self.loss})"

    def to_dataframe(self, library: str | None = None) -> Any:
        """A row for each layer; the columns are those of the JSON's ``layers``, of what is inside with a dot.

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas where it is installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: another library is asked for.
            RuntimeMissingError: it, or either, is not installed.
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
        """The same about some of the layers."""
        layers = tuple(layer for layer in self.layers if layer.name in names)
        return replace(self, layers=layers)

    def to_json(self) -> dict[str, Any]:
        """As in the module."""
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
