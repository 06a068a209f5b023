"""The strategy ``auto``: a choice from what forward passes tell, by a fixed rule, without labels and without gradients.

AdaBet's score cannot tell a new task from a shifted input, and prefers small late layers in both. Stored statistics can
(`scoring.signals`). The rule:

1. **The input has shifted**: the median over the BatchNormalization layers of their shift is above SHIFTED. Then the
   scales and biases of all normalisations are trained, which put each channel's values back where the layers behind
   expect them.
2. **The late layers have collapsed**: in the last third of the layers (the head left out) most channels are dead, or
   the points of a batch lie in few directions. What reaches them says little about the samples, and training them
   changes little. Then all normalisations are trained as well; without normalisations, the last layers that have not
   collapsed.
3. **Else**, and where nothing is known of a shift (no stored statistics), the last layers.

The head is added by the rule for the head, as for every strategy. Layers are wanted from the last to the first, so the
ranking is the same for any sample, as long as the case is. rho caps the number of layers; if none is given, cases 1 and
2 have no cap, and case 3 has a fifth of the layers.

Reaching the first normalisation takes activations of the whole network. So the batch is cut into as many parts as it
takes to keep to the budget (a third of all layers' step memory, where none is given; of small networks, in which
the runtime takes most, inference and a third of what training adds, or else the least that training anything takes);
the gradients of the parts are gathered, and the update is that of the whole batch. What was tried, and what it gave, is
in tests/benchmarks/choice.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from ..scoring.record import Scores

SHIFTED = 0.05  # median shift; 0.01 or less on data like that of the training, 0.08 and more when shifted
DEAD = 0.3  # mean share of dead channels
FEW_DIRECTIONS = 5.0  # median effective rank
LAST_SHARE = 0.2  # of the layers, where rho is not given


@dataclass(frozen=True)
class Case:
    """What the signals say.

    Attributes:
        name: shifted, collapsed or new-task.
        why: one sentence's worth of reason.
    """

    name: str
    why: str


def case(scores: Scores) -> Case:
    """Which case of the rule holds."""
    shifts = [layer.shift for layer in scores.layers if layer.shift is not None]
    median = statistics.median(shifts) if shifts else None
    if median is not None and median > SHIFTED:
        return Case(
            "shifted",
            f"the input has shifted: batch statistics lie a median divergence of {median:.2g} from the stored ones "
            f"(above {SHIFTED})",
        )
    late = [layer for layer in scores.layers if layer.name != scores.head]
    late = late[-max(1, len(late) // 3) :]
    dead = [layer.dead for layer in late if layer.dead is not None]
    ranks = [layer.effective_rank for layer in late if layer.effective_rank is not None]
    if scores.points <= 2 * FEW_DIRECTIONS:  # so few points lie in few directions anyway
        ranks = []
    if dead and statistics.fmean(dead) >= DEAD:
        return Case(
            "collapsed", f"{statistics.fmean(dead):.0%} of the channels of the late layers are dead on this data"
        )
    if ranks and statistics.median(ranks) < FEW_DIRECTIONS:
        return Case(
            "collapsed",
            f"in the late layers samples differ in only {statistics.median(ranks):.1f} directions (median)",
        )
    known = "whether the input has shifted is unknown (no stored statistics)"
    if median is not None:
        known = f"the input has not shifted (median divergence {median:.2g}, at most {SHIFTED})"
    return Case("new-task", known)


def wanted(scores: Scores, pool: list[int], rho: float | None) -> tuple[list[int], int, str]:
    """What ``auto`` wants: (layers, the most wanted first; how many at most; why).

    Args:
        scores: with their signals.
        pool: indices of the layers that may be selected, in model order.
        rho: fraction of layers that may be selected; None: see the module.
    """
    found = case(scores)
    layers, backwards = scores.layers, pool[::-1]
    cap = len(layers) if rho is None else _share(rho, len(layers))
    norms = [i for i in backwards if layers[i].is_norm]
    if found.name != "new-task" and norms:
        some = "all normalisations" if cap >= len(norms) else _last(cap, "normalisation")
        return norms, min(cap, len(norms)), f"{some}, because {found.why}"
    count = _share(LAST_SHARE if rho is None else rho, len(layers))
    if found.name == "collapsed":
        ranks = {i: layers[i].effective_rank for i in backwards}
        sound = [i for i, rank in ranks.items() if rank is None or rank >= FEW_DIRECTIONS]
        if sound:
            some = _last(min(count, len(sound)), "sound layer")
            return sound, count, f"{some}, because {found.why}"
    return backwards, count, f"{_last(min(count, len(backwards)), 'layer')}, because {found.why}"


def _last(count: int, what: str) -> str:
    return f"the last {count} {what}s" if count > 1 else f"the last {what}"


def _share(rho: float, layers: int) -> int:
    return max(1, int(rho * layers + 1e-9))
