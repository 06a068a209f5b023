"""What a training does, apart from its loss and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from ..errors import UsageError
from ..options import check_fields
from ..showing import changed
from ..sizes import parse_size
from ..vocabulary import FEATURES, HEAD_INITS
from .schedule import SCHEDULES

LEARNING_RATES = {"adamw": 1e-3, "adamw-torch": 1e-3, "sgd": 1e-2}
BATCH_SIZE = 32
_HOW_TO_RUN = ("features", "features_memory", "keep_features")  # what a resumed training may have otherwise


@dataclass(frozen=True)
class Settings:
    """What a training does; stored with every checkpoint, so that a resumed one does the same.

    Attributes:
        epochs: passes over the training data.
        batch_size: samples per step; the last step of an epoch may have fewer. None: 32. (Where neither this nor
            ``accumulate`` is given, both are as the selection's budget was made for.)
        accumulate: batches whose gradients are gathered for one update, as if they were one batch; a step is then
            so many batches. None: 1.
        learning_rate: of the first step; None: 1e-3 for adamw, 1e-2 for sgd.
        schedule: constant, linear or cosine (the latter two fall to zero).
        seed: of the data order and the validation split.
        validation: fraction of the training data used for eval_loss and early stopping, not for training.
        patience: stop after so many epochs without a lower eval_loss and keep the best epoch; None: never.
        features: where to keep what no training changes, which is then computed once for all epochs: ``memory``,
            ``disk`` (a file in the folder of the artifacts), or ``auto``: in memory up to ``features_memory``, else on
            disk. ``off`` computes it anew in every step, and so does a training for which there is no space. The
            results are the same. (Only the portable backend has it; where the first layer is trained there is nothing
            to keep.)
        features_memory: bytes that may be kept in memory, or text such as ``"2GB"``; None is a quarter of what is free.
        keep_features: leave the file there when training ends, for another one with the same data and frozen layers.
        head_init: how a new head starts: ``fitted`` to what it is given, in one pass before the first epoch (see
            `head_start`), ``random`` as it is in the model, or ``auto``: fitted where that can be done.

    Raises:
        UsageError: a value is out of range, or two exclude each other.

    Example:
        >>> from adabet_onnx import Settings
        >>> Settings(epochs=20, learning_rate=0.003).schedule
        'cosine'
    """

    epochs: int = 10
    batch_size: int | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    schedule: str = "cosine"
    seed: int = 0
    validation: float = 0.1
    patience: int | None = None
    features: str = "auto"
    features_memory: int | str | None = None
    keep_features: bool = False
    head_init: str = "auto"

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epochs < 1 or self.size < 1:
            raise UsageError(f"epochs and batch size must be at least 1, not {self.epochs} and {self.size}.")
        if self.parts < 1:
            raise UsageError(f"an update takes the gradients of at least 1 batch, not {self.parts}.")
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"the learning rate must be above 0, not {rate}.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}.")
        if not 0 <= self.validation < 1:
            raise UsageError(f"the validation fraction must be at least 0 and below 1, not {self.validation}.")
        if self.patience is not None and (self.patience < 1 or self.validation == 0):
            raise UsageError("early stopping needs a patience of at least 1 and a validation fraction above 0.")
        if self.features not in FEATURES:
            raise UsageError(f"unknown features {self.features!r}: choose one of {', '.join(FEATURES)}.")
        if self.head_init not in HEAD_INITS:
            raise UsageError(f"unknown head_init {self.head_init!r}: choose one of {', '.join(HEAD_INITS)}.")
        if self.features_memory is not None:
            object.__setattr__(self, "features_memory", parse_size(self.features_memory, "features_memory"))
            if self.features in ("disk", "off"):
                raise UsageError(f"`features_memory` says nothing with `features={self.features!r}`. Leave out one.")
        if self.keep_features and self.features in ("memory", "off"):
            raise UsageError(
                f"with `features={self.features!r}` there is no file that `keep_features` could leave. Leave out one."
            )

    @property
    def size(self) -> int:
        """Samples of a batch."""
        return BATCH_SIZE if self.batch_size is None else self.batch_size

    @property
    def parts(self) -> int:
        """Batches of an update."""
        return 1 if self.accumulate is None else self.accumulate

    @property
    def memory(self) -> int | None:
        """Bytes of features that may be in memory, where that was said."""
        return None if self.features_memory is None else int(self.features_memory)

    @property
    def rate(self) -> float:
        """Of the first step, where it has been settled."""
        assert self.learning_rate is not None
        return self.learning_rate

    def settled(self, optimizer: str) -> Settings:
        """With the optimizer's usual rate where none is given."""
        return replace(
            self,
            batch_size=self.size,
            accumulate=self.parts,
            learning_rate=self.learning_rate or LEARNING_RATES[optimizer],
        )

    def resumed(self, wanted: Settings) -> Settings:
        """These settings, stored with an interrupted training, where it goes on.

        Args:
            wanted: settings that are asked for; what is None is left open. Where features are kept is as these say:
                results do not depend on it.

        Raises:
            UsageError: something else is asked for than what is stored. Only a constant schedule can go on for more
                epochs.
        """
        longer = self.schedule == "constant" and wanted.epochs > self.epochs
        for field in (field for field in fields(self) if field.name not in _HOW_TO_RUN):
            value, stored = getattr(wanted, field.name), getattr(self, field.name)
            if value not in (None, stored) and not (field.name == "epochs" and longer):
                raise UsageError(
                    f"the training to be resumed has {field.name} {stored}, not {value}. Leave it out, or "
                    "start again without `resume`. (Only a constant schedule can be resumed for more epochs.)"
                )
        return replace(
            self,
            epochs=wanted.epochs if longer else self.epochs,
            **{name: getattr(wanted, name) for name in _HOW_TO_RUN},
        )
