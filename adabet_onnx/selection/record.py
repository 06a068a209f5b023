"""The selection file: which layers are trained, why, and how reliable the choice is.

``selection.json``: format "adabet-onnx/selection", version 1, with
    model_sha256    the model it was made for
    strategy        adabet, size, b1, random, last, first, head, norm-bias, all or layers
    rho             requested fraction of layers (null for explicit layers, head, norm-bias and all)
    seed            seed of the random strategy
    head            requested head rule: auto, always, pool or never
    layers          names of the selected layers, in model order
    parameters      names of the initializers to train
    channel_rho     requested fraction of output channels in each layer (null: all)
    channels        for layers that are only partly trained, the output channels that are trained: an object from layer
                    name to ascending numbers, counting from 0; null or absent: all layers are trained completely
    scored          each chosen layer's score under the strategy, if it has one
    firmness        null, or: last (name of the last layer chosen by score), next (the first left out), margin
                    (difference of their scores), margin_stderr (in its standard errors; null if unknown), ties
                    (layers with the same score as the last one, chosen or not)
    why             the reason, in one sentence
    size_tau        Kendall's tau between the scores and 1 / activation size over all layers (null if undefined)
    estimator       how the scores were estimated (null: selected without scores)
    preprocessing   how data is converted to model input (see data/preprocess.py); null if unknown
    classes         class names, or null
    inputs          values that inputs were bound to for the scores, by name (see model/bindings.py), or null; absent in
                    older files
    left_out        layers that could have been selected but cannot be trained, and why (an object; absent: none)
    budget          null, or the use of the budget: batch_size, backend, memory_bytes, memory_share, step_time,
                    update_bytes (all predicted), limits (an object), given_up (layers), score_share (null without
                    scores), gap, tried, accumulate (1 if absent, in older files), auto_limit (null or absent: the
                    limits were given; else how auto set its own); see `budget.BudgetUse`
"""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.preprocess import preprocessing_from_json
from ..errors import UsageError
from ..frames import frame
from ..options import typed
from ..records import Entries, read_record, write_json
from ..showing import clipped, counted, html_table, named, one_line
from .budget import AUTO_LIMITS, Budget, BudgetUse

FORMAT, VERSION = "adabet-onnx/selection", 1
_MADE_BY = "`select`"


@dataclass(frozen=True)
class Firmness:
    """How far the last chosen layer is from the first that was left out; see the module."""

    last: str
    next: str
    margin: float
    margin_stderr: float | None
    ties: list[str]

    def sentence(self) -> str:
        """The distance as a sentence."""
        if len(self.ties) > 1:
            others = counted(len(self.ties) - 1, "other layer")
            return f"tied: {self.last} has the same score as {others}"
        if self.margin_stderr is None:
            return f"{self.last} scores {self.margin:.3g} higher than {self.next}"
        clear = "clear" if self.margin_stderr >= 2 else "not clear: another sample may choose differently"
        return f"{clear}; {self.last} scores {self.margin_stderr:.3g} standard errors higher than {self.next}"

    def __repr__(self) -> str:
        return one_line(self, clipped(self.sentence(), 200))


