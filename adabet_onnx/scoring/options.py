"""The options of scoring."""

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
    """Options for scoring layers.

    Attributes:
        estimator: ``subsets`` computes distances in groups of up to 128 samples, and b1 of ``subsets`` seeded random
            ``subset_size``-subsets of each group; ``batches`` is the paper's estimator, b1 of ``batches`` disjoint
            batches.
        samples: for subsets, total number of samples.
        subset_size: for subsets, N: number of points of a Betti number.
        subsets: for subsets, number per group; None: as many as settle half of the gaps in the ranking, at least 64 and
            at most 1,024.
        batch_size: for batches, N.
        batches: for batches, their number.
        sketch: for subsets, k: distances are computed from sketches of k numbers per activation, and are exact for
            activations with at most k elements; samples are forwarded a few at a time. ``"auto"`` is 8,192, or fewer if
            ``max_memory`` is low. ``"off"`` computes exact distances inside the graph, from groups that are forwarded
            together, which takes several times the memory. ``batches`` is always exact.
        order: ``shuffled`` draws samples at random, ``sequential`` takes the first ones.
        channels: also score the output channels within each layer, which ``Choosing(channel_rho=...)`` needs.
        max_memory: bytes that scoring may take, or text such as ``"2GB"``; None: three quarters of the free memory. To
            stay within it, fewer samples are forwarded at a time, and sketches (or groups, without sketches) become
            smaller; the notes of the scores report this.

    Raises:
        UsageError: the estimator or order is unknown, or a number is out of range.

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
            raise UsageError(f"{self.points} points always have a first Betti number of 0; use at least 4, better 32.")
        if self.estimator == "subsets" and self.samples < self.points:
            raise UsageError(
                f"{self.samples} samples are fewer than one subset of {self.points}; raise `samples` or "
                "lower `subset_size`."
            )
        object.__setattr__(self, "sketch", check_sketch(self.sketch))
        if self.sketch_size is not None and self.estimator == "batches":
            raise UsageError(
                "the estimator batches uses exact distances: leave `sketch` out, or use the estimator subsets."
            )
        if self.max_memory is not None:
            object.__setattr__(self, "max_memory", parse_size(self.max_memory, "max_memory"))

    @property
    def sketching(self) -> bool:
        """Whether distances are computed from sketches."""
        return self.estimator == "subsets" and self.sketch != "off"

    @property
    def sketch_size(self) -> int | None:
        """k, if given."""
        return None if isinstance(self.sketch, str) else self.sketch

    @property
    def points(self) -> int:
        """N, the number of points of a Betti number."""
        return self.subset_size if self.estimator == "subsets" else self.batch_size

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory)

    @property
    def needed(self) -> int:
        """The least number of samples needed."""
        return self.points * (self.batches if self.estimator == "batches" else 1)


def check_sketch(sketch: Any) -> int | str:
    """Check the size of a sketch, or a keyword for it.

    Raises:
        UsageError: it is neither.
    """
    value: int | str = fitted("sketch", sketch, int | str)
    if isinstance(value, str):
        if value not in SKETCHES:
            raise UsageError(f"`sketch` must be a whole number, {' or '.join(SKETCHES)}, not {value!r}.")
    elif value < LEAST_SKETCH:
        raise UsageError(
            f"a sketch of {value} numbers is too small for an activation: use at least {LEAST_SKETCH}, better the "
            "default."
        )
    return value
