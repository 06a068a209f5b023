"""The scores file: the measurements of every layer, and the samples they were made on.

``scores.json``: format "adabet-onnx/scores", version 2 (version 1, without sketches, can be read), with
    model_sha256    the model that was scored
    model_file      its path as given by the user, or null
    estimator       "subsets" or "batches"
    points          N: number of points of a Betti number (the subset size, or the batch size)
    samples         a list of lists: indices into x_train (or x) of each group, in the order they were fed
    settings        seed (of samples, subsets and signs), order, subsets_per_group (number used; see `rounds`),
                    group (the size used), samples_left_out, data (how it was interpreted), sketch (k: distances are
                    those of sketches of at most k numbers; null or, in files of version 1, absent: exact), and for
                    sketches also sketch_half_precision, forwarded_at_once (samples) and passes (over the samples)
    notes           remarks for users, a sentence each (a smaller group for lack of memory, ...)
    head, new_head  name of the head layer (or null), and whether it is marked as new
    preprocessing   how data is converted to model input (data/preprocess.py)
    classes         class names, or null
    inputs          values that inputs were bound to, by name (see model/bindings.py), or null; absent in older files
    channel_layers  names of the layers whose channels were scored, or null
    layers          in model order, each with
        name, op_type, parameters (initializer names), parameter_count, activation_size (D), is_norm
        b1          first Betti numbers: one per group (batches) or per subset (subsets)
        b1_mean     their mean
        b1_hat      b1_mean / (points * activation_size)
        stderr      standard error of b1_hat (see `standard_error`)
        rank        1 for the highest b1_hat; model order on a tie
        shift, dead, effective_rank    see `signals`; numbers or null, and null in files of older versions
        untrainable why no backend can train it; null if one can, and in files of older versions
        channels    null if they were not scored, or are not ranked (see `channel_scores`); else an object with
            elements  number of elements of a channel in one sample's activation
            b1_mean   for each channel in order, the mean of its first Betti numbers; its b1_hat, by which channels are
                      ranked, is b1_mean / (points * elements)
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.preprocess import preprocessing_from_json
from ..drawing import finished
from ..errors import UsageError
from ..frames import frame
from ..options import typed
from ..records import Entries, read_record, write_json
from ..showing import MOST_NAMES, clipped, counted, file_name, html_table, named, one_line
from .drawing import draw_scores
from .layer_score import ChannelScores as ChannelScores
from .layer_score import LayerScore as LayerScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT, VERSION = "adabet-onnx/scores", 2
_MADE_BY = "`score`"
_WITHOUT_EFFECT = frozenset({"forwarded_at_once", "passes"})


@dataclass(frozen=True)
class Scores:
    """Scores of all layers; the attributes match the file.

    Attributes:
        model_sha256: SHA-256 of the scored model.
        estimator: ``subsets`` or ``batches``; ``none`` if nothing was scored.
        points: N, the number of points of a Betti number.
        samples: for each group, indices into the training data, in feeding order.
        layers: in model order, each with ``name``, ``op_type``, ``parameters``, ``activation_size`` (D), ``b1``,
            ``b1_mean``, ``b1_hat``, ``stderr``, ``rank`` and more; see the module.
        settings: seed, order, subsets per group, group size, samples left out, and how the data was interpreted.
        notes: remarks for users, a sentence each.
        head: name of the head, or None.
        new_head: whether it is marked as new.
        preprocessing: how data is converted to model input, as JSON values.
        classes: class names, or None.
        model_file: path of the model as given by the user, or None.
        channel_layers: names of the layers whose channels were scored, or None.
        inputs: values that inputs were bound to, by name, or None.

    Example:
        >>> from adabet_onnx import score
        >>> scores = score("model.onnx", "new_domain.npz")
        >>> best = min(scores.layers, key=lambda layer: layer.rank)
        >>> best.b1_hat == best.b1_mean / (scores.points * best.activation_size)
        True
    """

    model_sha256: str
    estimator: str
    points: int
    samples: tuple[tuple[int, ...], ...]
    layers: tuple[LayerScore, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    head: str | None = None
    new_head: bool = False
    preprocessing: dict[str, Any] | None = None
    classes: list[str] | None = None
    model_file: str | None = None
    channel_layers: tuple[str, ...] | None = None
    inputs: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @typed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        write_json(path, self.to_json())

    def estimator_summary(self) -> dict[str, Any]:
        """Return how the scores were estimated, without sample indices and settings that do not affect scores."""
        settings = {key: value for key, value in self.settings.items() if key not in _WITHOUT_EFFECT}
        if not settings.get("sketch_half_precision"):
            settings.pop("sketch_half_precision", None)
        return {
            "estimator": self.estimator,
            "points": self.points,
            "samples": sum(map(len, self.samples)),
            **settings,
        }

    @property
    def ranked(self) -> list[LayerScore]:
        """The layers, the highest b1_hat first."""
        return sorted(self.layers, key=lambda layer: layer.rank)

    def to_dataframe(self, library: str | None = None) -> Any:
        """Return a row for each layer; the columns match the file's ``layers``.

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas if installed, else polars.

        Returns:
            A DataFrame of that library.

        Raises:
            UsageError: the library is not one of these.
            RuntimeMissingError: the library is not installed, or neither is.
        """
        rows = []
        for layer in self.layers:
            row = asdict(layer) | {"parameters": list(layer.parameters), "b1": list(layer.b1)}
            inner = row.pop("channels") or {"elements": None, "b1_mean": None}
            rows.append(row | {f"channels.{key}": value for key, value in inner.items()})
        return frame(rows, list(rows[0]), library)

    @typed
    def plot(self, path: str | os.PathLike[str] | None = None, *, chosen: Collection[str] = ()) -> Figure:
        """Draw b1, activation size and b1_hat of every layer by depth.

        Args:
            path: also write the plot: ``.png``, ``.svg`` or ``.pdf``.
            chosen: names of layers to mark, such as ``selection.layers``.

        Returns:
            The figure, which a notebook displays automatically.

        Raises:
            UsageError: the suffix is not supported.
            OutputError: the file cannot be written.
        """
        return finished(draw_scores(self.layers, self.points, chosen), path)

    def __repr__(self) -> str:
        of = f" of {file_name(self.model_file)}" if self.model_file else ""
        layers = counted(len(self.layers), "layer") + of
        if not self.samples:
            return one_line(self, layers, "not scored")
        best = named([f"{clipped(layer.name)} {layer.b1_hat:.2e}" for layer in self.ranked[:MOST_NAMES]])
        return one_line(self, layers, self._measured(), f"highest b1_hat: {best}")

    def _repr_html_(self) -> str:
        shown = self.ranked if self.samples else list(self.layers)
        rows = [
            (
                layer.rank,
                layer.name,
                layer.op_type,
                layer.activation_size,
                f"{layer.b1_mean:.2f}",
                f"{layer.b1_hat:.2e}",
                f"{layer.stderr:.0e}",
            )
            for layer in shown
        ]
        method = self._measured() if self.samples else "not scored"
        headings = ("rank", "layer", "operator", "D", "b1", "b1_hat", "±")
        return html_table(
            f"Scores of {counted(len(self.layers), 'layer')} ({method})", headings, rows, lines=self.notes, what="layer"
        )

    def _measured(self) -> str:
        return f"{self.estimator}, {counted(sum(map(len, self.samples)), 'sample')}"


def standard_error(b1: np.ndarray, points: int, samples: int) -> float:
    """Standard error of the mean of Betti numbers of ``points`` out of ``samples`` points each.

    For Betti numbers of B disjoint batches (B * points <= samples) this is s / sqrt(B). Random subsets overlap, so
    dividing by sqrt(B) would underestimate the error. Their mean over all subsets is a U-statistic of order m =
    ``points`` on n = ``samples`` independent points, whose variance is at most (m / n) times that of a single one (W.
    Hoeffding, "A class of statistics with asymptotically normal distribution", Ann. Math. Stat. 19, 1948, theorem 5.2);
    drawing B of them adds a part (1 - m / n) / B. So this is an upper bound on the error of the mean over the domain's
    samples.

    Args:
        b1: Betti numbers, at least one.
        points: m.
        samples: n, over all groups.

    Returns:
        The standard error, in units of Betti numbers; 0 for a single one (the error is then unknown).
    """
    if b1.size < 2:
        return 0.0
    if b1.size * points <= samples:
        return float(np.std(b1, ddof=1) / math.sqrt(b1.size))
    share = min(1.0, points / samples)
    return float(np.std(b1, ddof=1) * math.sqrt(share + (1 - share) / b1.size))


def is_scores_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is meant for `load_scores` rather than being a model: JSON content or suffix."""
    file = Path(path)
    if file.suffix.lower() == ".json" or not file.is_file():
        return file.suffix.lower() != ".onnx"
    with file.open("rb") as stream:
        return stream.read(64).lstrip()[:1] in (b"{", b"[", b"")


