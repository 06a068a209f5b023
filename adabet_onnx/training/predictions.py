"""Prediction files with one entry per sample: ``.csv``, ``.jsonl`` or ``.npz``, written batch by batch.

For classes, the fields are ``input`` (file, or position in the data), ``label`` and ``label_name``, ``predicted`` and
``predicted_name``, ``probability`` (of the predicted class) and ``correct``. For several labels (bce-with-logits) they
are ``label``, ``predicted`` (0 or 1, from a probability above 0.5) and ``probability`` for each output, and
``correct``: whether all outputs are right. For numbers (mse, l1) they are ``label`` and ``predicted``. In a ``.csv``
each output has its own columns: ``predicted_0``, or with the output's name if names are unique. Without labels those
columns are omitted. Unknown names and unknown probabilities (the outputs may already be probabilities) are empty, null,
or omitted from an ``.npz``.

A ``.jsonl`` has one object per line, including ``logits``. An ``.npz`` has arrays with these names (class names are in
``classes``, in order) and the ``logits`` as the model returns them. It is the only format for labels per pixel or
token; there ``label`` is -100 where it is ignored (and not correct), and outputs per pixel that are not classes have no
``probability``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..data.data import Data
from ..errors import UsageError
from ..files import check_output, keep_apart, replacing
from .exact_loss import log_softmax

SUFFIXES = (".csv", ".jsonl", ".npz")
Columns = dict[str, np.ndarray]
Add = Callable[[np.ndarray, "np.ndarray | None"], None]


@dataclass(frozen=True)
class PredictionFormat:
    """The form of predictions.

    Attributes:
        loss: cross-entropy, mse, bce-with-logits or l1.
        shape: shape of the logits of one sample.
        axis: class axis of the logits, counting the batch axis; None without classes.
        classes: names of classes or outputs, or None.
        sure: whether a softmax of the logits gives probabilities.
    """

    loss: str
    shape: tuple[int, ...]
    axis: int | None
    classes: Sequence[str] | None = None
    sure: bool = True

    @property
    def outputs(self) -> int:
        """The number of classes or outputs, if a sample has at most one axis of them."""
        return math.prod(self.shape)

    @property
    def dense(self) -> bool:
        """Whether there is more than one label, or one row of outputs, per sample."""
        if self.axis is not None:
            return self.outputs > self.shape[self.axis - 1]
        return sum(extent != 1 for extent in self.shape) > 1

    def class_name(self, index: int) -> str | None:
        """Return the name of a class, or None."""
        return None if self.classes is None or not 0 <= index < len(self.classes) else str(self.classes[index])


def check_predictions(path: str | os.PathLike[str], *read: Any) -> Path:
    """Check that predictions can be written to a file, before any long computation.

    Args:
        path: path of the file.
        read: model and data; files among them must not be overwritten.

    Raises:
        UsageError: the suffix is not supported, or the file is one of the inputs.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    keep_apart(path, read_from(*read), "the file of predictions")
    return check_output(path)


def read_from(*sources: Any) -> list[Any]:
    """Return the paths contained in models or data as given by the caller."""
    values = [source.source if isinstance(source, Data) else source for source in sources]
    pairs = [item for source in values if isinstance(source, tuple | list) and len(source) == 2 for item in source]
    return [item for item in (*values, *pairs) if isinstance(item, str | os.PathLike)]


def check_form(path: str | os.PathLike[str], form: PredictionFormat) -> None:
    """Check that the predictions can be stored in a file with this suffix.

    Raises:
        UsageError: the suffix is not supported; or labels are per pixel or token, and it is not .npz.
    """
    if check_suffix(path) != ".npz" and form.dense:
        raise UsageError(
            f"{path}: the model has outputs per pixel or token, which do not fit in a row per sample. Save predictions "
            "as .npz."
        )


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a prediction file, in lower case.

    Raises:
        UsageError: the suffix is not in SUFFIXES.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: predictions are written to a file that ends in {', '.join(SUFFIXES)}.")
    return suffix


@contextlib.contextmanager
def saving(path: str | os.PathLike[str], form: PredictionFormat, inputs: Sequence[str]) -> Iterator[Add]:
    """Write predictions while the block runs; the file appears when the block ends without an error.

    Args:
        path: the file; its suffix selects the format.
        form: the form of the predictions.
        inputs: the name of each sample.

    Yields:
        A function that takes the logits of the next samples and their labels (as returned by `fit_labels`), or None.

    Raises:
        UsageError: as for `check_predictions`.
        OutputError: the file cannot be written.
    """
    check_form(path, form)
    suffix = Path(path).suffix.lower()
    with replacing(path) as part:
        if suffix == ".npz":
            with zipfile.ZipFile(part, "w") as archive, _ArchiveWriter(archive, form, inputs) as writer:
                yield writer.add
        else:
            with part.open("w", encoding="utf-8", newline="") as stream:
                yield _LineWriter(stream, form, inputs, as_csv=suffix == ".csv").add


