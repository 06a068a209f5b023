"""Choice of the best of several learning rates and of the next one to try, for comparisons and the rate search.

A grid that ends too early favours methods whose best rate lies in its middle. So while the best rate is the highest or
lowest one tried, the next rate in that direction is tried too, up to EXTENSIONS times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

EXTENSIONS = 3


@dataclass(frozen=True)
class TrialOutcome:
    """Validation result of a training with some rate: accuracy (0 to 1; 0 if the loss has none) and loss."""

    accuracy: float
    loss: float


def best_rate(
    tried: Mapping[float, TrialOutcome | None], doubt: float = 0.0, slack: Callable[[float], float] | None = None
) -> float | None:
    """Return the rate with the highest accuracy (or else the lowest loss), the lower one on a tie; None if all failed.

    Args:
        tried: outcomes by rate; None: the training failed.
        doubt: uncertainty of accuracies: those at most this far below the highest count as equal, and the lowest loss
            among them wins.
        slack: a function of the lowest of these losses: by how much a loss may exceed it to count as equal; the highest
            rate among them wins. None: no losses count as equal.
    """
    finished = {rate: outcome for rate, outcome in tried.items() if outcome is not None}
    if not finished:
        return None
    threshold = max(outcome.accuracy for outcome in finished.values()) - doubt
    candidates = [
        (-outcome.accuracy if doubt == 0 else 0.0, outcome.loss, rate)
        for rate, outcome in finished.items()
        if outcome.accuracy >= threshold
    ]
    best = min(candidates)
    if slack is None:
        return best[2]
    return max(rate for _, loss, rate in candidates if loss <= best[1] + slack(best[1]))


def decision_text(tried: Mapping[float, TrialOutcome | None], chosen: float, doubt: float) -> str | None:
    """Return what decided between rates by `best_rate`, as a clause; None if nothing had to be decided.

    Args:
        tried: outcomes by rate, with accuracies.
        chosen: the rate that was chosen.
        doubt: as in `best_rate`.
    """
    finished = {rate: outcome for rate, outcome in tried.items() if outcome is not None}
    if chosen not in finished or len(finished) < 2:
        return None
    highest = max(outcome.accuracy for outcome in finished.values())
    points = f"two standard errors, {100 * doubt:.1f} points"
    equal = sorted(rate for rate, outcome in finished.items() if outcome.accuracy >= highest - doubt)
    if len(equal) == 1:
        return f"{chosen:g} is better by more than chance ({points})"
    names = " and ".join(f"{rate:g}" for rate in equal)
    losses = ", ".join(f"{finished[rate].loss:.3g}" for rate in equal)
    text = f"{names} are equal within chance ({points})"
    if finished[chosen].loss <= min(finished[rate].loss for rate in equal):
        return f"{text}, and {chosen:g} has the lower loss (losses {losses})"
    return f"{text}, their losses nearly so ({losses}), and the higher rate is taken"


def next_rate(
    tried: Mapping[float, TrialOutcome | None], doubt: float = 0.0, slack: Callable[[float], float] | None = None
) -> float | None:
    """Return the next rate to try: beyond the edge at which the best rate lies; a lower one if all failed; else None.

    Args:
        tried, doubt, slack: as in `best_rate`.
    """
    best, lowest, highest = best_rate(tried, doubt, slack), min(tried), max(tried)
    if best is None or best == lowest:
        return step(lowest, up=False)
    return step(highest, up=True) if best == highest else None


def step(rate: float, *, up: bool) -> float:
    """Return the rate about half a decade away, with one digit: 0.001, 0.003, 0.01, 0.03, ..."""
    return float(f"{rate * 3.3 if up else rate / 3:.0e}")
