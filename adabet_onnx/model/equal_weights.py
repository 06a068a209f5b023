"""Matrices that hold the same numbers: most likely one tensor of which the exporter stored a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

_LEAST_VALUES = 4  # distinct numbers that a matrix must hold: fewer may agree by chance


def equal_weight_notes(model: ir.Model, parameters: Sequence[str]) -> Iterator[str]:
    """Notes on weights of two or more axes that repeat another one, possibly transposed.

    If a network uses an embedding as its output layer too, or an autoencoder a matrix in both directions, torch's
    exporters transpose it once and store the result, so that the file does not tie them. Vectors and matrices with
    fewer than four distinct numbers are skipped, since they may agree by chance.

    Args:
        model: the opened graph.
        parameters: names of the weights of its layers.
    """
    seen: dict[tuple[object, ...], list[tuple[str, np.ndarray]]] = {}
    for name in parameters:
        tensor = model.graph.initializers[name].const_value
        if tensor is None or len(tensor.shape) < 2:
            continue
        array = tensor.numpy()
        if array.size < _LEAST_VALUES:
            continue
        flat = array.reshape(-1)
        same_key = seen.setdefault((tuple(sorted(array.shape)), flat[0].item(), flat[-1].item()), [])
        for other, stored in same_key:
            transposed = array.ndim == 2 and np.array_equal(array.T, stored)
            if (transposed or np.array_equal(array, stored)) and len(np.unique(array)) >= _LEAST_VALUES:
                relation = "the numbers" if np.array_equal(array, stored) else "the transposed numbers"
                yield (
                    f"{name!r} holds {relation} of {other!r}: if they are tied in the source model, the file does not "
                    "show it, and they are trained separately here"
                )
                break
        else:
            same_key.append((name, array))
