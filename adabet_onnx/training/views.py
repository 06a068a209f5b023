"""Views of the samples of a training: how many there are, in which order they are kept, and which an epoch takes.

A sample that is trained on has ``count`` views, the first of which is the sample itself (see data/augment.py); one that
is held out for validation has that one alone. Kept are all views of the first sample, then those of the second, and so
on. An epoch takes one view of each sample: the one after that of the epoch before, the first one being drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .. import seeds
from ..data.augment import Augmentation
from ..data.dataset import Dataset
from ..data.feeder import Feeder
from ..errors import DataError
from ..model.dims import Dims

_MOVING = ("flip", "crop")


@dataclass(frozen=True)
class Views:
    """The views of the samples of a training.

    Attributes:
        samples: how many there are, those that are held out too.
        training: which are trained on, ascending.
        count: views of each of these; 1: the samples themselves alone.
        augmentation: what the others are; None where there are none.
    """

    samples: int
    training: np.ndarray
    count: int = 1
    augmentation: Augmentation | None = None

    @cached_property
    def _first(self) -> np.ndarray:
        """Where the views of each sample begin; at the end, how many there are."""
        each = np.ones(self.samples, np.int64)
        each[self.training] = self.count
        return np.concatenate([[0], np.cumsum(each)])

    @property
    def total(self) -> int:
        """How many views there are of all samples."""
        return int(self._first[-1])

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample and view of some of what is kept, from one row to before another."""
        places = np.arange(start, min(stop, self.total))
        samples = np.searchsorted(self._first, places, side="right") - 1
        return samples, places - self._first[samples]

    def places(self, samples: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Which rows are these views (None: the first) of these samples."""
        first: np.ndarray = self._first[samples]
        return first if views is None else first + views

    def of(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All views of some samples: the sample and the view of each, sample after sample."""
        each = self._first[samples + 1] - self._first[samples]
        begin = np.repeat(np.cumsum(each) - each, each)
        return np.repeat(samples, each), np.arange(int(each.sum())) - begin

    def of_epoch(self, epoch: int) -> np.ndarray | None:
        """Which view of each sample an epoch takes; None where there is but one. Those held out have the first."""
        if self.augmentation is None:
            return None
        first = seeds.views(self.augmentation.seed).integers(0, self.count, self.samples)
        found = np.zeros(self.samples, np.int64)
        found[self.training] = (first[self.training] + epoch) % self.count
        return found


def check_augmented(kinds: tuple[str, ...], feeder: Feeder, dataset: Dataset, *, labelled: Dims) -> None:
    """See that there are pictures to make views of, and that labels stay true of them.

    Args:
        kinds: of vocabulary.AUGMENTS; nothing is checked where there are none.
        feeder: makes input of the data.
        dataset: it.
        labelled: shape of the logits: with more than two axes, pixels or tokens have labels of their own.

    Raises:
        DataError: no input gets pictures of uint8, or labels belong to pixels that would be moved.
    """
    if not kinds:
        return
    if not feeder.pictures(dataset):
        kept = ", ".join(f"{form.dtype} {form.shape}" for form in dataset.rows.forms.values())
        raise DataError(
            f"{dataset.name}: `augment` changes pictures, which are uint8 (0 to 255) for an input that takes pictures, "
            f"but samples are {kept}. Give uint8 pixels or a folder of images, or leave `augment` out."
        )
    moving = [kind for kind in kinds if kind in _MOVING]
    if len(labelled) > 2 and moving:
        raise DataError(
            f"{dataset.name} has a label for each pixel, to which {' and '.join(moving)} would move another one. Use "
            "`augment=('colour',)`, or leave `augment` out."
        )
