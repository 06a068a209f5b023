"""Budgets: limits on what training a selection may cost on the target device.

A budget is checked against predictions (`Costs`, implemented by `cost.predict.Predictor`), never against sums of the
costs of single layers: the earliest selected layer, not the number of layers, decides how far the backward pass goes.

The part before the earliest layer is run once per sample, by the frozen pass, and steps start from its results. So time
is that of a step after the frozen pass, and memory is the larger of the two: the earlier a selection begins, the more a
step takes, and the less the frozen pass. In models that consist mostly of weights, an earlier layer may stay within a
budget that the last one exceeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from ..errors import UsageError
from ..scoring.record import LayerScore
from ..showing import changed, clipped, one_line
from ..sizes import parse_share, parse_size, size_text
from .search import Answer

MEMORY_LIMITS = ("max_memory", "max_memory_share")
AUTO_SHARE = 1 / 3  # default budget of the strategy auto, as a share of all layers' step memory
AUTO_LIMITS = {  # how the strategy auto sets its own limit; the names are in selection files
    "third": "a third of training all layers",
    "third-of-rest": "inference and a third of what training all layers adds to it",
    "least": "the least that any training takes",
}


class PredictedCost(Protocol):
    """The cost of training a set of parameters; see `cost.predict.Prediction`."""

    @property
    def memory_bytes(self) -> int:
        """Step memory."""

    @property
    def margin_bytes(self) -> int:
        """How much a measurement may exceed the step memory."""

    @property
    def frozen_bytes(self) -> int:
        """Memory of the frozen pass; 0 if nothing is frozen."""

    @property
    def tail_bytes(self) -> int:
        """Memory of a step after the frozen pass."""

    @property
    def with_more_bytes(self) -> int:
        """Lower bound of the step memory if more parameters are trained."""

    @property
    def with_fewer_bytes(self) -> int:
        """Lower bound of the step memory if fewer of the parameters are trained."""

    @property
    def update_bytes(self) -> int:
        """Size of the trained parameters."""

    @property
    def step_multiply_adds(self) -> int:
        """Multiply-adds of a whole step after the frozen pass."""


class Costs(Protocol):
    """Predicts costs; see `cost.predict.Predictor`."""

    @property
    def batch_size(self) -> int:
        """Samples of a step."""

    @property
    def backend(self) -> str:
        """The backend that trains."""

    @property
    def divisible(self) -> bool:
        """Whether a batch can be split into micro-batches with accumulated gradients, with the same result."""

    def training(self, parameters: Sequence[str], *, accumulate: int = 1) -> PredictedCost:
        """Cost of an update of these parameters by a batch, split into ``accumulate`` micro-batches."""

    def everything(self) -> PredictedCost:
        """Cost of a training step of all layers."""

    def inference(self) -> PredictedCost:
        """Cost of a forward pass."""

    def dearer(self, layer: str, other: str) -> bool:
        """Whether training a layer costs at least as much as training another; False if that is not known.

        Both are compared in addition to layers that all come later in the model.
        """


@dataclass(frozen=True)
class Budget:
    """Limits on the cost of training; None: no limit.

    Attributes:
        max_memory: step memory in bytes (of the frozen pass or of a step after it, whichever is more), or text such
            as ``"64MB"``; stored as bytes. (``"0.25x"`` means ``max_memory_share=0.25``.)
        max_memory_share: the same as a share of what training all layers takes.
        max_step_time: time of a step, after the frozen pass, as a share of what training all layers takes, by
            multiply-adds: 0.5, or ``"0.5x"``.
        max_update: bytes of the trained parameters, or text such as ``"200KB"``.

    Raises:
        UsageError: a limit is not a size or share above 0.

    Example:
        >>> from adabet_onnx import Budget
        >>> Budget(max_memory="64MB").max_memory
        64000000
    """

    max_memory: int | str | None = None
    max_memory_share: float | str | None = None
    max_step_time: float | str | None = None
    max_update: int | str | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        if isinstance(self.max_memory, str) and self.max_memory.strip().lower().endswith("x"):
            if self.max_memory_share is not None:
                raise UsageError("give a share of memory once: as max_memory or as max_memory_share.")
            object.__setattr__(self, "max_memory_share", self.max_memory)
            object.__setattr__(self, "max_memory", None)
        for what, read in (
            ("max_memory", parse_size),
            ("max_memory_share", parse_share),
            ("max_step_time", parse_share),
            ("max_update", parse_size),
        ):
            value = getattr(self, what)
            if value is not None:
                object.__setattr__(self, what, read(value, what))

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, in bytes or as shares, by attribute name."""
        return {what: value for what, value in asdict(self).items() if value is not None}

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())


