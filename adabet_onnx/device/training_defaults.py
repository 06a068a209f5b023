"""The settings with which a device trains unless its program chooses others, and what a user should know about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sizes import size_text
from ..training.settings import BATCH_SIZE, LEARNING_RATES
from ..vocabulary import AUTO
from .choosing import needed_bytes
from .packing import Packing

SEED = 0


@dataclass(frozen=True)
class TrainingDefaults:
    """The default settings of training on a device.

    Attributes:
        learning_rate: the learning rate of every step.
        batch_size: samples per step. Each step is an update: devices do not accumulate gradients.
        epochs: passes over the data.
        usual_of: the optimizer whose usual rate this is; None if the rate was given or is that of a training.
        trained: for the rate of a training that was made in other batches: their size, and their number per update.
    """

    learning_rate: float
    batch_size: int
    epochs: int
    usual_of: str | None = None
    trained: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry in device.json."""
        return {
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "seed": SEED,
        }

    def notes(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a user should know, a sentence each.

        Args:
            entries: the choices of layers, which all train with these settings.
        """
        notes = []
        if self.usual_of is not None:
            notes.append(
                f"the learning rate {self.learning_rate:g} is the usual one of {self.usual_of}, not one that was found "
                "for this model: if a run or training found one (the line 'learning rate' of its output), pass it as "
                "`learning_rate`"
            )
        if self.trained is not None:
            notes.append(self._note_on_updates(entries[0]["memory"]))
        if len(entries) > 1:
            most = max(entries, key=lambda entry: int(entry["trained"]))
            notes.append(
                "all choices train with this learning rate: one that was found for few layers can be much too high for "
                f"{most['name']}, which trains {most['trained']:,} values"
            )
        return notes

    def _note_on_updates(self, memory: Sequence[tuple[int, int]]) -> str:
        size, parts = self.trained or (self.batch_size, 1)
        accumulated = f" ({parts} batches of {size}, accumulated)" if parts > 1 else ""
        one, whole = (size_text(needed_bytes(memory, batch)) for batch in (self.batch_size, size * parts))
        return (
            f"the learning rate {self.learning_rate:g} is that of a training with updates of {size * parts} "
            f"samples{accumulated}; a device does not accumulate and updates after each batch of {self.batch_size}. "
            f"`batch_size={size * parts}` makes its updates as large; a step then takes {whole} instead of {one}"
        )


def training_defaults(packing: Packing, optimizer: str, started: Mapping[str, Any]) -> TrainingDefaults:
    """Return the default settings of a package.

    Args:
        packing: the form of the package, with the settings that were given.
        optimizer: the optimizer of the training.
        started: what the checkpoint with the initial values stores about the training that wrote it; empty if none did.
    """
    settings = started.get("settings") or {}
    size = settings.get("batch_size") or BATCH_SIZE
    parts = settings.get("accumulate") or 1
    batch_size = packing.batch_size or size
    rate, trained = packing.learning_rate, None
    if rate is None:
        given = settings.get("learning_rate")
        rate = (started.get("rates") or {}).get("rate") if given == AUTO else given
        if rate is not None and batch_size != size * parts:
            trained = size, parts
    usual = rate is None
    return TrainingDefaults(
        learning_rate=float(LEARNING_RATES[optimizer] if rate is None else rate),
        batch_size=batch_size,
        epochs=packing.epochs,
        usual_of=optimizer if usual else None,
        trained=trained,
    )
