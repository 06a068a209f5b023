"""How a data set is shared out among simulated clients.

``iid``: at random, so many to each. ``dirichlet:A``: of each class every client gets a share, drawn from a Dirichlet
distribution; the smaller A, the more the clients differ (0.3 is the usual hard case). ``by-class:K``: every client has
samples of K classes only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import seeds
from ..errors import DataError, UsageError

_KINDS = ("iid", "dirichlet", "by-class")


@dataclass(frozen=True)
class Partition:
    """A way to share out samples.

    Attributes:
        kind: iid, dirichlet or by-class.
        number: A of the Dirichlet distribution, or K classes; 0 for iid.
    """

    kind: str
    number: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "iid" else f"{self.kind}:{self.number:g}"

    def rows(self, labels: np.ndarray | None, samples: int, clients: int, seed: int) -> list[np.ndarray]:
        """Which samples each client gets, ascending: every sample goes to one client, and every client gets one.

        Args:
            labels: one class for each sample; not looked at for iid.
            samples: how many there are.
            clients: how many.
            seed: of the drawing.

        Raises:
            DataError: fewer samples than clients, or labels that are not one class for each sample.
            UsageError: more classes for each client than there are, or classes that nobody would have.
        """
        if samples < clients:
            raise DataError(f"{samples} samples cannot be shared out among {clients} clients. Give more data.")
        rng = seeds.partition(seed)
        if self.kind == "iid":
            return [np.sort(part) for part in np.array_split(rng.permutation(samples), clients)]
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(
                f"the partition {self} shares out by class, and the data does not have one class for each sample. Use "
                "`partition='iid'`."
            )
        parts = self._by_shares(labels, self._shares(labels, clients, rng), rng)
        return [np.sort(np.array(part, np.int64)) for part in _nobody_empty(parts)]

    def _shares(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> np.ndarray:
        """(C, M): of each class the share that each client gets."""
        classes = len(np.unique(labels))
        if self.kind == "dirichlet":
            return np.asarray(rng.dirichlet([self.number] * clients, classes))
        each = int(self.number)
        if each > classes or each * clients < classes:
            raise UsageError(
                f"with `partition='{self}'` {clients} clients have {each} classes each, of {classes}: every class must "
                "have a client, and no client more classes than there are."
            )
        shares = np.zeros((classes, clients))
        for client in rng.permutation(clients):
            rarest = np.lexsort((rng.random(classes), shares.sum(1)))[:each]
            shares[rarest, client] = 1
        return np.asarray(shares / shares.sum(1, keepdims=True))

    @staticmethod
    def _by_shares(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> list[list[int]]:
        parts: list[list[int]] = [[] for _ in range(shares.shape[1])]
        for share, value in zip(shares, np.unique(labels), strict=True):
            members = rng.permutation(np.flatnonzero(labels == value))
            ends = np.rint(np.cumsum(share) * len(members)).astype(int)
            for part, some in zip(parts, np.split(members, ends[:-1]), strict=True):
                part.extend(some.tolist())
        return parts


def _nobody_empty(parts: list[list[int]]) -> list[list[int]]:
    """Clients that drew nothing get a sample of whoever has most."""
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def parse_partition(text: str) -> Partition:
    """A partition by its name: ``iid``, ``dirichlet:0.3``, ``by-class:2``.

    Raises:
        UsageError: it is none of these.
    """
    if not isinstance(text, str):
        raise UsageError(f"`partition` must be text, not {type(text).__name__}.")
    kind, _, number = text.partition(":")
    try:
        value = float(number) if kind != "iid" else 0.0
        good = kind in _KINDS and (kind != "iid" or not number) and math.isfinite(value)
        good = good and (kind == "iid" or value > 0) and (kind != "by-class" or value == int(value))
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"unknown partition {text!r}: write iid, dirichlet:0.3 or by-class:2.")
    return Partition(kind, value)