@dataclass(frozen=True)
class Selection:
    """The layers to train.

    Attributes:
        model_sha256: SHA-256 of the model it was made for.
        strategy: how the layers were chosen: a strategy's name, or ``layers``.
        layers: their names, in model order.
        parameters: names of the initializers to train.
        rho: the requested fraction of layers; None for named layers, head, norm-bias and all.
        seed: seed of the random strategy.
        head: the requested head rule: auto, always, pool or never.
        scored: each chosen layer's score under the strategy, if it has one.
        firmness: how far the last chosen layer is from the first that was left out, or None.
        why: the reason, in one sentence.
        size_tau: Kendall's tau between the scores and 1 / activation size over all layers; None if undefined.
        estimator: how the scores were estimated; None: selected without scores.
        preprocessing: how data is converted to model input, as JSON values; None if unknown.
        classes: class names, or None.
        budget: the use of the budget, or None.
        left_out: layers that could have been selected but cannot be trained, and why.
        channel_rho: the requested fraction of output channels in each layer; None: all.
        channels: the trained output channels of layers that are only partly trained; None: all are trained completely.
        inputs: values that inputs were bound to for the scores, by name, or None.

    Example:
        >>> from adabet_onnx import select
        >>> select("model.onnx", strategy="head").layers
        ('head',)
    """

    model_sha256: str
    strategy: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    rho: float | None = None
    seed: int = 0
    head: str = "auto"
    scored: dict[str, float] | None = None
    firmness: Firmness | None = None
    why: str = ""
    size_tau: float | None = None
    estimator: dict[str, Any] | None = None
    preprocessing: dict[str, Any] | None = None
    classes: list[str] | None = None
    budget: BudgetUse | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    channel_rho: float | None = None
    channels: dict[str, tuple[int, ...]] | None = None
    inputs: dict[str, Any] | None = None

    def parts_of(self, batch_size: int) -> int:
        """The number of equal micro-batches that keeps a batch within the budget; 1 without one or if it fits."""
        if self.budget is None or self.budget.accumulate == 1:
            return 1
        parts = (n for n in range(1, batch_size + 1) if batch_size % n == 0 and batch_size // n <= self.budget.part)
        return next(parts, batch_size)

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @typed
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        write_json(path, self.to_json())

    def to_dataframe(self, library: str | None = None) -> Any:
        """A row for each selected layer: its name, its score, and the trained channels (None: all).

        Args:
            library: ``"pandas"`` or ``"polars"``; None: pandas if it is installed, else polars.

        Returns:
            A DataFrame of that library, with the columns name, scored and channels.

        Raises:
            UsageError: ``library`` is neither.
            RuntimeMissingError: the requested library, or both, are not installed.
        """
        rows = [
            {"name": name, "scored": self._score(name), "channels": None if part is None else list(part)}
            for name, part in ((name, (self.channels or {}).get(name)) for name in self.layers)
        ]
        return frame(rows, ("name", "scored", "channels"), library)

    def __repr__(self) -> str:
        by = "by name" if self.strategy == "layers" else self.strategy
        by += "" if self.rho is None else f" {self.rho:.3g}"
        parts = "channels of " if self.channels else ""
        given_up = f"{counted(len(self.left_out), 'layer')} left out" if self.left_out else None
        return one_line(self, f"{by}: {parts}{counted(len(self.layers), 'layer')}: {named(self.layers)}", given_up)

    def _repr_html_(self) -> str:
        headings = ["layer", "score", *(["channels"] if self.channels else [])]
        rows = []
        for name in self.layers:
            score, part = self._score(name), (self.channels or {}).get(name)
            row = [name, "-" if score is None else f"{score:.2e}"]
            rows.append([*row, "all" if part is None else str(len(part))][: len(headings)])
        lines = [f"left out, since no backend can train them: {named([*self.left_out])}"] if self.left_out else []
        lines += [part.sentence() for part in (self.firmness, self.budget) if part is not None]
        return html_table(f"Selection: {self.why or self.strategy}", headings, rows, lines=lines, what="layer")

    def _score(self, name: str) -> float | None:
        return (self.scored or {}).get(name)


def load_selection(source: Selection | str | os.PathLike[str]) -> Selection:
    """Read a selection file; a `Selection` is returned unchanged.

    Args:
        source: path of a selection.json, or a Selection.

    Returns:
        The selection.

    Raises:
        UsageError: the source is neither a selection nor a path.
        RecordError: the file is not a selection file or is damaged.

    Example:
        >>> from adabet_onnx import load_selection, select
        >>> select("model.onnx", strategy="head").save("selection.json")
        >>> load_selection("selection.json").strategy
        'head'
    """
    if isinstance(source, Selection):
        return source
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            f"expected a selection: what select returned, or the path of a selection.json, not {type(source).__name__}."
        )
    return selection_from_json(read_record(source, FORMAT, VERSION, _MADE_BY), str(source))


