"""Views of the samples of a training: their number, their order when kept, and which of them an epoch uses.

A training sample has ``count`` views, the first of which is the sample itself (see data/augment.py); a validation
sample only has that one. All views of the first sample are stored first, then those of the second, and so on. An epoch
uses one view of each sample: the one after that of the previous epoch, starting with a random one.
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
        samples: number of samples, including validation samples.
        training: indices of the training samples, ascending.
        count: views of each training sample; 1: only the samples themselves.
        augmentation: produces the other views; None if there are none.
    """

    samples: int
    training: np.ndarray
    count: int = 1
    augmentation: Augmentation | None = None

    @cached_property
    def _first(self) -> np.ndarray:
        """The row where each sample's views begin; the last entry is the total number."""
        counts = np.ones(self.samples, np.int64)
        counts[self.training] = self.count
        return np.concatenate([[0], np.cumsum(counts)])

    @property
    def total(self) -> int:
        """The number of views of all samples."""
        return int(self._first[-1])

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the sample and view numbers of the rows from ``start`` to before ``stop``."""
        places = np.arange(start, min(stop, self.total))
        samples = np.searchsorted(self._first, places, side="right") - 1
        return samples, places - self._first[samples]

    def places(self, samples: np.ndarray, views: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these views (None: the first) of these samples."""
        first: np.ndarray = self._first[samples]
        return first if views is None else first + views

    def of(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all views of some samples, as sample and view numbers, sample by sample."""
        counts = self._first[samples + 1] - self._first[samples]
        begin = np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(samples, counts), np.arange(int(counts.sum())) - begin

    def of_epoch(self, epoch: int) -> np.ndarray | None:
        """Return the view of each sample that an epoch uses (the first for validation); None if there is only one."""
        if self.augmentation is None:
            return None
        first = seeds.views(self.augmentation.seed).integers(0, self.count, self.samples)
        numbers = np.zeros(self.samples, np.int64)
        numbers[self.training] = (first[self.training] + epoch) % self.count
        return numbers


def check_augmented(kinds: tuple[str, ...], feeder: Feeder, dataset: Dataset, *, labelled: Dims) -> None:
    """Check that there are images to augment, and that their labels remain valid.

    Args:
        kinds: from vocabulary.AUGMENTS; nothing is checked if empty.
        feeder: converts the data to model input.
        dataset: the data.
        labelled: shape of the logits; with more than two axes, each pixel or token has a label.

    Raises:
        DataError: no input takes uint8 images, or labels belong to pixels that would be moved.
    """
    if not kinds:
        return
    if not feeder.pictures(dataset):
        formats = ", ".join(f"{form.dtype} {form.shape}" for form in dataset.rows.forms.values())
        raise DataError(
            f"{dataset.name}: `augment` works on images, which are uint8 (0 to 255) for an image input, "
            f"but samples are {formats}. Give uint8 pixels or a folder of images, or leave `augment` out."
        )
    moving = [kind for kind in kinds if kind in _MOVING]
    if len(labelled) > 2 and moving:
        raise DataError(
            f"{dataset.name} has a label for each pixel, which {' and '.join(moving)} would no longer match. Use "
            "`augment=('colour',)`, or leave `augment` out."
        )