@dataclass(frozen=True)
class BudgetUse:
    """How much of its budget a selection uses; part of the selection file.

    Attributes:
        batch_size: samples of the update that all figures refer to.
        accumulate: number of micro-batches that a batch is split into; their gradients are accumulated.
        backend: the backend that trains.
        memory_bytes: predicted step memory, including the prediction's margin.
        step_time: predicted time as a share of that of training all layers.
        update_bytes: size of the trained parameters.
        memory_share: predicted step memory as a share of that of training all layers, both without a margin.
        limits: bytes or shares, by the names of `Budget`.
        given_up: layers that would have been selected without a budget but are not.
        score_share: sum of the selected layers' scores as a share of that without a budget; None without scores.
        gap: share by which the best selection that fits could still be better; 0: this is the best one.
        tried: number of selections whose cost was predicted.
        auto_limit: which of `AUTO_LIMITS` the limit is; None: it was given by the user.
    """

    batch_size: int
    backend: str
    memory_bytes: int
    memory_share: float
    step_time: float
    update_bytes: int
    limits: dict[str, float]
    given_up: list[str]
    score_share: float | None
    gap: float
    tried: int
    accumulate: int = 1
    auto_limit: str | None = None

    @property
    def part(self) -> int:
        """Samples of a step."""
        return self.batch_size // self.accumulate

    @property
    def name(self) -> str:
        """What limits the selection."""
        return "the budget" if self.auto_limit is None else f"auto's own memory limit ({AUTO_LIMITS[self.auto_limit]})"

    def __repr__(self) -> str:
        return one_line(self, clipped(self.sentence(), 250))

    def sentence(self) -> str:
        """The use of the budget as a sentence."""
        limits = self.limits
        used = {
            "max_memory": f"memory {size_text(self.memory_bytes)}",
            "max_memory_share": f"memory {self.memory_share:.3g}x",
            "max_step_time": f"time {self.step_time:.3g}x",
            "max_update": f"update {size_text(self.update_bytes)}",
        }
        own = "" if self.auto_limit is None else f": {AUTO_LIMITS[self.auto_limit]}"
        parts = [f"{used[key]} (limit {limit_text(key, limit)}{own})" for key, limit in limits.items()]
        micro_batches = f", {self.part} at a time" if self.accumulate > 1 else ""
        text = f"predicted at batch {self.batch_size}{micro_batches}: {', '.join(parts)}"
        if {"max_memory_share", "max_step_time"} & limits.keys():
            text += ", where 1x is training all layers that can be trained"
        if not self.given_up:
            return f"{text}; no layer had to be left out"
        first = ", ".join(self.given_up[:4]) + (", ..." if len(self.given_up) > 4 else "")
        text += f"; left out: {first}"
        if self.score_share is not None:
            text += f" (the selected layers have {self.score_share:.0%} of the score without a limit)"
        return text if self.gap == 0 else f"{text}; a selection up to {self.gap:.1%} better may exist"