def selection_from_json(value: Any, where: str) -> Selection:
    """Rebuild a selection from the content of its file.

    Raises:
        RecordError: an entry is missing or of the wrong type.
    """
    record = Entries(value, where, _MADE_BY)
    nothing = type(None)
    preprocessing = record.get_optional("preprocessing", None, dict, nothing)
    if preprocessing is not None:
        preprocessing_from_json(preprocessing, where)
    classes = record.get_optional("classes", None, list, nothing)
    scored = record.get_optional("scored", None, dict, nothing)
    if scored is not None:
        for name in scored:
            record.inside("scored").take(name, float)
    left_out = record.get_optional("left_out", {}, dict)
    for name in left_out:
        record.inside("left_out").take(name, str)
    channel_rho = record.get_optional("channel_rho", None, float, nothing)
    if channel_rho is not None and not 0 < channel_rho <= 1:
        raise record.damaged(f"'channel_rho' must be above 0 and at most 1, found {channel_rho}")
    return Selection(
        model_sha256=record.take("model_sha256", str),
        strategy=record.take("strategy", str),
        layers=record.names("layers"),
        parameters=record.names("parameters"),
        rho=record.get_optional("rho", None, float, nothing),
        seed=record.get_optional("seed", 0, int),
        head=record.get_optional("head", "auto", str),
        scored=scored,
        firmness=_firmness(record),
        why=record.get_optional("why", "", str),
        size_tau=record.get_optional("size_tau", None, float, nothing),
        estimator=record.get_optional("estimator", None, dict, nothing),
        preprocessing=preprocessing,
        classes=None if classes is None else list(record.names("classes")),
        budget=_budget_use(record),
        left_out=left_out,
        channel_rho=channel_rho,
        channels=_channels(record),
        inputs=record.get_optional("inputs", None, dict, nothing),
    )


def _firmness(record: Entries) -> Firmness | None:
    nothing = type(None)
    if record.get_optional("firmness", None, dict, nothing) is None:
        return None
    inner = record.inside("firmness")
    return Firmness(
        last=inner.take("last", str),
        next=inner.take("next", str),
        margin=inner.take("margin", float),
        margin_stderr=inner.take("margin_stderr", float, nothing),
        ties=list(inner.names("ties")),
    )


def _channels(record: Entries) -> dict[str, tuple[int, ...]] | None:
    """Channels by layer, in ascending order; None if all are trained."""
    if record.get_optional("channels", None, dict, type(None)) is None:
        return None
    layers, inner = record.names("layers"), record.inside("channels")
    channels = {}
    for name in record.take("channels", dict):
        indices = tuple(inner.take_list(name, int))
        if name not in layers:
            raise record.damaged(f"'channels' has a layer {name!r} that is not among its 'layers'")
        if not indices or indices[0] < 0 or any(b <= a for a, b in itertools.pairwise(indices)):
            raise inner.damaged(f"{name!r} must be whole numbers from 0 on, at least one, ascending and each once")
        channels[name] = indices
    return channels


def _budget_use(selection: Entries) -> BudgetUse | None:
    if selection.get_optional("budget", None, dict, type(None)) is None:
        return None
    record = selection.inside("budget")
    limits = record.take("limits", dict)
    unknown = [name for name in limits if name not in Budget.__dataclass_fields__]
    if unknown:
        raise record.damaged(f"{unknown[0]!r} is no limit")
    use = BudgetUse(
        batch_size=record.take("batch_size", int),
        backend=record.take("backend", str),
        memory_bytes=record.take("memory_bytes", int),
        memory_share=record.take("memory_share", float),
        step_time=record.take("step_time", float),
        update_bytes=record.take("update_bytes", int),
        limits={name: record.inside("limits").take(name, float) for name in limits},
        given_up=list(record.names("given_up")),
        score_share=record.take("score_share", float, type(None)),
        gap=record.take("gap", float),
        tried=record.take("tried", int),
        accumulate=record.get_optional("accumulate", 1, int),
        auto_limit=record.get_optional("auto_limit", None, str, type(None)),
    )
    if use.auto_limit is not None and use.auto_limit not in AUTO_LIMITS:
        raise record.damaged(f"'auto_limit' {use.auto_limit!r} is not known")
    if use.accumulate < 1 or use.batch_size < use.accumulate:
        raise record.damaged(f"a batch of {use.batch_size} cannot be split into {use.accumulate} micro-batches")
    return use
