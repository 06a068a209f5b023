"""How far rankings from disjoint groups of samples agree; a part of the file of a stability study."""

from __future__ import annotations

from dataclasses import dataclass

FIRM = 0.9  # of the top layers are the same


@dataclass(frozen=True)
class Agreement:
    """How far rankings by one measure from groups of so many samples agree; the attributes are those of the file."""

    measure: str
    samples: int
    groups: int
    pairs: int
    tau: float
    tau_sd: float
    tau_min: float
    overlap: float
    seeds_tau: float | None
