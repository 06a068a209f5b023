"""The files for onnxruntime-training and their manifest entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..model.prepare import Prepared
from ..trainability.choices import Choices
from . import ort

_FILES = {
    "training_model": "training_model.onnx",
    "eval_model": "eval_model.onnx",
    "optimizer_model": "optimizer_model.onnx",
    "checkpoint": "checkpoint",
}
_BUFFER = "_grad.accumulation.buffer"


def write(prepared: Prepared, choices: Choices, folder: Path) -> dict[str, Any]:
    """Write training_model, eval_model, optimizer_model and checkpoint; return the manifest's entries.

    Raises:
        ModelError: onnxruntime-training cannot build gradients for this graph.
        OSError: a file cannot be written.
    """
    ort.generate(
        prepared.proto(),
        prepared.trainable,
        folder,
        loss=choices.loss,
        optimizer=choices.optimizer,
        weight_decay=choices.weight_decay,
        frozen=_frozen_parameters(prepared) if choices.frozen == "checkpoint" else [],
        ort_format=choices.ort_format,
    )
    training = onnx.load(folder / _FILES["training_model"], load_external_data=False)
    files = dict(_FILES)
    if choices.ort_format:
        for key in ("training_model", "eval_model", "optimizer_model"):
            (folder / files[key]).unlink()
            files[key] = files[key].replace(".onnx", ".ort")
    label_name = "labels" if choices.loss == "cross-entropy" else "target"
    labels = next(value for value in training.graph.input if value.name == label_name)
    specs = {spec.name: spec for spec in prepared.model.inputs}
    order = [value.name for value in training.graph.input]
    inputs = sorted(prepared.inputs, key=lambda item: order.index(item[1]))
    logits = prepared.graph.graph.outputs[0].name
    return {
        "files": files,
        "inputs": [
            {"name": name, "feed": feed, "dtype": specs[name].dtype, "shape": list(specs[name].shape)}
            for name, feed in inputs
        ],
        "labels": {
            "name": labels.name,
            "dtype": "int64" if choices.loss == "cross-entropy" else "float32",
            "rank": len(labels.type.tensor_type.shape.dim),
        },
        "outputs": [training.graph.output[0].name, logits],
        "loss": training.graph.output[0].name,
        "logits": logits,
        "parameters": _parameters(prepared, training),
    }


def _parameters(prepared: Prepared, training: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return parameter entries in the order of the flat parameter buffer, which is that of the gradient buffers."""
    order = [value.name[: -len(_BUFFER)] for value in training.graph.input if value.name.endswith(_BUFFER)]
    if sorted(order) != sorted(prepared.trainable):
        missing = sorted(set(prepared.trainable) - set(order))
        raise ModelError(f"onnxruntime-training computed no gradient for {missing}; select other layers.")
    parameters, offset = [], 0
    for name in order:
        tensor = prepared.graph.graph.initializers[name].const_value
        assert tensor is not None
        shape = [int(extent) for extent in tensor.shape.numpy()]
        parameters.append({"name": name, "shape": shape, "offset": offset})
        offset += int(np.prod(shape, dtype=np.int64))
    return parameters


def _frozen_parameters(prepared: Prepared) -> list[str]:
    """Return the names of all frozen float initializers except single numbers."""
    initializers = prepared.graph.graph.initializers.values()
    trainable = set(prepared.trainable)
    return [
        value.name or ""
        for value in initializers
        if value.const_value is not None
        and value.const_value.dtype == ir.DataType.FLOAT
        and value.const_value.size > 1
        and value.name not in trainable
    ]
