"""A round without an engine: deltas that came by any means become one, which devices go on from."""

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
from .checks import Dropped, Wanted, accepted
from .messages import Reply, Tensors


@dataclass(frozen=True)
class Merged:
    """What became of several deltas.

    Attributes:
        delta: the new one.
        counted: files that are in it.
        dropped: files that are not, and why.
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
    """What deltas should be of: a choice of layers, and the values that training begins with."""

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
) -> Merged:
    """Make one delta of those that devices have sent: a round of federated averaging, without any engine.

    Each tensor is the mean of the deltas that have it. A delta of fewer layers counts for these; what is no delta, of
    another model, or does not fit is dropped.

    Args:
        folder: what the deltas are of: an artifact folder, or a device package.
        deltas: files that `save_delta`, or devices, wrote.
        path: where to write the new one.
        weights: of each delta, such as the samples that it was trained on; None: all alike.
        base: the delta that devices began with, and which is kept for what none of them trained; None: the values that
            training in ``folder`` begins with.
        entry: the choice of layers of the new delta; None: that of most deltas.
        max_norm: how far a delta may be from where it began, as a Euclidean norm; None: 10 times the norm of that.

    Returns:
        The new ``delta``, the files that were ``counted``, and those that were ``dropped``, with the reason.

    Raises:
        DataError: no delta is left.
        RecordError: the folder is neither, or damaged; or ``base`` does not fit.
        UsageError: other weights than deltas, an unknown entry, or an output that would replace a file that is read.
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
    start = _begun(target, base)
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
    wanted = Wanted(0, target.model_sha256, start, frozenset(read), max_norm)
    good, bad = accepted(replies, wanted)
    dropped += bad
    said = tuple((given[each.client], each.why) for each in sorted(dropped, key=lambda each: each.client))
    if not good:
        first = f": {said[0][0]}: {said[0][1]}" if said else ""
        raise DataError(f"none of {counted(len(given), 'delta')} counts{first}")
    tensors = weighted_mean(start, [(float(reply.samples), reply.tensors) for reply in good])
    made = write_delta(path, tensors, model_sha256=target.model_sha256, entry=target.entry)
    return Merged(made, tuple(given[reply.client] for reply in good), said)


def _read(paths: Sequence[str]) -> tuple[dict[int, Delta], list[Dropped]]:
    """Deltas by their place, and what is none."""
    read, dropped = {}, []
    for at, path in enumerate(paths):
        try:
            read[at] = load_delta(path)
        except RecordError as error:
            dropped.append(Dropped(at, clipped(str(error), 300)))
    return read, dropped


def _target(folder: Path, read: dict[int, Delta], entry: str | None) -> _Target:
    """What deltas are held against.

    Raises:
        RecordError: the folder is neither artifacts nor a package.
        UsageError: it has no such entry.
    """
    if is_device(folder):
        device = load_device(folder)
        known = [each.name for each in device.entries]
        found = Counter(d.entry for d in read.values() if d.model_sha256 == device.model_sha256 and d.entry in known)
        chosen = entry or (found.most_common(1)[0][0] if found else known[0])
        if chosen not in known:
            raise UsageError(f"{folder} has no `entry` {chosen!r}, but {', '.join(map(repr, known))}.")
        there = device.entry(chosen)
        state = (folder / there.state).read_bytes()
        start = {
            tensor.name: np.frombuffer(state[tensor.offset : tensor.end], "<f4").reshape(tensor.shape)
            for tensor in there.personal
        }
        return _Target(f"{chosen!r} of {folder}", device.model_sha256, chosen, start)
    if not (folder / MANIFEST).is_file():
        raise RecordError(f"{folder} is neither an artifact folder (no {MANIFEST}) nor a device package.")
    manifest = load_manifest(folder)
    values, _ = manifest.read_checkpoint(manifest.initial, PROPERTY)
    own = str(manifest.selection_entry["strategy"])
    if entry not in (None, own):
        raise UsageError(f"{folder} has no `entry` {entry!r}, but {own!r}.")
    entries = {str(each["name"]): each["shape"] for each in (*manifest.parameter_entries, *manifest.statistic_entries)}
    start = {name: values[name].astype(np.float32).reshape(shape) for name, shape in entries.items()}
    return _Target(str(folder), manifest.model_sha256, own, start)


def _begun(target: _Target, base: str | os.PathLike[str] | None) -> Tensors:
    """The values that devices began with.

    Raises:
        RecordError: they do not fit.
    """
    if base is None:
        return target.start
    delta = load_delta(base)
    shapes = {name: array.shape for name, array in target.start.items()}
    check_fits(delta, shapes, model_sha256=target.model_sha256, where=target.where)
    return {name: delta.tensors[name] for name in shapes}
