"""How far rankings from disjoint groups of samples agree; a part of the file of a stability study."""

from __future__ import annotations

from dataclasses import dataclass

FIRM = 0.9  # least share of the top layers in common for a stable choice


@dataclass(frozen=True)
class Agreement:
    """How far rankings by one measure, from groups of one size, agree; the attributes are the entries of the file."""

    measure: str
    samples: int
    groups: int
    pairs: int
    tau: float
    tau_sd: float
    tau_min: float
    overlap: float
    seeds_tau: float | None
