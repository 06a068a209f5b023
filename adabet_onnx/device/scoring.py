"""Score layers by the rule of device packages: the reference for implementations in other languages.

`adabet_onnx.score` has more estimators and forwards batches; this is the single rule that every device follows, one
sample at a time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from .. import runtime
from ..errors import DataError, UsageError
from ..runtime import Threads
from ..scoring.betti import betti_numbers
from .description import file_path, load_device
from .parts import Device, ScoringPlan
from .random import RandomNumbers

FEWEST = 8  # samples


def score_package(
    folder: str | os.PathLike[str], samples: Mapping[str, np.ndarray], *, threads: Threads = None
) -> dict[str, float]:
    """Score the layers of a package's model with forward passes only.

    Args:
        folder: the device package.
        samples: arrays by input name, preprocessed as they are fed: (n, ...), the same n for all.
        threads: number of threads for ONNX Runtime.

    Returns:
        b1_hat by layer.

    Raises:
        RecordError: the folder is not a device package or is damaged.
        UsageError: the package has no scoring graph, or an input is missing.
        DataError: there are too few samples, or an activation is not finite.
    """
    device = load_device(folder, verify=False)
    plan = device.scoring
    if plan is None:
        raise UsageError(f"{device.folder} has no scoring graph. Make the package with one.")
    count = _count(device, plan, samples)
    path = file_path(device, plan.file)
    if device.weights is not None:
        file_path(device, device.weights)
    session = runtime.inference_session(path, plan.file, threads=threads)
    read = [given.name for given in session.get_inputs()]
    outputs = [layer.output for layer in plan.layers]
    numbers: list[list[np.ndarray]] = [[] for _ in plan.layers]
    for i in range(count):
        feeds = {name: samples[name][i : i + 1] for name in read}
        for place, given in enumerate(runtime.run_session(session, outputs, feeds, plan.file)):
            numbers[place].append(_checked(given, plan, place, i))
    return scores(plan, [np.stack(rows) for rows in numbers])


def scores(plan: ScoringPlan, numbers: Sequence[np.ndarray]) -> dict[str, float]:
    """Compute scores from the outputs of the scoring graph.

    Args:
        plan: how layers are scored.
        numbers: one array per layer, (n, numbers), float.
    """
    n = len(numbers[0])
    subsets = drawn_subsets(plan, n)
    points = len(subsets[0])
    by_layer = {}
    for layer, rows in zip(plan.layers, numbers, strict=True):
        counts = betti_numbers(distances(rows), subsets)
        by_layer[layer.name] = sum(counts) / len(counts) / (points * layer.size)
    return by_layer


def drawn_subsets(plan: ScoringPlan, n: int) -> list[np.ndarray]:
    """The indices of the samples in each subset."""
    points = min(plan.points, n)
    if points == n:
        return [np.arange(n)]
    random = RandomNumbers(plan.seed, 0)
    return [np.array(random.subset(n, points)) for _ in range(plan.subsets)]


def distances(rows: np.ndarray) -> np.ndarray:
    """Euclidean distances between samples (n, numbers), computed in double precision and rounded to float32."""
    exact = rows.astype(np.float64)
    upper = np.zeros((len(exact), len(exact)))
    for i, row in enumerate(exact):
        difference = exact[i + 1 :] - row
        upper[i, i + 1 :] = np.sqrt((difference * difference).sum(axis=1))
    return np.asarray(upper + upper.T, np.float32)


def _count(device: Device, plan: ScoringPlan, samples: Mapping[str, np.ndarray]) -> int:
    """The number of samples that are scored."""
    missing = [given.name for given in device.inputs if given.name not in samples]
    if missing:
        raise UsageError(f"the model's input {missing[0]!r} is not among the samples. Give an array for it.")
    sizes = {name: len(samples[name]) for name in (given.name for given in device.inputs)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"inputs must have the same number of samples, found {sizes}.")
    count = min(plan.samples, *sizes.values())
    if count < FEWEST:
        raise DataError(f"scoring needs at least {FEWEST} samples, found {count}.")
    return count


def _checked(given: np.ndarray, plan: ScoringPlan, place: int, sample: int) -> np.ndarray:
    layer, flat = plan.layers[place], given.reshape(-1)
    if flat.size != layer.numbers:
        raise DataError(
            f"layer {layer.name!r} gave {flat.size} numbers for a sample, expected {layer.numbers}. Make the package "
            "again."
        )
    if not np.isfinite(flat).all():
        raise DataError(
            f"layer {layer.name!r} is NaN or infinite for sample {sample}. Check that sample and its preprocessing."
        )
    return flat
