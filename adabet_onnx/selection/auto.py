"""The strategy ``auto``: a fixed rule that chooses layers from forward passes, without labels or gradients.

AdaBet's score does not distinguish a new task from a shifted input and prefers small late layers in both cases. Stored
statistics do (`scoring.signals`). The rule:

1. **The input has shifted**: the median shift of the BatchNormalization layers is above SHIFTED. Then the scales and
   biases of all normalisations are trained, which restores the values that the following layers expect.
2. **The late layers have collapsed**: in the last third of the layers (without the head) many channels are dead, or the
   points of a batch span few directions. The inputs of these layers say little about the samples, and training them
   changes little. Then all normalisations are trained as well; without normalisations, the last layers that have not
   collapsed.
3. **Otherwise**, and if no shift can be measured (no stored statistics), the last layers are trained.

The head is added by the head rule, as for every strategy. Later layers are preferred, so the ranking depends on the
sample only through the diagnosis. rho caps the number of layers; if it is not given, cases 1 and 2 have no cap, and
case 3 selects a fifth of the layers.

Reaching the first normalisation takes the activations of the whole network. The batch is therefore split into as many
micro-batches as necessary to stay within the budget. The default budget is a third of the step memory of all layers;
for small networks, where the runtime dominates, it is inference memory plus a third of what training adds, or else the
minimum that any training takes. Gradients are accumulated, so the update is that of the whole batch. The experiments
behind this rule are in tests/benchmarks/choice.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from ..scoring.record import Scores

SHIFTED = 0.05  # median shift; 0.01 or less on data like the training data, 0.08 or more on shifted data
CLOSE = 1.5  # within this factor of SHIFTED, a median is close to the limit
DEAD = 0.3  # mean share of dead channels
FEW_DIRECTIONS = 5.0  # median effective rank
LAST_SHARE = 0.2  # share of the layers if rho is not given


@dataclass(frozen=True)
class Diagnosis:
    """What the signals indicate.

    Attributes:
        name: shifted, collapsed or new-task.
        why: the reason, as part of a sentence.
    """

    name: str
    why: str


def median_shift(scores: Scores) -> float | None:
    """The median shift of the BatchNormalization layers; None if none was measured."""
    shifts = [layer.shift for layer in scores.layers if layer.shift is not None]
    return statistics.median(shifts) if shifts else None


def shift_text(median: float) -> str:
    """The median shift and its limit."""
    close = "; close to the limit" if SHIFTED / CLOSE <= median <= SHIFTED * CLOSE else ""
    return f"median divergence {median:.2g}; above {SHIFTED:g} it counts as shifted{close}"


def diagnose(scores: Scores) -> Diagnosis:
    """Determine which case of the rule applies."""
    median = median_shift(scores)
    if median is not None and median > SHIFTED:
        return Diagnosis("shifted", f"the input has shifted ({shift_text(median)})")
    late = [layer for layer in scores.layers if layer.name != scores.head]
    late = late[-max(1, len(late) // 3) :]
    dead = [layer.dead for layer in late if layer.dead is not None]
    ranks = [layer.effective_rank for layer in late if layer.effective_rank is not None]
    if scores.points <= 2 * FEW_DIRECTIONS:  # so few points always span few directions
        ranks = []
    if dead and statistics.fmean(dead) >= DEAD:
        return Diagnosis(
            "collapsed", f"{statistics.fmean(dead):.0%} of the channels of the late layers are dead on this data"
        )
    if ranks and statistics.median(ranks) < FEW_DIRECTIONS:
        return Diagnosis(
            "collapsed",
            f"in the late layers samples differ in only {statistics.median(ranks):.1f} directions (median)",
        )
    known = "whether the input has shifted is unknown (no stored statistics)"
    if median is not None:
        known = f"the input has not shifted ({shift_text(median)})"
    return Diagnosis("new-task", known)


def preferred_layers(scores: Scores, pool: list[int], rho: float | None) -> tuple[list[int], int, str]:
    """The layers that ``auto`` prefers: (layers in order of preference, maximum number, reason).

    Args:
        scores: scores of all layers, with their signals.
        pool: indices of the layers that may be selected, in model order.
        rho: fraction of layers that may be selected; None: see the module.
    """
    diagnosis = diagnose(scores)
    layers, backwards = scores.layers, pool[::-1]
    cap = len(layers) if rho is None else _share(rho, len(layers))
    norms = [i for i in backwards if layers[i].is_norm]
    if diagnosis.name != "new-task" and norms:
        which = "all normalisations" if cap >= len(norms) else _last(cap, "normalisation")
        return norms, min(cap, len(norms)), f"{which}, because {diagnosis.why}"
    count = _share(LAST_SHARE if rho is None else rho, len(layers))
    if diagnosis.name == "collapsed":
        ranks = {i: layers[i].effective_rank for i in backwards}
        sound = [i for i, rank in ranks.items() if rank is None or rank >= FEW_DIRECTIONS]
        if sound:
            which = _last(min(count, len(sound)), "sound layer")
            return sound, count, f"{which}, because {diagnosis.why}"
    return backwards, count, f"{_last(min(count, len(backwards)), 'layer')}, because {diagnosis.why}"


def _last(count: int, what: str) -> str:
    return f"the last {count} {what}s" if count > 1 else f"the last {what}"


def _share(rho: float, layers: int) -> int:
    return max(1, int(rho * layers + 1e-9))
