"""What scoring may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..options import check_fields, fitted
from ..showing import changed
from ..sizes import parse_size
from ..vocabulary import ESTIMATORS, LEAST_SKETCH, ORDERS, SKETCHES


@dataclass(frozen=True)
class Scoring:
    """How layers are scored.

    Attributes:
        estimator: ``subsets`` takes distances of groups of up to 128 samples, and b1 of ``subsets`` seeded random
            ``subset_size``-subsets of each group; ``batches`` is the paper's, b1 of ``batches`` disjoint batches.
        samples: for subsets, how many samples in all.
        subset_size: for subsets, N: the points of one Betti number.
        subsets: for subsets, how many per group; None: as many as settle half of the gaps in the ranking, 64 at least
            and 1,024 at most.
        batch_size: for batches, N.
        batches: for batches, how many.
        sketch: for subsets, k: distances are those of sketches of k numbers of each activation, and exact where it has
            no more elements; samples are forwarded few at a time. ``"auto"`` is 8,192, or fewer where ``max_memory`` is
            short. ``"off"`` takes exact distances inside the graph, from groups that are forwarded together, which
            takes several times the memory. ``batches`` is always exact.
        order: ``shuffled`` draws samples at random, ``sequential`` takes the first ones.
        channels: also score the output channels within each layer, which ``Choosing(channel_rho=...)`` needs.
        max_memory: bytes that scoring may take, or text such as ``"2GB"``; None is three quarters of what is free. To
            keep to it fewer samples are forwarded at a time, sketches become smaller, or without sketches groups do,
            which the notes of the scores then say.

    Raises:
        UsageError: an unknown estimator or order, or a number out of range.

    Example:
        >>> from adabet_onnx import Scoring
        >>> Scoring(samples=64, max_memory="500MB").max_memory
        500000000
    """

    estimator: str = "subsets"
    samples: int = 128
    subset_size: int = 32
    subsets: int | None = None
    batch_size: int = 32
    batches: int = 4
    sketch: int | str = "auto"
    order: str = "shuffled"
    channels: bool = False
    max_memory: int | str | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.estimator not in ESTIMATORS:
            raise UsageError(f"unknown estimator {self.estimator!r}: choose one of {', '.join(ESTIMATORS)}.")
        if self.order not in ORDERS:
            raise UsageError(f"unknown order {self.order!r}: choose one of {', '.join(ORDERS)}.")
        for name in ("samples", "subset_size", "subsets", "batch_size", "batches"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"the number of {name.replace('_', ' ')} must be at least 1, not {number}.")
        if self.points < 4:
            raise UsageError(f"{self.points} points always have a first Betti number of 0; take at least 4, better 32.")
        if self.estimator == "subsets" and self.samples < self.points:
            raise UsageError(
                f"{self.samples} samples are fewer than one subset of {self.points}; raise `samples` or "
                "lower `subset_size`."
            )
        object.__setattr__(self, "sketch", check_sketch(self.sketch))
        if self.sketch_size is not None and self.estimator == "batches":
            raise UsageError(
                "the estimator batches takes exact distances: leave `sketch` out, or take the estimator subsets."
            )
        if self.max_memory is not None:
            object.__setattr__(self, "max_memory", parse_size(self.max_memory, "max_memory"))

    @property
    def sketching(self) -> bool:
        """Whether distances are those of sketches."""
        return self.estimator == "subsets" and self.sketch != "off"

    @property
    def sketch_size(self) -> int | None:
        """k, if it is given."""
        return None if isinstance(self.sketch, str) else self.sketch

    @property
    def points(self) -> int:
        """N of one Betti number."""
        return self.subset_size if self.estimator == "subsets" else self.batch_size

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory)

    @property
    def needed(self) -> int:
        """The fewest samples that scores can be made of."""
        return self.points * (self.batches if self.estimator == "batches" else 1)


def check_sketch(sketch: Any) -> int | str:
    """The size of a sketch, or a word for one.

    Raises:
        UsageError: it is neither.
    """
    found: int | str = fitted("sketch", sketch, int | str)
    if isinstance(found, str):
        if found not in SKETCHES:
            raise UsageError(f"`sketch` must be a whole number, {' or '.join(SKETCHES)}, not {found!r}.")
    elif found < LEAST_SKETCH:
        raise UsageError(
            f"a sketch of {found} numbers says too little of an activation: take at least {LEAST_SKETCH}, better the "
            "default."
        )
    return found
