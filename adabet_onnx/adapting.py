"""What the main job may be told."""

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
    """How `adapt` goes about its job: the options of all its steps.

    Attributes:
        num_classes: first give the model a new head of so many outputs; None: it keeps its own.
        keep_tail: with what belongs to the old head's outputs (a normalisation, an activation) kept.
        append: with all layers kept, and a linear classifier put on the outputs.
        preprocessing: by hand, in place of a preset.
        scoring: how layers are scored.
        choosing: which are chosen, within which budget (of a step at the batch size of ``settings``).
        choices: loss, optimizer and form of the training.
        settings: of the training.
        backend: portable, ort or auto, as in `make_artifacts`.
        seed: of everything that is random; None: that of ``settings``.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None is its own choice.
        check: verify artifacts and export.
        measure: measure step time and memory, against all layers and inference.
        save_predictions: also write what the adapted model predicts for each sample of the data that final figures are
            of, to this ``.csv``, ``.jsonl`` or ``.npz``; see `write_predictions`.

    Raises:
        UsageError: the backend is unknown, or a value is of another type or out of range; or predictions are to be
            written to a file that ends in something else.

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
        """What a new head keeps."""
        return {"keep_tail": self.keep_tail, "append": self.append}
