"""The plan of a comparison: which strategies, with what, how often; and what must not change when it is resumed.

``plan.json``: format "adabet-onnx/compare-plan", version 1, with the attributes of `Plan` and
    model_sha256    the model (with its new head, where it got one)
    data_sha256     of labels and samples as fed (`fingerprint`), training and test data
    source_sha256   of the old domain's, or null
    preprocessing   how data becomes model input
    data            what training data is taken for, in a line
    test_samples    how many samples accuracies are of
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
_BY_ITS_OWN_RULE = (*WITHOUT_RHO, "auto", FIT_HEAD)  # auto has a number of layers of its own; a rho would only cap it
RATES = {"sgd": (0.001, 0.003, 0.01, 0.03), "adamw": (0.0003, 0.001, 0.003, 0.01)}
_MADE_BY = "`compare`"


@dataclass(frozen=True)
class Setting:
    """A strategy, and the share of layers it may select (None where it has none)."""

    strategy: str
    rho: float | None

    @property
    def trains(self) -> bool:
        """Whether there are steps at all."""
        return self.strategy != FIT_HEAD

    @property
    def key(self) -> str:
        """For file names."""
        return self.strategy if self.rho is None else f"{self.strategy}-{self.rho:g}"

    def __str__(self) -> str:
        return self.strategy if self.rho is None else f"{self.strategy} {self.rho:.0%}"


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        strategies: of vocabulary.COMPARED: those of `select`, ``fisher`` (which needs labels and gradients) and
            ``fit-head`` (a new head is fitted, and nothing trained; where these are left out, only with a new head).
        rhos: fractions of layers, for the strategies that have one.
        seeds: how many, from 0 on; each scores, draws and trains by itself.
        epochs: of every training.
        batch_size: samples of a step.
        accumulate: batches of an update.
        rates: learning rates that each strategy may choose from; empty: those of the optimizer, and further ones where
            the best is at their edge.
        rate_validation: share of the training data that rates are chosen on; the test data plays no part.
        head: the rule for the head, as in `select`.
        train_samples: how many of the training samples are used, the first ones; None: all.
        budget: limits that every selection but the strategy ``all`` keeps to.
        max_accumulate: into how many parts a batch may be cut to keep to it, as in `select`.
        backend: of the artifacts.
        choices: loss, optimizer and form.
        scoring: how layers are scored.
        preprocessing: by hand, in place of a preset.
        keep_tail: a new head comes with what belongs to the old one's outputs (a normalisation, an activation).
        append: a new head is a linear classifier put on the outputs, with all layers kept.
        processes: trainings at once; None: 1, or with ``ray`` as many as its nodes have CPUs for.
        ray: run trainings as tasks of Ray (extra ``cluster``): ``"local"`` on this machine, else the address of a
            running cluster, ``"auto"``, ``"HOST:PORT"`` or ``"ray://HOST:PORT"``. Only for a cluster that you trust:
            Ray sends pickles.
        features: where to keep what no training of a selection changes, as in `Settings`; ``auto`` is a file in the
            folder of the comparison, which all trainings with the same frozen layers share, and so is ``disk``. Image
            files are then decoded once too.
        features_memory: bytes of it that may be in memory where there is no room for a file, or text such as "2GB".
        head_init: how a new head starts, as in `Settings`; with ``fitted`` a head that cannot be fitted fails.
        keep_features: leave the files there when the comparison ends, for one with more strategies or seeds.
        threads: of each training and of measuring, or a `Runtime` with an execution provider; None: ONNX Runtime's
            choice, 1 where several run at once and with ``ray``.
        command: the command line, to note in plan.json.

    Raises:
        UsageError: something is unknown or out of range.

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
            raise UsageError(f"at least one training at a time, not {self.processes}.")
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
        """The same, with what the model says of its classes; without fitting its head where that is not new.

        Raises:
            UsageError: fitting it was asked for.
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
        """How a training keeps what others share, and how its head starts."""
        kept = self.keep_features or self.features in ("auto", "disk")
        return Settings(
            features=self.features,
            features_memory=self.features_memory,
            keep_features=kept,
            head_init=self.head_init,
        )

    @property
    def grid(self) -> tuple[float, ...]:
        """Learning rates to begin with."""
        return self.rates or RATES["sgd" if self.choices.optimizer == "sgd" else "adamw"]

    def settings(self) -> list[Setting]:
        """Strategies with their rhos, in the order asked for, each once."""
        found: dict[Setting, None] = {}
        for strategy in self.strategies:
            for rho in (None,) if strategy in _BY_ITS_OWN_RULE else self.rhos:
                found[Setting(strategy, rho)] = None
        return list(found)

    @property
    def kept(self) -> dict[str, bool]:
        """What a new head keeps."""
        return {"keep_tail": self.keep_tail, "append": self.append}

    @property
    def training_threads(self) -> Threads:
        """Threads of each training, and its execution provider."""
        where = on(self.threads)
        alone = self.ray is None and self.processes in (None, 1)
        return self.threads if alone or where.threads else replace(where, threads=1)

    def to_json(self) -> dict[str, Any]:
        """What decides about results, as JSON values."""
        entries = dict(asdict(self), strategies=list(self.strategies), rhos=list(self.rhos), rates=list(self.rates))
        for name in ("preprocessing", "keep_tail", "append"):  # the model and data say it
            del entries[name]
        for name in (
            "processes",
            "ray",
            "threads",
            "features",
            "features_memory",
            "keep_features",
        ):  # results are the same
            del entries[name]
        return entries


def fingerprint(parts: Sequence[Dataset | None]) -> str:
    """SHA-256 of the samples and labels of datasets, 64 of each spread evenly, and of how many there are."""
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
    """Write the plan, or see that the one that is there is the same.

    Args:
        path: of plan.json.
        plan: what is asked for.
        facts: the other entries of the file.

    Raises:
        UsageError: the folder was begun with another plan.
        RecordError: its plan is damaged.
    """
    wanted = {"format": FORMAT, "version": VERSION, **plan.to_json(), **facts}
    if path.is_file():
        there = read_record(path, FORMAT, VERSION, _MADE_BY)
        Entries(there, str(path), _MADE_BY)
        # More strategies, rhos or seeds only add to what is there.
        free = {"strategies", "rhos", "seeds", "test_samples", "command"}
        there.setdefault("data", wanted.get("data"))  # plans of older releases do not say
        if isinstance(there.get("choices"), dict):
            there["choices"].setdefault("frozen_precision", "auto")
            there["choices"].setdefault("class_weights", None)
        other = [key for key in wanted if key not in free and there.get(key) != _plain(wanted[key])]
        if other:
            key = other[0]
            raise UsageError(
                f"{path.parent} was begun with other options: {key} was {there.get(key)}, now it is "
                f"{_plain(wanted[key])}. Give the same ones, or another folder."
            )
    write_json(path, wanted)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
