"""The plan of a comparison, and which parts of it must not change when the comparison is resumed.

``plan.json``: format "adabet-onnx/compare-plan", version 1, with the attributes of `Plan` and
    model_sha256    hash of the model (with its new head, if it was given one)
    data_sha256     hash of labels and samples as fed (`fingerprint`), training and test data
    source_sha256   the same of the old domain, or null
    preprocessing   how data becomes model input
    data            how the training data is interpreted, in one line
    test_samples    number of samples that accuracies are measured on
    command         the command line, or null
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.preprocess import Preprocessing
from ..errors import UsageError
from ..model.open import Model
from ..options import check_fields, check_word
from ..records import Entries, read_record, write_json
from ..runtime import Threads, on
from ..scoring.options import Scoring
from ..selection.budget import Budget
from ..selection.rankings import WITHOUT_RHO
from ..showing import changed
from ..trainability.choices import Choices
from ..training.settings import Settings
from ..vocabulary import BACKENDS, COMPARED, COMPARED_UNASKED, FIT_HEAD, HEADS
from .ray_cluster import check_address

FORMAT, VERSION = "adabet-onnx/compare-plan", 1
_WITHOUT_RHO = (*WITHOUT_RHO, "auto", FIT_HEAD)  # auto chooses the number of layers itself; a rho would only cap it
RATES = {"sgd": (0.001, 0.003, 0.01, 0.03), "adamw": (0.0003, 0.001, 0.003, 0.01)}
_MADE_BY = "`compare`"


@dataclass(frozen=True)
class Setting:
    """A strategy, and the fraction of layers it may select (None if the strategy has no such limit)."""

    strategy: str
    rho: float | None

    @property
    def trains(self) -> bool:
        """Whether the strategy takes training steps."""
        return self.strategy != FIT_HEAD

    @property
    def key(self) -> str:
        """A form for file names."""
        return self.strategy if self.rho is None else f"{self.strategy}-{self.rho:g}"

    def __str__(self) -> str:
        return self.strategy if self.rho is None else f"{self.strategy} {self.rho:.0%}"


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Attributes:
        strategies: from vocabulary.COMPARED: those of `select`, ``fisher`` (which needs labels and gradients) and
            ``fit-head`` (a new head is fitted, and nothing is trained). By default ``fit-head`` is compared only if the
            model has a new head.
        rhos: fractions of layers, for the strategies that use one.
        seeds: number of random seeds, counted from 0; each seed has its own scores, draws and trainings.
        epochs: epochs of every training.
        batch_size: samples of a batch.
        accumulate: batches of an update.
        rates: learning rates that each strategy chooses from; if empty, those of the optimizer, extended while the
            best is the lowest or highest.
        rate_validation: fraction of the training data that rates are chosen on; test data is never used for this.
        head: the rule for the head, as in `select`.
        train_samples: use only the first training samples, this many; None for all.
        budget: limits for every selection except that of the strategy ``all``.
        max_accumulate: most micro-batches that a batch may be split into to stay within the budget, as in `select`.
        backend: training backend of the artifacts.
        choices: loss, optimizer and form of the artifacts.
        scoring: how layers are scored.
        preprocessing: explicit preprocessing, instead of a preset.
        keep_tail: a new head keeps what follows the old one (a normalisation, an activation).
        append: a new head is a linear classifier added to the outputs, and all layers stay.
        processes: trainings at once; None for 1, or with ``ray`` as many as its nodes have CPUs for.
        ray: run trainings as Ray tasks (extra ``cluster``): ``"local"`` on this machine, else the address of a
            running cluster, ``"auto"``, ``"HOST:PORT"`` or ``"ray://HOST:PORT"``. Only use a cluster that you trust:
            Ray sends pickled objects.
        features: where to keep the output of the frozen part, as in `Settings`; ``auto`` and ``disk`` are a file in the
            folder of the comparison, which all trainings with the same frozen layers share. Image files are then
            decoded only once, too.
        features_memory: bytes of it that may be in memory if there is no room for a file, or text such as "2GB".
        head_init: how a new head is initialised, as in `Settings`; with ``fitted`` a head that cannot be fitted fails.
        keep_features: keep these files when the comparison ends, for one with more strategies or seeds.
        threads: threads of each training and measurement, or a `Runtime` with an execution provider; None for ONNX
            Runtime's choice, or 1 if several trainings run at once or with ``ray``.
        command: the command line, to record in plan.json.

    Raises:
        UsageError: a value is unknown or out of range.

    Example:
        >>> from adabet_onnx import Plan
        >>> [str(setting) for setting in Plan(strategies=("adabet", "all"), rhos=(0.1, 0.2)).settings()]
        ['adabet 10%', 'adabet 20%', 'all']
    """

    strategies: tuple[str, ...] = COMPARED_UNASKED
    rhos: tuple[float, ...] = (0.1,)
    seeds: int = 3
    epochs: int = 10
    batch_size: int = 32
    accumulate: int = 1
    rates: tuple[float, ...] = ()
    rate_validation: float = 0.2
    head: str = "auto"
    train_samples: int | None = None
    budget: Budget = field(default_factory=Budget)
    max_accumulate: int | None = None
    backend: str = "auto"
    choices: Choices = field(default_factory=Choices)
    scoring: Scoring = field(default_factory=Scoring)
    preprocessing: Preprocessing | None = None
    keep_tail: bool = False
    append: bool = False
    processes: int | None = None
    ray: str | None = None
    head_init: str = "auto"
    features: str = "auto"
    features_memory: int | str | None = None
    keep_features: bool = False
    threads: Threads = None
    command: str | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        check_word("backend", self.backend, BACKENDS)
        check_word("head rule", self.head, HEADS)
        for name in self.strategies:
            if name not in COMPARED:
                raise UsageError(f"unknown strategy {name!r}: choose from {', '.join(COMPARED)}.")
        if not self.strategies or not self.rhos:
            raise UsageError("give at least one strategy and one rho to compare.")
        for rho in self.rhos:
            if not 0 < rho <= 1:
                raise UsageError(f"rho must be above 0 and at most 1 (a fraction of the layers), not {rho}.")
        for what, number in (("seeds", self.seeds), ("epochs", self.epochs), ("batch size", self.batch_size)):
            if number < 1:
                raise UsageError(f"{what} must be at least 1, not {number}.")
        if self.train_samples is not None and self.train_samples < 1:
            raise UsageError(f"train_samples must be at least 1, not {self.train_samples}.")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"`processes` must be at least 1, not {self.processes}.")
        if self.ray is not None:
            check_address(self.ray)
            if self.keep_features:
                raise UsageError(
                    "`keep_features` cannot be combined with `ray`: each node keeps features in a temporary folder, "
                    "which is removed when the comparison ends."
                )
        for rate in self.rates:
            if not (math.isfinite(rate) and rate > 0):
                raise UsageError(f"a learning rate must be above 0, not {rate}.")
        if not 0 < self.rate_validation < 1:
            raise UsageError(f"the validation share must be between 0 and 1, not {self.rate_validation}.")

        _ = self.kept_features

    def for_model(self, model: Model) -> Plan:
        """The plan with what the model says about its classes; without ``fit-head`` if the head is not new.

        Raises:
            UsageError: the head is not new, and ``fit-head`` is in the strategies.
        """
        plan = replace(self, choices=self.choices.for_model(model))
        if FIT_HEAD not in plan.strategies or model.new_head:
            return plan
        if plan.strategies != COMPARED_UNASKED:
            raise UsageError(
                f"`strategies`: {FIT_HEAD} fits a new head, and that of {model.name} is not marked as new. Give "
                "`num_classes`, or leave it out."
            )
        return replace(plan, strategies=tuple(name for name in plan.strategies if name != FIT_HEAD))

    @property
    def kept_features(self) -> Settings:
        """Settings for keeping shared features and for initialising the head."""
        kept = self.keep_features or self.features in ("auto", "disk")
        return Settings(
            features=self.features,
            features_memory=self.features_memory,
            keep_features=kept,
            head_init=self.head_init,
        )

    @property
    def grid(self) -> tuple[float, ...]:
        """Learning rates to start with."""
        return self.rates or RATES["sgd" if self.choices.optimizer == "sgd" else "adamw"]

    def settings(self) -> list[Setting]:
        """Strategies with their rhos, in the given order, without duplicates."""
        settings: dict[Setting, None] = {}
        for strategy in self.strategies:
            for rho in (None,) if strategy in _WITHOUT_RHO else self.rhos:
                settings[Setting(strategy, rho)] = None
        return list(settings)

    @property
    def kept(self) -> dict[str, bool]:
        """Options of a new head."""
        return {"keep_tail": self.keep_tail, "append": self.append}

    @property
    def training_threads(self) -> Threads:
        """Threads and execution provider of each training."""
        where = on(self.threads)
        alone = self.ray is None and self.processes in (None, 1)
        return self.threads if alone or where.threads else replace(where, threads=1)

    def to_json(self) -> dict[str, Any]:
        """The attributes that results depend on, as JSON values."""
        entries = dict(asdict(self), strategies=list(self.strategies), rhos=list(self.rhos), rates=list(self.rates))
        for name in ("preprocessing", "keep_tail", "append"):  # recorded with the model and the data
            del entries[name]
        for name in (
            "processes",
            "ray",
            "threads",
            "features",
            "features_memory",
            "keep_features",
        ):  # results do not depend on these
            del entries[name]
        return entries


