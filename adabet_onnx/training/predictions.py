"""Files of predictions, a sample each: ``.csv``, ``.jsonl`` or ``.npz``, written batch by batch.

Of classes there are ``input`` (file, or position in the data), ``label`` and ``label_name``, ``predicted`` and
``predicted_name``, ``probability`` (of what is predicted) and ``correct``. Of several labels (bce-with-logits)
``label``, ``predicted`` (0 or 1, from a probability above 0.5) and ``probability`` of each output, and ``correct``:
all of them are. Of numbers (mse, l1) ``label`` and ``predicted``. In a ``.csv`` what there is of each output has a
column of its own: ``predicted_0``, or with the name of the output, where no two have the same. Without labels those
columns are left out. A name that is not known and a probability that is none (the outputs may be probabilities already)
are empty, null, or left out of an ``.npz``.

A ``.jsonl`` has an object in each line, and ``logits`` in it; an ``.npz`` has arrays with these names (but for names of
classes: ``classes`` has them in order), the ``logits`` as the model gives them, and is the only form for a label per
pixel or token; there ``label`` is -100 where it is ignored (and not correct), and of outputs per pixel that are no
classes there is no ``probability``.
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
    """What predictions are of.

    Attributes:
        loss: cross-entropy, mse, bce-with-logits or l1.
        shape: of the logits of one sample.
        axis: of the classes in the logits, counted with the batch; None where there are none.
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
        """How many classes or outputs there are, where a sample has no more than one axis of them."""
        return math.prod(self.shape)

    @property
    def dense(self) -> bool:
        """Whether there is more than a label, or a row of outputs, per sample."""
        if self.axis is not None:
            return self.outputs > self.shape[self.axis - 1]
        return sum(extent != 1 for extent in self.shape) > 1

    def called(self, index: int) -> str | None:
        """The name of a class."""
        return None if self.classes is None or not 0 <= index < len(self.classes) else str(self.classes[index])


def check_predictions(path: str | os.PathLike[str], *read: Any) -> Path:
    """See that predictions can be written to a file, before long work.

    Args:
        path: of the file.
        read: model and data; those that are paths, or hold some, are not to be lost.

    Raises:
        UsageError: another suffix, or the file is one that is read.
        OutputError: no file can be put there.
    """
    check_suffix(path)
    keep_apart(path, read_from(*read), "the file of predictions")
    return check_output(path)


def read_from(*sources: Any) -> list[Any]:
    """What may be paths in models or data as they are given."""
    given = [source.source if isinstance(source, Data) else source for source in sources]
    pairs = [one for source in given if isinstance(source, tuple | list) and len(source) == 2 for one in source]
    return [one for one in (*given, *pairs) if isinstance(one, str | os.PathLike)]


def check_form(path: str | os.PathLike[str], form: PredictionFormat) -> None:
    """See that predictions fit in a file of this suffix.

    Raises:
        UsageError: another suffix; or labels are per pixel or token, and it is not .npz.
    """
    if check_suffix(path) != ".npz" and form.dense:
        raise UsageError(
            f"{path}: the model has outputs per pixel or token, which do not fit in a row per sample. Save predictions "
            "as .npz."
        )


