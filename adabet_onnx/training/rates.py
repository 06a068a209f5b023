"""Which of several learning rates is best, and which to try next: for a comparison, and for the search of a training.

A grid that ends too early favours what likes its middle. So while the best rate is the highest or the lowest one that
was tried, the next one in its direction is tried too, up to EXTENSIONS times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

EXTENSIONS = 3


@dataclass(frozen=True)
class TrialOutcome:
    """Of a training with some rate, on validation data: accuracy (0 to 1; 0 where the loss has none) and loss."""

    accuracy: float
    loss: float


def best_rate(
    tried: Mapping[float, TrialOutcome | None], doubt: float = 0.0, slack: Callable[[float], float] | None = None
) -> float | None:
    """The rate with the highest accuracy (without one, the lowest loss); the lower rate in a tie; None if all failed.

    Args:
        tried: by rate; None: the training failed.
        doubt: of accuracies: those that are no further than this below the highest count as equal, and the lowest loss
            wins among them.
        slack: by how much a loss may be above the lowest of these to count as equal, of the lowest; the highest rate
            wins among them. None: no loss is equal to another.
    """
    found = {rate: outcome for rate, outcome in tried.items() if outcome is not None}
    if not found:
        return None
    least = max(outcome.accuracy for outcome in found.values()) - doubt
    equal = [
        (-outcome.accuracy if doubt == 0 else 0.0, outcome.loss, rate)
        for rate, outcome in found.items()
        if outcome.accuracy >= least
    ]
    best = min(equal)
    if slack is None:
        return best[2]
    return max(rate for _, loss, rate in equal if loss <= best[1] + slack(best[1]))


def next_rate(
    tried: Mapping[float, TrialOutcome | None], doubt: float = 0.0, slack: Callable[[float], float] | None = None
) -> float | None:
    """The rate to try next: beyond the edge that the best one is at; lower where all failed; else None.

    Args:
        tried, doubt, slack: as in `best_rate`.
    """
    best, lowest, highest = best_rate(tried, doubt, slack), min(tried), max(tried)
    if best is None or best == lowest:
        return step(lowest, up=False)
    return step(highest, up=True) if best == highest else None


def step(rate: float, *, up: bool) -> float:
    """About half a decade away, with one digit: 0.001, 0.003, 0.01, 0.03, ..."""
    return float(f"{rate * 3.3 if up else rate / 3:.0e}")
