"""The settings of a training, apart from its loss and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ..data.augment import VIEWS, Augmentation, most_views
from ..errors import UsageError
from ..options import check_fields, fitted
from ..showing import changed
from ..sizes import parse_size
from ..vocabulary import AUGMENTS, AUTO, FEATURES, HEAD_INITS
from .schedule import SCHEDULES

LEARNING_RATES = {"adamw": 1e-3, "adamw-torch": 1e-3, "sgd": 1e-2}  # the optimizers' default rates
BATCH_SIZE = 32
_HOW_TO_RUN = ("features", "features_memory", "keep_features")  # settings that may change when a training is resumed


@dataclass(frozen=True)
class Settings:
    """The settings of a training; stored with every checkpoint, so that a resumed training uses the same.

    Attributes:
        epochs: passes over the training data; 0: do not train.
        batch_size: samples per step; the last step of an epoch may have fewer. None: 32. (If neither this nor
            ``accumulate`` is given, both are taken from the selection's budget.)
        accumulate: batches whose gradients are accumulated for one update, as if they were one batch; a step then
            consists of this many batches. None: 1.
        learning_rate: learning rate of the first step, or ``"auto"``: found by a short search on the validation data
            (see `rate_search`). None: auto.
        schedule: constant, linear or cosine (the latter two fall to zero).
        seed: random seed of the data order and the validation split.
        validation: fraction of the training data used for eval_loss and early stopping, not for training.
        patience: stop after this many epochs without a lower eval_loss and keep the best epoch; None: never.
        augment: random changes to training images: ``flip``, ``crop``, ``colour`` (see data/augment.py); empty: none.
            Validation images are not changed.
        views: number of variants of each image, including the image itself; an epoch uses one of each. Kept features
            grow by this factor. None: 4 with augmentation (2 with flip alone), else 1.
        features: where to keep the outputs of the frozen part, which are then computed once for all epochs: ``memory``,
            ``disk`` (a file in the artifact folder), or ``auto``: in memory up to ``features_memory``, else on disk.
            ``off`` recomputes them in every step, as does a training without enough space. The results are the same.
            (Only the portable backend supports this; if the first layer is trained, there is nothing to keep.)
        features_memory: most bytes of features to keep in memory, or text such as ``"2GB"``; None: a quarter of the
            free memory.
        keep_features: keep the file after training, for another training with the same data and frozen layers.
        head_init: how a new head starts: ``fitted`` to its inputs, in one pass before the first epoch (see
            `head_start`), ``random`` as in the model, or ``auto``: fitted if possible.

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
    learning_rate: float | str | None = None
    schedule: str = "cosine"
    seed: int = 0
    validation: float = 0.1
    patience: int | None = None
    augment: tuple[str, ...] = ()
    views: int | None = None
    features: str = "auto"
    features_memory: int | str | None = None
    keep_features: bool = False
    head_init: str = "auto"

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.epochs < 0 or self.size < 1:
            raise UsageError(
                f"epochs must be at least 0 and the batch size at least 1, not {self.epochs} and {self.size}."
            )
        if self.parts < 1:
            raise UsageError(f"an update needs the gradients of at least 1 batch, not {self.parts}.")
        object.__setattr__(self, "learning_rate", parse_rate(self.learning_rate))
        if self.schedule not in SCHEDULES:
            raise UsageError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}.")
        if not 0 <= self.validation < 1:
            raise UsageError(f"the validation fraction must be at least 0 and below 1, not {self.validation}.")
        if self.patience is not None and (self.patience < 1 or self.validation == 0):
            raise UsageError("early stopping needs a patience of at least 1 and a validation fraction above 0.")
        self._check_views()
        if self.features not in FEATURES:
            raise UsageError(f"unknown features {self.features!r}: choose one of {', '.join(FEATURES)}.")
        if self.head_init not in HEAD_INITS:
            raise UsageError(f"unknown head_init {self.head_init!r}: choose one of {', '.join(HEAD_INITS)}.")
        if self.features_memory is not None:
            object.__setattr__(self, "features_memory", parse_size(self.features_memory, "features_memory"))
            if self.features in ("disk", "off"):
                raise UsageError(f"`features_memory` has no effect with `features={self.features!r}`. Leave out one.")
        if self.keep_features and self.features in ("memory", "off"):
            raise UsageError(
                f"with `features={self.features!r}` there is no file that `keep_features` could keep. Leave out one."
            )

    @property
    def size(self) -> int:
        """Samples per batch."""
        return BATCH_SIZE if self.batch_size is None else self.batch_size

    @property
    def parts(self) -> int:
        """Batches per update."""
        return 1 if self.accumulate is None else self.accumulate

    def _check_views(self) -> None:
        for kind in self.augment:
            if kind not in AUGMENTS:
                raise UsageError(f"unknown augmentation {kind!r}: choose from {', '.join(AUGMENTS)}.")
        object.__setattr__(self, "augment", tuple(kind for kind in AUGMENTS if kind in self.augment))
        most = most_views(self.augment)
        if not self.augment and self.views not in (None, 1):
            raise UsageError("`views` needs augmented images: choose the changes with `augment`, or leave `views` out.")
        if self.augment and self.views is not None and not 2 <= self.views <= (most or self.views):
            if most is not None and self.views > most:
                raise UsageError(f"flip alone makes {most} `views`, not {self.views}. Leave `views` out, or add crop.")
            raise UsageError(
                f"with `augment` there must be at least 2 `views`, the image itself being the first, not {self.views}."
            )

    @property
    def variants(self) -> int:
        """Views of each training sample."""
        default = (most_views(self.augment) or VIEWS) if self.augment else 1
        return default if self.views is None else self.views

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation that makes the views; None without augmentation."""
        return Augmentation(self.augment, self.seed) if self.augment else None

    @property
    def memory(self) -> int | None:
        """The limit for features in memory in bytes, if given."""
        return None if self.features_memory is None else int(self.features_memory)

    @property
    def searched(self) -> bool:
        """Whether the learning rate is to be searched for."""
        return self.learning_rate in (None, AUTO)

    @property
    def rate(self) -> float:
        """The learning rate of the first step, if it is a number."""
        assert isinstance(self.learning_rate, float | int)
        return self.learning_rate

    def settled(self) -> Settings:
        """Return the settings with all defaults filled in, except for a rate to be searched for."""
        rate = AUTO if self.learning_rate is None else self.learning_rate
        return replace(self, batch_size=self.size, accumulate=self.parts, views=self.variants, learning_rate=rate)

    def resumed(self, requested: Settings) -> Settings:
        """Return these settings of an interrupted training, for resuming it.

        Args:
            requested: the settings requested by the caller; None leaves a value open. They decide where features are
                kept, which does not affect results.

        Raises:
            UsageError: a requested setting differs from the stored one. Only a constant schedule, or a training of no
                epochs, can be resumed for more epochs.
        """
        longer = (self.schedule == "constant" or self.epochs == 0) and requested.epochs > self.epochs
        for field in (field for field in fields(self) if field.name not in _HOW_TO_RUN):
            value, stored = getattr(requested, field.name), getattr(self, field.name)
            if value not in (None, stored) and not (field.name == "epochs" and longer):
                hint = " (Only a constant schedule can be resumed for more epochs.)" if field.name == "epochs" else ""
                raise UsageError(
                    f"the training to be resumed has `{field.name}` {_value_text(stored)}, not {_value_text(value)}. "
                    f"Leave it out, or start again without `resume`.{hint}"
                )
        return replace(
            self,
            epochs=requested.epochs if longer else self.epochs,
            **{name: getattr(requested, name) for name in _HOW_TO_RUN},
        )


def _value_text(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def parse_rate(value: float | str | None) -> float | str | None:
    """Check a learning rate: a number above 0, ``"auto"``, or None.

    Args:
        value: the value, possibly a NumPy number.

    Raises:
        UsageError: it is anything else.
    """
    if isinstance(value, str):
        if value != AUTO:
            raise UsageError(f"the learning rate must be a number above 0 or {AUTO!r}, not {value!r}.")
        return value
    if value is None:
        return None
    rate: float = fitted("learning_rate", value, float | str | None)
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"the learning rate must be above 0, not {rate}.")
    return rate
