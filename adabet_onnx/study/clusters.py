"""Clusters in embeddings of a layer's activations, to compare with its first Betti number.

UMAP (L. McInnes et al., arXiv 1802.03426) embeds the points in a plane by their distances, DBSCAN (M. Ester et al., KDD
1996) counts the clusters there. umap-learn is an optional extra: ``pip install 'adabet-onnx[embeddings]'``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import RuntimeMissingError
from ..progress import Progress

NEIGHBOURS = 15  # UMAP's default; fewer if there are fewer points
RADIUS, LEAST = 0.5, 5  # DBSCAN's defaults


@dataclass(frozen=True)
class Clusters:
    """The clusters of a layer.

    Attributes:
        layer: name of the layer.
        clusters: number of clusters.
        noise: points that belong to no cluster.
        b1: first Betti number of the same points.
    """

    layer: str
    clusters: int
    noise: int
    b1: int


def clusters_of(
    layers: Mapping[str, tuple[np.ndarray, int]], *, seed: int = 0, progress: Progress | None = None
) -> Iterator[Clusters]:
    """Find the clusters of each layer.

    Args:
        layers: by name, the distances of the layer's points (N, N), and their first Betti number.
        seed: random seed of UMAP.
        progress: called with the current activity, the number of finished steps and the total.

    Raises:
        RuntimeMissingError: umap-learn is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns: no parallelism with a seed, no inverse with given distances
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
            # "random": spectral initialisation fails if points coincide.
            mapper = UMAP(n_neighbors=neighbours, metric="precomputed", init="random", random_state=seed, n_jobs=1)
            labels = DBSCAN(eps=RADIUS, min_samples=LEAST).fit(mapper.fit_transform(matrix)).labels_
            yield Clusters(name, len(set(labels.tolist()) - {-1}), int(np.count_nonzero(labels == -1)), b1)