def load_scores(source: Scores | str | os.PathLike[str]) -> Scores:
    """Read a scores file; `Scores` are returned unchanged.

    Args:
        source: path of a scores.json, or Scores.

    Returns:
        The scores.

    Raises:
        UsageError: the source is neither scores nor a path.
        RecordError: the file is not a scores file, or is damaged.

    Example:
        >>> from adabet_onnx import load_scores, score
        >>> score("model.onnx", "new_domain.npz").save("scores.json")
        >>> load_scores("scores.json").estimator
        'subsets'
    """
    if isinstance(source, Scores):
        return source
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            f"expected scores: what score returned, or the path of a scores.json, not {type(source).__name__}."
        )
    return _read(source)


def _read(path: str | os.PathLike[str]) -> Scores:
    value = read_record(path, FORMAT, VERSION, _MADE_BY)
    record = Entries(value, str(path), _MADE_BY)
    groups = record.take_list("samples", list)
    if not all(type(index) is int for group in groups for index in group):
        raise record.damaged("'samples' must be lists of whole numbers")
    layers = tuple(
        _layer(Entries(entry, f"{path}, layer {index},", _MADE_BY))
        for index, entry in enumerate(record.take_list("layers", dict))
    )
    if not layers or len({layer.name for layer in layers}) < len(layers):
        raise record.damaged("it has no layers, or two of the same name")
    preprocessing = record.get_optional("preprocessing", None, dict, type(None))
    if preprocessing is not None:
        preprocessing_from_json(preprocessing, str(path))
    has_classes = record.get_optional("classes", None, list, type(None)) is not None
    return Scores(
        model_sha256=record.take("model_sha256", str),
        estimator=record.take("estimator", str),
        points=record.take("points", int),
        samples=tuple(tuple(group) for group in groups),
        layers=layers,
        settings=record.get_optional("settings", {}, dict),
        notes=record.names("notes") if "notes" in value else (),
        head=record.get_optional("head", None, str, type(None)),
        new_head=record.get_optional("new_head", False, bool),
        preprocessing=preprocessing,
        classes=list(record.names("classes")) if has_classes else None,
        model_file=record.get_optional("model_file", None, str, type(None)),
        channel_layers=_channel_layers(record),
        inputs=record.get_optional("inputs", None, dict, type(None)),
    )


