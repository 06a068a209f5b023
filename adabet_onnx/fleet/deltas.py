"""Merging of deltas: a round of federated averaging without a server, on files that were transferred by any means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..device.delta import Delta, check_fits, load_delta, write_delta
from ..device.description import is_device, load_device
from ..errors import DataError, RecordError, UsageError
from ..files import keep_apart
from ..options import typed
from ..showing import clipped, counted, file_name, one_line
from ..training.history import PROPERTY
from ..training.manifest import FILE as MANIFEST
from ..training.manifest import load_manifest
from .aggregation import weighted_mean
from .checks import Dropped, Expectations, accepted
from .messages import Reply, Tensors


@dataclass(frozen=True)
class MergedDeltas:
    """The result of merging deltas.

    Attributes:
        delta: the merged delta.
        counted: the files that were merged.
        dropped: the files that were not, with the reason.
    """

    delta: Delta
    counted: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        left_out = f"{counted(len(self.dropped), 'delta')} dropped" if self.dropped else None
        name = file_name(str(self.delta.path))
        return one_line(self, name, f"of {counted(len(self.counted), 'delta')}", left_out)


@dataclass(frozen=True)
class _Target:
    """The choice of layers that deltas must be for, and the initial values of its training."""

    where: str
    model_sha256: str
    entry: str
    start: Tensors


@typed
def merge_deltas(
    folder: str | os.PathLike[str],
    deltas: Sequence[str] | Sequence[os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    base: str | os.PathLike[str] | None = None,
    entry: str | None = None,
    max_norm: float | None = None,
) -> MergedDeltas:
    """Merge the deltas that devices have sent into one: a round of federated averaging without a server.

    Each tensor is the mean of the deltas that have it. A delta with fewer layers counts for these only. Files that are
    not deltas, belong to another model or do not fit are dropped.

    Args:
        folder: the artifact folder or device package that the deltas belong to.
        deltas: files written by `save_delta` or by devices.
        path: where to write the merged delta.
        weights: weight of each delta, such as the number of its training samples; None: equal weights.
        base: the delta that devices started from, whose values are kept where no device trained; None: the initial
            values in ``folder``.
        entry: the choice of layers of the merged delta; None: that of most deltas.
        max_norm: largest Euclidean distance of a delta from its starting values; None: 10 times the norm of these.

    Returns:
        The merged ``delta``, the files that were ``counted``, and those that were ``dropped``, with the reason.

    Raises:
        DataError: no delta is left.
        RecordError: the folder is neither of the two, or damaged; or ``base`` does not fit.
        UsageError: the number of weights differs from that of the deltas, the entry is unknown, or the output would
            overwrite an input.
        OutputError: the file cannot be written.

    Example:
        >>> from adabet_onnx import Trainer, make_artifacts, merge_deltas, save_delta, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> for name in ("a.safetensors", "b.safetensors"):
        ...     rows = Trainer("artifacts").fit("new_domain.npz", epochs=1)
        ...     delta = save_delta("artifacts", name)
        >>> len(merge_deltas("artifacts", ["a.safetensors", "b.safetensors"], "merged.safetensors").counted)
        2
    """
    given = list(map(str, deltas))
    if weights is not None and len(weights) != len(given):
        raise UsageError(f"`weights` has {len(weights)} numbers for {counted(len(given), 'delta')}: give one for each.")
    keep_apart(path, [*given, *([] if base is None else [base])])
    read, dropped = _read(given)
    target = _target(Path(folder), read, entry)
    start = _initial_values(target, base)
    replies = [
        Reply(
            at,
            0,
            delta.model_sha256,
            delta.tensors,
            1.0 if weights is None else weights[at],
            partial=delta.entry != target.entry,
        )
        for at, delta in read.items()
    ]
    expected = Expectations(0, target.model_sha256, start, frozenset(read), max_norm)
    good, bad = accepted(replies, expected)
    dropped += bad
    reasons = tuple((given[each.client], each.why) for each in sorted(dropped, key=lambda each: each.client))
    if not good:
        first = f": {reasons[0][0]}: {reasons[0][1]}" if reasons else ""
        raise DataError(f"none of {counted(len(given), 'delta')} can be merged{first}")
    tensors = weighted_mean(start, [(float(reply.samples), reply.tensors) for reply in good])
    made = write_delta(path, tensors, model_sha256=target.model_sha256, entry=target.entry)
    return MergedDeltas(made, tuple(given[reply.client] for reply in good), reasons)


def _read(paths: Sequence[str]) -> tuple[dict[int, Delta], list[Dropped]]:
    """Load the deltas, by their position; also return the files that cannot be loaded."""
    read, dropped = {}, []
    for at, path in enumerate(paths):
        try:
            read[at] = load_delta(path)
        except RecordError as error:
            dropped.append(Dropped(at, clipped(str(error), 300)))
    return read, dropped


def _target(folder: Path, read: dict[int, Delta], entry: str | None) -> _Target:
    """Determine what deltas must fit.

    Raises:
        RecordError: the folder is neither an artifact folder nor a device package.
        UsageError: the entry does not exist.
    """
    if is_device(folder):
        device = load_device(folder)
        known = [each.name for each in device.entries]
        counts = Counter(d.entry for d in read.values() if d.model_sha256 == device.model_sha256 and d.entry in known)
        chosen = entry or (counts.most_common(1)[0][0] if counts else known[0])
        if chosen not in known:
            raise UsageError(f"{folder} has no `entry` {chosen!r}, but {', '.join(map(repr, known))}.")
        described = device.entry(chosen)
        state = (folder / described.state).read_bytes()
        start = {
            tensor.name: np.frombuffer(state[tensor.offset : tensor.end], "<f4").reshape(tensor.shape)
            for tensor in described.personal
        }
        return _Target(f"{chosen!r} of {folder}", device.model_sha256, chosen, start)
    if not (folder / MANIFEST).is_file():
        raise RecordError(
            f"{folder} is neither an artifact folder (no {MANIFEST}) nor a device package (no device.json). Give a "
            "folder that `make_artifacts`, `make_device` or `make_menu` wrote."
        )
    manifest = load_manifest(folder)
    values, _ = manifest.read_checkpoint(manifest.initial, PROPERTY)
    own = str(manifest.selection_entry["strategy"])
    if entry not in (None, own):
        raise UsageError(f"{folder} has no `entry` {entry!r}, but {own!r}.")
    entries = {str(each["name"]): each["shape"] for each in (*manifest.parameter_entries, *manifest.statistic_entries)}
    start = {name: values[name].astype(np.float32).reshape(shape) for name, shape in entries.items()}
    return _Target(str(folder), manifest.model_sha256, own, start)


def _initial_values(target: _Target, base: str | os.PathLike[str] | None) -> Tensors:
    """Return the values that devices started from.

    Raises:
        RecordError: the base delta does not fit.
    """
    if base is None:
        return target.start
    delta = load_delta(base)
    shapes = {name: array.shape for name, array in target.start.items()}
    check_fits(delta, shapes, model_sha256=target.model_sha256, where=target.where)
    return {name: delta.tensors[name] for name in shapes}
