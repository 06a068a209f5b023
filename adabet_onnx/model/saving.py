"""Writing an opened model to a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..files import check_output, replacing, write_bytes
from ..options import typed
from ..runtime import MOST_BYTES
from .error_context import guarded
from .liveness import weight_bytes
from .open import ModelSource, open_model

_LEAST_OUTSIDE = 1024  # bytes of a weight; smaller ones stay in the model
_ALIGNED = 4096  # page size for memory mapping


@typed
@guarded("saving")
def save_model(model: ModelSource, path: str | os.PathLike[str]) -> None:
    """Write an opened model: normalised, in float32, with outputs computed from its logits and only the batch open.

    Args:
        model: an opened model, or any source that `open_model` accepts.
        path: the ``.onnx`` file; weights of 2 GB or more go to a file beside it, ``PATH.data``.

    Raises:
        OutputError: it cannot be written.

    Example:
        >>> from adabet_onnx import new_head, save_model
        >>> save_model(new_head("model.onnx", 5), "model5.onnx")
    """
    model = open_model(model)
    if weight_bytes(model.graph) < MOST_BYTES:
        write_bytes(path, model.proto().SerializeToString())
        return
    data = f"{Path(path).name}.data"
    check_output(path)
    with replacing(Path(path).with_name(data)) as beside:
        light = model.graph.clone()
        _move_weights(light, beside, data)
    write_bytes(path, ir.to_proto(light).SerializeToString())


def _move_weights(graph: ir.Model, file: Path, location: str) -> None:
    """Write the weights to a file, one by one, and make the graph refer to it by ``location``."""
    with file.open("wb") as stream:
        for name, value in graph.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _LEAST_OUTSIDE:
                continue
            stream.write(bytes(-stream.tell() % _ALIGNED))
            offset = stream.tell()
            np.ascontiguousarray(tensor.numpy()).tofile(stream)
            value.const_value = ir.ExternalTensor(
                location, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