def fingerprint(parts: Sequence[Dataset | None]) -> str:
    """SHA-256 of the number of samples, all labels and 64 evenly spaced samples of each dataset."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        some = np.unique(np.linspace(0, len(part) - 1, min(64, len(part))).astype(np.int64))
        digest.update(str(len(part)).encode())
        for name, array in sorted(part.subset(some).rows.fetch(np.arange(len(some))).items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        if part.labels is not None:
            digest.update(np.ascontiguousarray(part.labels).tobytes())
    return digest.hexdigest()


def keep_plan(path: Path, plan: Plan, facts: dict[str, Any]) -> None:
    """Write the plan; if there is one already, check that it is the same.

    Args:
        path: path of plan.json.
        plan: the plan.
        facts: the other entries of the file.

    Raises:
        UsageError: the folder holds another plan.
        RecordError: the plan in the folder is damaged.
    """
    content = {"format": FORMAT, "version": VERSION, **plan.to_json(), **facts}
    if path.is_file():
        stored = read_record(path, FORMAT, VERSION, _MADE_BY)
        Entries(stored, str(path), _MADE_BY)
        # More strategies, rhos or seeds only add to the results.
        free = {"strategies", "rhos", "seeds", "test_samples", "command"}
        stored.setdefault("data", content.get("data"))  # missing in plans of older releases
        if isinstance(stored.get("choices"), dict):
            stored["choices"].setdefault("frozen_precision", "auto")
            stored["choices"].setdefault("class_weights", None)
        changed_keys = [key for key in content if key not in free and stored.get(key) != _plain(content[key])]
        if changed_keys:
            key = changed_keys[0]
            raise UsageError(
                f"{path.parent} holds a comparison with other options: {key} was {stored.get(key)}, now it is "
                f"{_plain(content[key])}. Use the same options, or another folder."
            )
    write_json(path, content)


def _plain(value: Any) -> Any:
    """A value as it is after writing it to JSON and reading it back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
