"""Learning-rate schedules, per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable

# Factor of the base rate by progress, from 0 (first step) to 1 (end of training).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
