"""What a caller may hand over as data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..options import check_fields
from ..showing import clipped, one_line
from .reading import Reading


@dataclass(frozen=True)
class Data:
    """Data, together with what its shape does not say. Every ``data`` parameter takes one, or what ``source`` may be.

    ``source`` is one of:

    * the path of an ``.npz`` file with ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``; optionally
      ``classes``. uint8 images or floats. For a model with several inputs, arrays named like them (with ``_train`` and
      ``_test`` where it is split), and ``y``, which is called ``labels`` where an input is called ``y``;
    * the path of a folder with such arrays as ``.npy`` files (``x.npy`` and ``y.npy``, or ``x_train.npy`` and so on);
      the path of one of them, which takes the labels beside it (``x_train.npy`` those of ``y_train.npy``); or a pair of
      paths, ``("images.npy", "labels.npy")``;
    * the path of a folder of images, one folder per class, or ``train/`` and ``test/`` with such folders. Without
      ``test/`` a seeded fifth is set aside, always the same;
    * an array of shape (N, ...), a pair ``(x, y)``, or a mapping of the names that an .npz has (names of inputs among
      them) to arrays;
    * a re-iterable of batches (a list, or a data loader whose ``__iter__`` begins anew), each an array, a mapping of
      input names to arrays, or a pair of either with labels.

    Of arrays of more than 64 MiB in ``.npy`` files, or in an ``.npz`` that is not compressed (`numpy.savez`), samples
    are read from the file when they are needed, as images of a folder are: they may be larger than memory. Leave the
    file as it is meanwhile. What is compressed is read at once.

    Labels are class indices (any integer dtype) or, for mse, l1 and bce-with-logits, float targets in the shape of the
    outputs. Scoring needs none, and never looks at them. Scoring and training take the training part, final figures
    the test part where there is one.

    Attributes:
        source: see above.
        layout: what the axes of arrays are, where their shape leaves it open: a letter for each axis as stored, N (the
            samples) first, C for channels or features, H and W for rows and columns, D for depth, T for time; several
            in brackets where they are flattened into one. ``"NTC"``, ``"NHWC"``, ``"N(HW)"``; for data and model
            ``"NTC:NCT"``; for one of several inputs ``"audio=NTC"``, or a mapping of inputs to layouts.
        allow_resize: resize arrays to the size of the model's images also where that is hardly meant (by more than 8
            times, from a shape beyond 2:1, or arrays of floats).

    Raises:
        UsageError: a layout is not of this form.

    Example:
        >>> from adabet_onnx import Data
        >>> Data("recordings.npz", layout="NTC").layout
        'NTC'
    """

    source: Any
    layout: str | Sequence[str] | Mapping[str, str] | None = None
    allow_resize: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.reading

    def __repr__(self) -> str:
        source = self.source
        what = repr(clipped(source, 80)) if isinstance(source, str | os.PathLike) else type(source).__name__
        layout = None if self.layout is None else f"layout={clipped(self.layout)!r}"
        return one_line(self, what, layout, "allow_resize=True" if self.allow_resize else None)

    @property
    def reading(self) -> Reading:
        """What is said about axes and sizes."""
        return Reading(self.layout, self.allow_resize)
