"""Options of `stability`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from ..options import check_fields
from ..scoring.options import check_sketch
from ..showing import changed
from ..sizes import parse_size
from .ray_cluster import check_address


@dataclass(frozen=True)
class Repeats:
    """How often rankings of layers are repeated, and what is compared.

    Attributes:
        rho: fraction of layers that a selection would contain.
        points: N of one Betti number, and the number of samples in the smallest groups.
        subsets: subsets of each group for the subsets estimator; None for as many as `score` uses, determined by the
            first group of each size.
        max_samples: most samples of a group; two groups of a size must fit into the data.
        groups: most groups of each size.
        seeds: number of shuffles.
        fisher: also rank by Fisher information, if there are labels that fit the model and the loss.
        embeddings: also count clusters of UMAP embeddings (needs umap-learn).
        sketch: k, ``"auto"`` or ``"off"``: how distances are computed, as in `Scoring`.
        max_memory: bytes that forward passes may use, or text such as ``"2GB"``; None for three quarters of the free
            memory.
        ray: rank each shuffle in a Ray task (extra ``cluster``), at an address as in `Plan`; None for this process.

    Raises:
        UsageError: a number is out of range, or ``ray`` is no address.

    Example:
        >>> from adabet_onnx import Repeats
        >>> Repeats(groups=4, max_samples=128).seeds
        2
    """

    rho: float = 0.1
    points: int = 32
    subsets: int | None = None
    max_samples: int = 512
    groups: int = 8
    seeds: int = 2
    fisher: bool = True
    embeddings: bool = False
    sketch: int | str = "auto"
    max_memory: int | str | None = None
    ray: str | None = None

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        for what, number, least in (("points", self.points, 4), ("groups", self.groups, 2), ("seeds", self.seeds, 1)):
            if number < least:
                raise UsageError(f"{what} must be at least {least}, not {number}.")
        if (self.subsets is not None and self.subsets < 1) or not 0 < self.rho <= 1:
            raise UsageError("subsets must be at least 1, and rho above 0 and at most 1.")
        if self.max_samples < self.points:
            raise UsageError(f"`max_samples` must be at least `points`, {self.points}, not {self.max_samples}.")
        object.__setattr__(self, "sketch", check_sketch(self.sketch))
        if self.ray is not None:
            check_address(self.ray)
        if self.max_memory is not None:
            object.__setattr__(self, "max_memory", parse_size(self.max_memory, "max_memory"))

    @property
    def sketching(self) -> bool:
        """Whether distances are those of sketches."""
        return self.sketch != "off"

    @property
    def sketch_size(self) -> int | None:
        """k, if it is given."""
        return None if isinstance(self.sketch, str) else self.sketch

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory)