class Meter:
    """Predicts the costs of sets of layers, each once, and compares them with a budget.

    Args:
        layers: all layers, in model order.
        budget: the limits.
        costs: the predictor.
        accumulate: number of micro-batches that a batch is split into.
    """

    def __init__(self, layers: Sequence[LayerScore], budget: Budget, costs: Costs, accumulate: int = 1) -> None:
        self._layers, self._costs, self._accumulate = layers, costs, accumulate
        self._known: dict[tuple[str, ...], PredictedCost] = {}
        self.limits = {key: float(value) for key, value in budget.limits.items()}

    @property
    def tried(self) -> int:
        """The number of sets whose cost was predicted."""
        return len(self._known)

    def parameters(self, chosen: frozenset[int]) -> tuple[str, ...]:
        """Names of the initializers of these layers, in model order, without duplicates."""
        return tuple(dict.fromkeys(name for i in sorted(chosen) for name in self._layers[i].parameters))

    def predict(self, chosen: frozenset[int]) -> PredictedCost:
        """The predicted cost of training these layers."""
        names = self.parameters(chosen)
        if names not in self._known:
            self._known[names] = self._costs.training(names, accumulate=self._accumulate)
        return self._known[names]

    def dearer(self, layer: int, other: int) -> bool:
        """Whether a layer costs at least as much as another, in addition to later ones; False if that is not known."""
        return self._costs.dearer(self._layers[layer].name, self._layers[other].name)

    def uses(self, chosen: frozenset[int]) -> dict[str, float]:
        """The use of each limited resource by these layers."""
        predicted = self.predict(chosen)
        uses: dict[str, float] = {
            "max_memory": predicted.memory_bytes + predicted.margin_bytes,
            "max_update": predicted.update_bytes,
        }
        if "max_memory_share" in self.limits:
            uses["max_memory_share"] = self.memory_share(predicted)
        if "max_step_time" in self.limits:
            uses["max_step_time"] = self.time_share(predicted)
        return {key: uses[key] for key in self.limits}

    def memory_share(self, predicted: PredictedCost) -> float:
        """Step memory as a share of that of training all layers, both without margin."""
        return predicted.memory_bytes / max(1, self._costs.everything().memory_bytes)

    def time_share(self, predicted: PredictedCost) -> float:
        """Multiply-adds of a step after the frozen pass, as a share of those of training all layers."""
        return predicted.step_multiply_adds / max(1, self._costs.everything().step_multiply_adds)

    def fits(self, chosen: frozenset[int]) -> bool:
        """Whether these layers stay within every limit."""
        return all(value <= self.limits[key] for key, value in self.uses(chosen).items())

    def answer(self, chosen: frozenset[int]) -> Answer:
        """Whether these layers fit, and whether larger or smaller sets could."""
        if self.fits(chosen):
            return Answer(fits=True, larger=True, smaller=True)
        predicted, uses = self.predict(chosen), self.uses(chosen)
        larger = smaller = True
        for key, limit in self.limits.items():
            if key not in MEMORY_LIMITS:
                larger = larger and uses[key] <= limit
                continue
            each = uses[key] / max(1, predicted.memory_bytes)  # with the margin, or as a share
            larger = larger and each * predicted.with_more_bytes <= limit
            smaller = smaller and each * predicted.with_fewer_bytes <= limit
        return Answer(fits=False, larger=larger, smaller=smaller)

    def budget_use(
        self,
        chosen: frozenset[int],
        *,
        given_up: Sequence[str],
        score_share: float | None,
        gap: float,
        auto_limit: str | None = None,
    ) -> BudgetUse:
        """The use of the budget, for the selection file."""
        predicted = self.predict(chosen)
        return BudgetUse(
            batch_size=self._costs.batch_size,
            backend=self._costs.backend,
            memory_bytes=predicted.memory_bytes + predicted.margin_bytes,
            memory_share=self.memory_share(predicted),
            step_time=self.time_share(predicted),
            update_bytes=predicted.update_bytes,
            limits=self.limits,
            given_up=list(given_up),
            score_share=score_share,
            gap=gap,
            tried=self.tried,
            accumulate=self._accumulate,
            auto_limit=auto_limit,
        )

    @property
    def parts(self) -> int:
        """The number of micro-batches that a batch is split into."""
        return self._accumulate

    @property
    def part(self) -> int:
        """Samples of a micro-batch."""
        return self._costs.batch_size // self._accumulate

    @property
    def batch_size(self) -> int:
        """Samples of an update."""
        return self._costs.batch_size

    def names(self, chosen: frozenset[int]) -> str:
        """Names of these layers, separated by commas."""
        return ", ".join(self._layers[i].name for i in sorted(chosen))


def limit_text(key: str, value: float) -> str:
    """A limit as readable text: a size, or a share."""
    return f"{value:.3g}x" if key in ("max_memory_share", "max_step_time") else size_text(value)
