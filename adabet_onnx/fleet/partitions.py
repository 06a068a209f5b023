"""Partitions of a data set among simulated clients.

``iid``: random, with equal numbers for each. ``dirichlet:A``: every client gets a share of each class, drawn from a
Dirichlet distribution; the smaller A, the more the clients differ (0.3 is the usual hard case). ``by-class:K``: every
client has samples of K classes only.
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
    """A scheme for distributing samples.

    Attributes:
        kind: iid, dirichlet or by-class.
        number: A of the Dirichlet distribution, or K classes; 0 for iid.
    """

    kind: str
    number: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "iid" else f"{self.kind}:{self.number:g}"

    def rows(self, labels: np.ndarray | None, samples: int, clients: int, seed: int) -> list[np.ndarray]:
        """Return the indices of each client's samples, ascending; every client gets at least one.

        Args:
            labels: one class for each sample; ignored for iid.
            samples: number of samples.
            clients: number of clients.
            seed: random seed.

        Raises:
            DataError: there are fewer samples than clients, or labels are not one class for each sample.
            UsageError: there are not enough classes for each client, or some classes would have no client.
        """
        if samples < clients:
            raise DataError(f"{samples} samples cannot be distributed among {clients} clients. Give more data.")
        rng = seeds.partition(seed)
        if self.kind == "iid":
            return [np.sort(part) for part in np.array_split(rng.permutation(samples), clients)]
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(
                f"the partition {self} distributes by class, but the data does not have one class for each sample. Use "
                "`partition='iid'`."
            )
        parts = self._by_shares(labels, self._shares(labels, clients, rng), rng)
        return [np.sort(np.array(part, np.int64)) for part in _without_empty_parts(parts)]

    def _shares(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> np.ndarray:
        """Return the share of each class for each client, (C, M)."""
        classes = len(np.unique(labels))
        if self.kind == "dirichlet":
            return np.asarray(rng.dirichlet([self.number] * clients, classes))
        each = int(self.number)
        if each > classes or each * clients < classes:
            raise UsageError(
                f"with `partition='{self}'` {clients} clients have {each} of {classes} classes each: every class must "
                "have a client, and no client can have more classes than there are."
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


def _without_empty_parts(parts: list[list[int]]) -> list[list[int]]:
    """Give each client without samples one of the client with the most."""
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return parts


def parse_partition(text: str) -> Partition:
    """Parse a partition: ``iid``, ``dirichlet:0.3``, ``by-class:2``.

    Raises:
        UsageError: the text is none of these.
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
        raise UsageError(f"unknown partition {text!r}: use iid, dirichlet:0.3 or by-class:2, for example.")
    return Partition(kind, value)
