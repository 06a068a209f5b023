"""The forms in which a caller may pass data."""

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
    """Data, with what cannot be read from its shape. Every ``data`` parameter takes a `Data` or any of its sources.

    ``source`` is one of:

    * the path of an ``.npz`` file with ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``; optionally
      ``classes``. uint8 images or floats. For a model with several inputs, arrays named after the inputs (with
      ``_train`` and ``_test`` if split) and ``y``, or ``labels`` if an input is called ``y``;
    * the path of a folder with such arrays as ``.npy`` files (``x.npy`` and ``y.npy``, or ``x_train.npy`` and so on);
      the path of one of them, which uses the labels next to it (``x_train.npy`` those of ``y_train.npy``); or a pair of
      paths, ``("images.npy", "labels.npy")``;
    * the path of a folder of images, one folder per class, or ``train/`` and ``test/`` with such folders. Without
      ``test/``, a fifth is split off with a fixed seed;
    * an array of shape (N, ...), a pair ``(x, y)``, or a mapping to arrays with the same keys as an .npz (including
      names of inputs);
    * a re-iterable of batches (a list, or a data loader that can be iterated again), each an array, a mapping of
      input names to arrays, or a pair of either with labels.

    Samples of arrays of more than 64 MiB in ``.npy`` files, or in an uncompressed ``.npz`` (`numpy.savez`), are read
    from the file when they are needed, like the images of a folder, so the data may be larger than memory. Do not
    change the file while it is in use. Compressed arrays are read completely when the file is opened.

    Labels are class indices (any integer dtype) or, for mse, l1 and bce-with-logits, float targets in the shape of the
    outputs. Scoring does not use labels. Scoring and training use the training part; final figures use the test part,
    if there is one.

    Attributes:
        source: see above.
        layout: the axes of arrays, where their shape is ambiguous: a letter for each axis as stored, N (the samples)
            first, C for channels or features, H and W for rows and columns, D for depth, T for time; several letters
            in brackets for axes that are flattened into one. ``"NTC"``, ``"NHWC"``, ``"N(HW)"``; for data and model
            ``"NTC:NCT"``; for one of several inputs ``"audio=NTC"``, or a mapping of inputs to layouts.
        allow_resize: also resize arrays to the size of the model's images where that is unlikely to be intended (by
            more than 8 times, with a distortion of more than 2, or arrays of floats).

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
        """The layout and resizing options."""
        return Reading(self.layout, self.allow_resize)