def _channel_layers(record: Entries) -> tuple[str, ...] | None:
    if record.get_optional("channel_layers", None, list, type(None)) is None:
        return None
    return record.names("channel_layers")


def _layer(record: Entries) -> LayerScore:
    channels = None
    if record.get_optional("channels", None, dict, type(None)) is not None:
        inner = record.inside("channels")
        channels = ChannelScores(inner.take("elements", int), tuple(map(float, inner.take_list("b1_mean", float))))
        if channels.elements < 1 or not channels.b1_mean or min(channels.b1_mean) < 0:
            raise inner.damaged("'elements' must be at least 1, and 'b1_mean' at least one number of at least 0")
    layer = LayerScore(
        name=record.take("name", str),
        op_type=record.take("op_type", str),
        parameters=record.names("parameters"),
        parameter_count=record.get_optional("parameter_count", 0, int),
        activation_size=record.take("activation_size", int),
        is_norm=record.get_optional("is_norm", False, bool),
        b1=tuple(record.take_list("b1", int)),
        b1_mean=float(record.take("b1_mean", float)),
        b1_hat=float(record.take("b1_hat", float)),
        stderr=float(record.take("stderr", float)),
        rank=record.take("rank", int),
        shift=record.get_optional("shift", None, float, type(None)),
        dead=record.get_optional("dead", None, float, type(None)),
        effective_rank=record.get_optional("effective_rank", None, float, type(None)),
        untrainable=record.get_optional("untrainable", None, str, type(None)),
        channels=channels,
    )
    if layer.activation_size < 1:
        raise record.damaged(f"'activation_size' must be at least 1, found {layer.activation_size}")
    return layer
