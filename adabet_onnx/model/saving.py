"""Writing an opened model to a file."""

from __future__ import annotations

import os

import onnx_ir as ir

from ..files import replacing
from .open import Model


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as it was opened: repaired, in float32, with one output and a dynamic batch, and nothing else open.

    Args:
        model: the opened model.
        path: the ``.onnx`` file.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(ir.to_proto(model.graph).SerializeToString())
