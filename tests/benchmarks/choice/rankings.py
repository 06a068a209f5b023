"""Ideas for a firmer ranking: agreement of two disjoint halves of the training data on the layers' order.

    python tests/benchmarks/choice/rankings.py [--samples 512] [--repeats 2]

For ResNet-20 on CIFAR-100 classes and on noise, and MobileNetV1 and MobileNetV2 on flowers; halves of at most so many
samples, in blocks of 128. A layer's score is, with b1 of 32 points under the Vietoris-Rips filtration:

    b1_hat batches    mean b1 of disjoint batches / (32 D)            (the paper's)
    b1_hat            mean b1 of random subsets of each block / (32 D)
    threshold         as b1_hat, but only bars longer than a tenth of the batch's median distance
    total             sum of the lengths of the bars over the median distance, instead of their number, / D
    excess            b1 minus that of Gaussian points with the same spread (the block's covariance), / D
    excess, ratio     b1 over that of those Gaussian points, not divided by D
    H0                as total, for components instead of loops: the lengths of the minimum spanning tree, / D
    cosine            as b1_hat, on the points scaled to length one
    b1                not divided by D
    1/D               the control

Printed per task: Kendall's tau between the halves, the top tenth in common, and tau with 1/D. About 15 minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from adabet_onnx.data.preprocess import Preprocessing

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[3] / "shared"
TASKS = {
    "ResNet-20, CIFAR-100 classes": ("resnet20_cifar10_bn", "cifar100_20c"),
    "ResNet-20, noise": ("resnet20_cifar10_bn", "cifar10_noise5"),
    "MobileNetV1, flowers": ("mobilenetv1_025_vww96_bn", "flowers5_96"),
    "MobileNetV2, flowers": ("mobilenetv2_035_imagenet128", "flowers5_96"),
}
BLOCK, POINTS, SUBSETS, DRAWS = 128, 32, 64, 16
LONG = 0.1  # of the median distance: shorter bars are not counted under `threshold`


def bars(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of bars in dimensions 0 and 1, in median distances."""
    from ripser import ripser

    scale = np.median(distance[np.triu_indices(len(distance), 1)]) or 1.0
    components, loops = ripser(distance / scale, maxdim=1, distance_matrix=True)["dgms"]
    components = components[np.isfinite(components[:, 1])]
    return components[:, 1] - components[:, 0], loops[:, 1] - loops[:, 0]


def gaussian_b1(gram: np.ndarray, rng: np.random.Generator) -> float:
    """Mean b1 of 32 Gaussian points whose covariance has the eigenvalues of the block's."""
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0) / len(gram))
    found = []
    for _ in range(DRAWS):
        points = rng.standard_normal((POINTS, len(spread))) * spread
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        found.append(np.count_nonzero(bars(distance)[1] > 0))
    return float(np.mean(found))


def block_scores(gram: np.ndarray, distance: np.ndarray, size: int, seed: int) -> dict[str, float]:
    """Every score of one layer from one block."""
    rng = np.random.default_rng(seed)
    length = np.sqrt(np.maximum(np.diag(gram), 1e-12))
    cosine = np.sqrt(np.maximum(2 - 2 * gram / np.outer(length, length), 0))
    np.fill_diagonal(cosine, 0)
    rows: dict[str, list[float]] = {key: [] for key in ("b1", "threshold", "total", "H0", "cosine")}
    for _ in range(SUBSETS):
        chosen = np.sort(rng.choice(len(gram), POINTS, replace=False))
        components, loops = bars(distance[np.ix_(chosen, chosen)])
        rows["b1"].append(np.count_nonzero(loops > 0))
        rows["threshold"].append(np.count_nonzero(loops > LONG))
        rows["total"].append(loops.sum())
        rows["H0"].append(components.sum())
        rows["cosine"].append(np.count_nonzero(bars(cosine[np.ix_(chosen, chosen)])[1] > 0))
    batches = [
        np.count_nonzero(bars(distance[i : i + POINTS, i : i + POINTS])[1] > 0) for i in range(0, len(gram), POINTS)
    ]
    mean = {key: float(np.mean(values)) for key, values in rows.items()}
    expected = gaussian_b1(gram, rng)
    return {
        "b1_hat batches": float(np.mean(batches)) / size,
        "b1_hat": mean["b1"] / size,
        "threshold": mean["threshold"] / size,
        "total": mean["total"] / size,
        "excess": (mean["b1"] - expected) / size,
        "excess, ratio": mean["b1"] / max(expected, 1e-9),
        "H0": mean["H0"] / size,
        "cosine": mean["cosine"] / size,
        "b1": mean["b1"],
        "1/D": 1 / size,
    }


def of_half(model: Any, probed: Any, dataset: Any, rows: np.ndarray, seed: int) -> dict[str, list[float]]:
    """Every score of every layer, the mean over the half's blocks."""
    from adabet_onnx.scoring.betti import distances

    blocks = []
    for number in range(len(rows) // BLOCK):
        forwarded = probed.forward(dataset, rows[number * BLOCK : (number + 1) * BLOCK])
        grams = {name: np.asarray(gram, np.float64) for name, gram in forwarded.grams.items()}
        sizes = {layer.name: layer.activation_size for layer in model.layers}
        blocks.append([block_scores(gram, distances(gram), sizes[name], seed + number) for name, gram in grams.items()])
    keys = blocks[0][0]
    return {
        key: [float(np.mean([block[i][key] for block in blocks])) for i in range(len(model.layers))] for key in keys
    }


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    from adabet_onnx import open_model
    from adabet_onnx.data.source import open_data
    from adabet_onnx.scoring.forward import Probed
    from adabet_onnx.study.agreement import overlap, same_order

    print("| task | samples of a half | score | tau between halves | top tenth in common | tau with 1/D |")
    print("|---|--:|---|--:|--:|--:|")
    for task, (name, data) in TASKS.items():
        model = open_model(SHARED / "models" / f"{name}.onnx")
        dataset = open_data(SHARED / "data" / f"{data}.npz", model).train
        half = min(given.samples, len(dataset) // 2) // BLOCK * BLOCK
        probed = Probed(model, Preprocessing().resolve(model, integer_data=dataset.rows.integer), group=BLOCK)
        found: dict[str, list[tuple[float, float, float]]] = {}
        top = max(1, len(model.layers) // 10)
        for repeat in range(given.repeats):
            order = np.random.default_rng(repeat).permutation(len(dataset))
            one, other = (
                of_half(model, probed, dataset, order[start : start + half], 100 * repeat + 10 * start)
                for start in (0, half)
            )
            for key in one:
                found.setdefault(key, []).append(
                    (
                        same_order(one[key], other[key]),
                        overlap(one[key], other[key], top),
                        same_order(one[key], one["1/D"]),
                    )
                )
        for key, values in found.items():
            tau, share, size = np.mean(values, axis=0)
            print(f"| {task} | {half} | {key} | {tau:.2f} | {share:.0%} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
