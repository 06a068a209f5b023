"""Options of `adapt`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .data.preprocess import Preprocessing
from .options import check_fields, check_word
from .runtime import Threads
from .scoring.options import Scoring
from .seeds import check_seed
from .selection.options import Choosing
from .showing import changed
from .trainability.choices import Choices
from .training.predictions import check_suffix
from .training.settings import Settings
from .vocabulary import BACKENDS


@dataclass(frozen=True)
class Adapting:
    """Options of all steps of `adapt`.

    Attributes:
        num_classes: give the model a new head with this many outputs first; None: it keeps its own.
        keep_tail: with a new head, keep the operators after the old one (a normalisation, an activation).
        append: keep all layers and add a linear classifier to the outputs.
        preprocessing: image preprocessing that replaces a preset.
        scoring: how layers are scored.
        choosing: how layers are chosen, and within which budget (for a step at the batch size of ``settings``).
        choices: loss, optimizer and form of the training.
        settings: training settings.
        backend: portable, ort or auto, as in `make_artifacts`.
        seed: random seed; None: that of ``settings``.
        threads: number of threads for ONNX Runtime, or a `Runtime` with an execution provider; None: ONNX Runtime's
            choice.
        check: whether to verify artifacts and export.
        measure: whether to measure time and memory of a step, also for all layers and for inference.
        save_predictions: a ``.csv``, ``.jsonl`` or ``.npz`` file for the adapted model's predictions on the evaluated
            samples; see `write_predictions`.

    Raises:
        UsageError: the backend is unknown, a value has the wrong type or is out of range, or the file for predictions
            has another suffix.

    Example:
        >>> from adabet_onnx import Adapting, Choosing, Settings
        >>> Adapting(choosing=Choosing(rho=0.2), settings=Settings(epochs=20)).backend
        'auto'
    """

    num_classes: int | None = None
    keep_tail: bool = False
    append: bool = False
    preprocessing: Preprocessing | None = None
    scoring: Scoring = field(default_factory=Scoring)
    choosing: Choosing = field(default_factory=Choosing)
    choices: Choices = field(default_factory=Choices)
    settings: Settings = field(default_factory=Settings)
    backend: str = "auto"
    seed: int | None = None
    threads: Threads = None
    check: bool = True
    measure: bool = True
    save_predictions: str | os.PathLike[str] | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        check_word("backend", self.backend, BACKENDS)
        if self.seed is not None:
            check_seed(self.seed)
        if self.save_predictions is not None:
            check_suffix(self.save_predictions)

    @property
    def kept(self) -> dict[str, bool]:
        """The options that say what a new head keeps."""
        return {"keep_tail": self.keep_tail, "append": self.append}
