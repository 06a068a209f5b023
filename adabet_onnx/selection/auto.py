"""The strategy ``auto``: a choice from what forward passes tell, by a fixed rule, without labels and without gradients.

AdaBet's score cannot tell a new task from a shifted input, and prefers small late layers in both. Stored statistics can
(`scoring.signals`). The rule:

1. **The input has shifted**: the median over the BatchNormalization layers of their shift is above SHIFTED. Then the
   biases of all normalisations are trained, which put each channel's values back where the layers behind expect
   them. A bias needs no activation on the way back, so this reaches the first layer for little memory.
2. **The late layers have collapsed**: in the last third of the layers (the head left out) most channels are dead, or
   the points of a batch lie in few directions. What reaches them says little about the samples, and training them
   changes little. Then the biases of all normalisations are trained as well; without normalisations, the last layers
   that have not collapsed.
3. **Else**, and where nothing is known of a shift (no stored statistics), the last layers.

The head is added by the rule for the head, as for every strategy. Layers are wanted from the last to the first, so the
ranking is the same for any sample, as long as the case is. rho caps the number of layers; if none is given, cases 1 and
2 have no cap, and case 3 has a fifth of the layers. What was tried, and what it gave, is in tests/benchmarks/choice.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from ..scoring.record import LayerScore, Scores

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


Parts = dict[int, tuple[str, ...]]  # by a layer's index, the parameters that are trained


def wanted(
    scores: Scores, pool: list[int], rho: float | None
) -> tuple[list[int], int, dict[int, tuple[str, ...]], str]:
    """What ``auto`` wants: (layers, the most wanted first; how many at most; which parameters of them; why).

    Args:
        scores: with their signals.
        pool: indices of the layers that may be selected, in model order.
        rho: fraction of layers that may be selected; None: see the module.
    """
    found = case(scores)
    layers, backwards = scores.layers, pool[::-1]
    cap = len(layers) if rho is None else max(1, int(rho * len(layers) + 1e-9))
    norms = [i for i in backwards if _bias(layers[i]) is not None]
    if found.name != "new-task" and norms:
        parts: Parts = {i: (bias,) for i in norms if (bias := _bias(layers[i])) is not None}
        return norms, min(cap, len(norms)), parts, f"biases of normalisations, because {found.why}"
    if found.name == "collapsed":
        sound = [i for i in backwards if (layers[i].effective_rank or FEW_DIRECTIONS) >= FEW_DIRECTIONS]
        if sound:
            count = _share(rho, len(layers))
            return sound, count, {}, f"the last {count} layers that have not collapsed, because {found.why}"
    count = _share(rho, len(layers))
    return backwards, count, {}, f"the last {count} layers, because {found.why}"


def _share(rho: float | None, layers: int) -> int:
    return max(1, int((LAST_SHARE if rho is None else rho) * layers + 1e-9))


def _bias(layer: LayerScore) -> str | None:
    """A normalisation's bias: the second of its two parameters, as the operators have them."""
    return layer.parameters[1] if layer.is_norm and len(layer.parameters) == 2 else None
