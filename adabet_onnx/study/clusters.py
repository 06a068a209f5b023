"""Clusters in the embeddings of a layer's activations, to hold against its first Betti number.

UMAP (L. McInnes et al., arXiv 1802.03426) puts the points in a plane by their distances, DBSCAN (M. Ester et al., KDD
1996) counts clusters there. umap-learn is an optional extra: ``pip install 'adabet-onnx[embeddings]'``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import RuntimeMissingError
from ..progress import Progress

NEIGHBOURS = 15  # of UMAP, its default; fewer where there are fewer points
RADIUS, LEAST = 0.5, 5  # of DBSCAN, in the plane; its defaults


@dataclass(frozen=True)
class Clusters:
    """Of a layer.

    Attributes:
        layer: its name.
        clusters: how many DBSCAN finds.
        noise: points in none.
        b1: first Betti number of the same points.
    """

    layer: str
    clusters: int
    noise: int
    b1: int


def clusters_of(
    layers: Mapping[str, tuple[np.ndarray, int]], *, seed: int = 0, progress: Progress | None = None
) -> Iterator[Clusters]:
    """Clusters of each layer.

    Args:
        layers: by name, distances of its points (N, N), and their first Betti number.
        seed: of UMAP.
        progress: called with what is going on, steps done and steps in all.

    Raises:
        RuntimeMissingError: umap-learn is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of umap's: no parallelism with a seed, no inverse with given distances
        try:
            from umap import UMAP
        except ImportError as error:
            raise RuntimeMissingError(
                "embeddings need umap-learn: pip install 'adabet-onnx[embeddings]', or leave out `embeddings`."
            ) from error
        from sklearn.cluster import DBSCAN

        for number, (name, (matrix, b1)) in enumerate(layers.items()):
            if progress is not None:
                progress("embedding", number, len(layers))
            neighbours = min(NEIGHBOURS, len(matrix) - 1)
            # "random": the spectral start fails where points fall together.
            mapper = UMAP(n_neighbors=neighbours, metric="precomputed", init="random", random_state=seed, n_jobs=1)
            found = DBSCAN(eps=RADIUS, min_samples=LEAST).fit(mapper.fit_transform(matrix)).labels_
            yield Clusters(name, len(set(found.tolist()) - {-1}), int(np.count_nonzero(found == -1)), b1)
