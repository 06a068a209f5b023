"""Data in the object store of a cluster: copied there once, in blocks, and read from there by every task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..data.dataset import Dataset, Form, in_blocks
from .ray_cluster import Cluster, Reference, fetch


@dataclass(frozen=True)
class SharedRows:
    """Rows in the object store.

    Attributes:
        blocks: references of blocks of rows, each as `Rows.fetch` returns them.
        block: rows of each block but the last.
        count: rows in all.
        forms: what they look like, by input name.
    """

    blocks: tuple[Reference, ...]
    block: int
    count: int
    forms: dict[str, Form]

    def __len__(self) -> int:
        return self.count

    def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of these indices, copied out of their blocks; negative indices count from the end."""
        rows = np.arange(self.count)[np.asarray(indices)]
        numbers, places = np.divmod(rows, self.block)
        needed = np.unique(numbers) if len(rows) else np.zeros(1, np.int64)
        blocks = dict(zip(needed.tolist(), fetch([self.blocks[number] for number in needed]), strict=True))
        if len(needed) == 1:
            return {name: array[places] for name, array in blocks[int(needed[0])].items()}
        samples = {}
        for name in self.forms:
            first = blocks[int(needed[0])][name]
            samples[name] = np.empty((len(rows), *first.shape[1:]), first.dtype)
            for number, arrays in blocks.items():
                here = numbers == number
                samples[name][here] = arrays[name][places[here]]
        return samples


def shared(dataset: Dataset, cluster: Cluster) -> Dataset:
    """The data with its rows in the object store.

    Ray moves blocks to disk where they do not fit into memory, so data may be larger than memory.

    Args:
        dataset: in any form; image files are decoded.
        cluster: whose object store takes the rows.

    Raises:
        DataError: a sample cannot be read.
    """
    references, first = [], 0
    for block in in_blocks(dataset, len(dataset) or 1):
        arrays = {name: np.ascontiguousarray(array) for name, array in block.items()}
        first = first or len(next(iter(arrays.values())))
        references.append(cluster.put(arrays))
    return replace(dataset, rows=SharedRows(tuple(references), max(first, 1), len(dataset), dataset.rows.forms))