def check_suffix(path: str | os.PathLike[str]) -> str:
    """The suffix of a file for predictions, in small letters.

    Raises:
        UsageError: another than SUFFIXES.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: predictions are written to a file that ends in {', '.join(SUFFIXES)}.")
    return suffix


@contextlib.contextmanager
def saving(path: str | os.PathLike[str], form: PredictionFormat, inputs: Sequence[str]) -> Iterator[Add]:
    """Write predictions while the block runs; the file is there when it ends well.

    Args:
        path: the file; the suffix says in which form.
        form: what they are of.
        inputs: what each sample is called.

    Yields:
        A function that takes the logits of the next samples with their labels, as `fit_labels` gives them, or None.

    Raises:
        UsageError: as `check_predictions`.
        OutputError: the file cannot be written.
    """
    check_form(path, form)
    suffix = Path(path).suffix.lower()
    with replacing(path) as part:
        if suffix == ".npz":
            with zipfile.ZipFile(part, "w") as archive, _Archive(archive, form, inputs) as writer:
                yield writer.add
        else:
            with part.open("w", encoding="utf-8", newline="") as stream:
                yield _Rows(stream, form, inputs, as_csv=suffix == ".csv").add


def columns(form: PredictionFormat, logits: np.ndarray, labels: np.ndarray | None) -> Columns:
    """What there is of some samples: ``label`` and ``correct`` where there are labels, ``predicted``, ``probability``.

    Args:
        form: what they are of.
        logits: the batch first.
        labels: as `fit_labels` gives them.
    """
    found: Columns = {} if labels is None else {"label": labels}
    if form.axis is not None:
        moved = np.moveaxis(logits, form.axis, -1)
        found["predicted"] = moved.argmax(-1)
        if form.sure:
            found["probability"] = np.exp(log_softmax(moved.astype(np.float64)).max(-1)).astype(np.float32)
        if labels is not None:
            found["correct"] = found["predicted"] == labels
    elif form.loss == "bce-with-logits":
        found["predicted"] = (logits > 0).astype(np.uint8)
        if not form.dense:
            found["probability"] = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        if labels is not None:
            same = found["predicted"] == (labels > 0.5)
            found["correct"] = same if form.dense else same.reshape(len(logits), -1).all(-1)
    else:
        found["predicted"] = logits
    if form.dense:
        return found
    single = form.axis is not None
    return {key: array.reshape(-1) if single or key == "correct" else _flat(array) for key, array in found.items()}


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


class _Rows:
    """A line for each sample."""

    def __init__(self, stream: IO[str], form: PredictionFormat, inputs: Sequence[str], *, as_csv: bool) -> None:
        self._stream, self._form, self._inputs, self._done = stream, form, inputs, 0
        self._csv = csv.writer(stream, lineterminator="\n") if as_csv else None

    def add(self, logits: np.ndarray, labels: np.ndarray | None) -> None:
        """Write the next samples."""
        found = columns(self._form, logits, labels)
        for i, row in enumerate(_flat(logits)):
            entry = self._entry(self._inputs[self._done], {key: array[i] for key, array in found.items()})
            if self._csv is None:
                if self._form.loss not in ("mse", "l1"):  # of which the outputs are the predictions
                    entry["logits"] = row.tolist()
                self._stream.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
            else:
                flat = self._in_columns(entry)
                if self._done == 0:
                    self._csv.writerow(flat)
                self._csv.writerow([_written(value) for value in flat.values()])
            self._done += 1

    def _entry(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"input": name}
        single = self._form.axis is not None
        for key in ("label", "predicted"):
            if key in found:
                entry[key] = found[key].tolist()
                if single:
                    entry[f"{key}_name"] = self._form.called(int(found[key]))
        if self._form.loss not in ("mse", "l1"):
            entry["probability"] = found["probability"].tolist() if "probability" in found else None
        if "correct" in found:
            entry["correct"] = bool(found["correct"])
        return entry

    def _in_columns(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Lists as a column for each output."""
        flat: dict[str, Any] = {}
        for key, value in entry.items():
            if not isinstance(value, list):
                flat[key] = value
                continue
            names = [str(name) for name in self._form.classes or ()]
            named = names if len(names) == len(set(names)) == len(value) else None  # of equal names one would be lost
            for i, one in enumerate(value):
                flat[key if len(value) == 1 else f"{key}_{i if named is None else named[i]}"] = one
        return flat


def _written(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.7g}" if isinstance(value, float) else value


class _Archive:
    """Arrays in an .npz. Logits are written as they come, and the rest, which is small beside them, at the end."""

    def __init__(self, archive: zipfile.ZipFile, form: PredictionFormat, inputs: Sequence[str]) -> None:
        self._archive, self._form, self._inputs = archive, form, inputs
        self._parts: dict[str, list[np.ndarray]] = {}
        self._logits: IO[bytes] | None = None
        self._streamed = "predicted" if form.loss in ("mse", "l1") and form.axis is None else "logits"

    def __enter__(self) -> _Archive:
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
        """Take the next samples."""
        found = columns(self._form, logits, labels)
        streamed = found.pop(self._streamed, logits)
        if self._logits is None:
            self._logits = self._archive.open(f"{self._streamed}.npy", "w", force_zip64=True)
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._inputs), *streamed.shape[1:])}
            np.lib.format.write_array_header_1_0(self._logits, header)
        self._logits.write(np.ascontiguousarray(streamed, "<f4").tobytes())
        for key, array in found.items():
            self._parts.setdefault(key, []).append(self._narrow(key, array))

    def _narrow(self, key: str, array: np.ndarray) -> np.ndarray:
        """Class indices, of which there is one per pixel, in as few bytes as hold them."""
        if self._form.axis is None or key not in ("label", "predicted"):
            return array
        return array.astype(np.min_scalar_type(-max(self._form.shape[self._form.axis - 1], 100) - 1))

    def _write(self, name: str, array: np.ndarray) -> None:
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)