def columns(form: PredictionFormat, logits: np.ndarray, labels: np.ndarray | None) -> Columns:
    """Compute the columns of some samples: ``predicted``, ``probability`` and, with labels, ``label`` and ``correct``.

    Args:
        form: the form of the predictions.
        logits: logits, batch first.
        labels: labels as returned by `fit_labels`, or None.
    """
    result: Columns = {} if labels is None else {"label": labels}
    if form.axis is not None:
        class_last = np.moveaxis(logits, form.axis, -1)
        result["predicted"] = class_last.argmax(-1)
        if form.sure:
            result["probability"] = np.exp(log_softmax(class_last.astype(np.float64)).max(-1)).astype(np.float32)
        if labels is not None:
            result["correct"] = result["predicted"] == labels
    elif form.loss == "bce-with-logits":
        result["predicted"] = (logits > 0).astype(np.uint8)
        if not form.dense:
            result["probability"] = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        if labels is not None:
            matches = result["predicted"] == (labels > 0.5)
            result["correct"] = matches if form.dense else matches.reshape(len(logits), -1).all(-1)
    else:
        result["predicted"] = logits
    if form.dense:
        return result
    single = form.axis is not None
    return {key: array.reshape(-1) if single or key == "correct" else _flat(array) for key, array in result.items()}


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


class _LineWriter:
    """Writes a line for each sample, in ``.csv`` or ``.jsonl``."""

    def __init__(self, stream: IO[str], form: PredictionFormat, inputs: Sequence[str], *, as_csv: bool) -> None:
        self._stream, self._form, self._inputs, self._done = stream, form, inputs, 0
        self._csv = csv.writer(stream, lineterminator="\n") if as_csv else None

    def add(self, logits: np.ndarray, labels: np.ndarray | None) -> None:
        """Write the next samples."""
        values = columns(self._form, logits, labels)
        for i, row in enumerate(_flat(logits)):
            entry = self._entry(self._inputs[self._done], {key: array[i] for key, array in values.items()})
            if self._csv is None:
                if self._form.loss not in ("mse", "l1"):  # for these the outputs are the predictions
                    entry["logits"] = row.tolist()
                self._stream.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
            else:
                flat = self._in_columns(entry)
                if self._done == 0:
                    self._csv.writerow(flat)
                self._csv.writerow([_csv_value(value) for value in flat.values()])
            self._done += 1

    def _entry(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"input": name}
        single = self._form.axis is not None
        for key in ("label", "predicted"):
            if key in values:
                entry[key] = values[key].tolist()
                if single:
                    entry[f"{key}_name"] = self._form.class_name(int(values[key]))
        if self._form.loss not in ("mse", "l1"):
            entry["probability"] = values["probability"].tolist() if "probability" in values else None
        if "correct" in values:
            entry["correct"] = bool(values["correct"])
        return entry

    def _in_columns(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Split lists into one column per output."""
        flat: dict[str, Any] = {}
        for key, value in entry.items():
            if not isinstance(value, list):
                flat[key] = value
                continue
            names = [str(name) for name in self._form.classes or ()]
            unique_names = names if len(names) == len(set(names)) == len(value) else None  # else a column is lost
            for i, item in enumerate(value):
                flat[key if len(value) == 1 else f"{key}_{i if unique_names is None else unique_names[i]}"] = item
        return flat


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.7g}" if isinstance(value, float) else value


class _ArchiveWriter:
    """Writes arrays to an .npz: logits immediately, and the rest, which is small in comparison, at the end."""

    def __init__(self, archive: zipfile.ZipFile, form: PredictionFormat, inputs: Sequence[str]) -> None:
        self._archive, self._form, self._inputs = archive, form, inputs
        self._parts: dict[str, list[np.ndarray]] = {}
        self._logits: IO[bytes] | None = None
        self._streamed = "predicted" if form.loss in ("mse", "l1") and form.axis is None else "logits"

    def __enter__(self) -> _ArchiveWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._logits is not None:
            self._logits.close()
        if kind is None:
            for name, parts in self._parts.items():
                self._write(name, np.concatenate(parts))
            self._write("input", np.array(self._inputs))
            if self._form.classes is not None:
                self._write("classes", np.array([str(name) for name in self._form.classes]))

    def add(self, logits: np.ndarray, labels: np.ndarray | None) -> None:
        """Add the next samples."""
        values = columns(self._form, logits, labels)
        streamed = values.pop(self._streamed, logits)
        if self._logits is None:
            self._logits = self._archive.open(f"{self._streamed}.npy", "w", force_zip64=True)
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._inputs), *streamed.shape[1:])}
            np.lib.format.write_array_header_1_0(self._logits, header)
        self._logits.write(np.ascontiguousarray(streamed, "<f4").tobytes())
        for key, array in values.items():
            self._parts.setdefault(key, []).append(self._narrow(key, array))

    def _narrow(self, key: str, array: np.ndarray) -> np.ndarray:
        """Store class indices, of which there may be one per pixel, in the smallest suitable integer type."""
        if self._form.axis is None or key not in ("label", "predicted"):
            return array
        return array.astype(np.min_scalar_type(-max(self._form.shape[self._form.axis - 1], 100) - 1))

    def _write(self, name: str, array: np.ndarray) -> None:
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)
