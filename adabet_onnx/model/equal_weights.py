"""Matrices that hold the same numbers: most likely one tensor, of which the exporter stored a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

_LEAST_VALUES = 4  # different numbers that a matrix must hold: fewer may agree by chance


def copies(model: ir.Model, parameters: Sequence[str]) -> Iterator[str]:
    """Sentences on weights of two or more axes that another one repeats, or repeats transposed.

    Where a network uses an embedding as its output layer too, or an autoencoder a matrix both ways, torch's exporters
    transpose it once and store the result, so that the file does not tie them. Not accepted: vectors, and matrices of
    fewer than four different numbers, which may agree by chance.

    Args:
        model: the opened graph.
        parameters: names of the weights of its layers.
    """
    kept: dict[tuple[object, ...], list[tuple[str, np.ndarray]]] = {}
    for name in parameters:
        tensor = model.graph.initializers[name].const_value
        if tensor is None or len(tensor.shape) < 2:
            continue
        array = tensor.numpy()
        if array.size < _LEAST_VALUES:
            continue
        flat = array.reshape(-1)
        alike = kept.setdefault((tuple(sorted(array.shape)), flat[0].item(), flat[-1].item()), [])
        for other, stored in alike:
            transposed = array.ndim == 2 and np.array_equal(array.T, stored)
            if (transposed or np.array_equal(array, stored)) and len(np.unique(array)) >= _LEAST_VALUES:
                how = "the numbers" if np.array_equal(array, stored) else "the transposed numbers"
                yield (
                    f"{name!r} holds {how} of {other!r}: if they are tied where the model comes from, the file does "
                    "not say so, and here they are trained apart"
                )
                break
        else:
            alike.append((name, array))
