"""Writing the files of a training: four graphs and the initial values, and what the manifest says of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..model.dims import dims
from ..model.prepare import Prepared
from ..model.shapes import BATCH
from . import checkpoint
from .assemble import make_graphs
from .memory import step_bytes
from .names import Tensor
from .opset import lower_opset, oldest_runtime
from .profiles import check_profile
from .recipe import Recipe

FILES = {
    "step": "step.onnx",
    "gradients": "grads.onnx",
    "update": "update.onnx",
    "evaluation": "eval.onnx",
    "state": "state.bin",
}
_BATCHES = (1, 8, 32)  # for which the step's memory is predicted


def write(prepared: Prepared, recipe: Recipe, folder: Path, *, profile: str | None = None) -> dict[str, Any]:
    """Write step.onnx, grads.onnx, update.onnx, eval.onnx and state.bin; give the manifest's entries.

    Args:
        prepared: the trainable graph.
        recipe: what to compute.
        folder: an existing folder.
        profile: what the graphs may use.

    Raises:
        ModelError: a node has no gradient.
        UsageError: the profile lacks an operator.
        OSError: a file cannot be written.
    """
    graphs = make_graphs(prepared, recipe)
    models = {
        "step": graphs.step,
        "gradients": graphs.gradients,
        "update": graphs.update,
        "evaluation": graphs.evaluation,
    }
    memory = {str(batch): step_bytes(graphs.step, batch) for batch in _BATCHES}
    opset = ir_version = 0
    operators: set[str] = set()
    for what, model in models.items():
        lower_opset(model)
        check_profile(profile, ((node.op_type, node.name or "") for node in model.graph))
        opset = max(opset, model.opset_imports.get("") or 0)
        model.ir_version = _ir_version(model.opset_imports.get("") or 0)
        ir_version = max(ir_version, model.ir_version)
        operators |= {node.op_type for node in model.graph}
        proto = ir.to_proto(model)
        try:
            onnx.checker.check_model(proto)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"the {what} graph is not valid ONNX: {str(error).strip()[:300]}") from error
        (folder / FILES[what]).write_bytes(proto.SerializeToString(deterministic=True))
    names = graphs.names
    tensors = (*names.parameters, *names.state)
    initial = {}
    for name in (tensor.name for tensor in tensors):
        value = prepared.graph.graph.initializers.get(name)
        if value is not None and value.const_value is not None:
            initial[name] = value.const_value.numpy()
    checkpoint.write_initial(folder / FILES["state"], tensors, initial)
    offsets = dict(zip((tensor.name for tensor in tensors), checkpoint.offsets(tensors), strict=True))
    specs = {spec.name: spec for spec in prepared.model.inputs}
    return {
        "files": dict(FILES),
        "inputs": [feed for _, feed in prepared.inputs],
        "input_details": [
            {"name": name, "feed": feed, "dtype": specs[name].dtype, "shape": list(specs[name].shape)}
            for name, feed in prepared.inputs
        ],
        "labels": names.labels,
        "label_details": {
            "dtype": "int64" if recipe.loss == "cross-entropy" else "float32",
            "shape": [d if isinstance(d, int) else BATCH for d in dims(graphs.labels)],
        },
        "learning_rate": names.learning_rate,
        "step": names.step,
        "loss": names.loss,
        "logits": names.logits,
        "parameters": [
            _entry(tensor, offsets[tensor.name]) | _channels(tensor, prepared) for tensor in names.parameters
        ],
        "state": [_entry(tensor, offsets[tensor.name]) for tensor in names.state],
        "opset": opset,
        "ir_version": ir_version,
        "oldest_onnxruntime": oldest_runtime(opset, ir_version, operators),
        "predicted_step_bytes": memory,
    }


def _entry(tensor: Tensor, offset: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": tensor.name,
        "input": tensor.input,
        "output": tensor.output,
        "shape": list(tensor.shape),
        "offset": offset,
        "bytes": 4 * math.prod(tensor.shape),
    }
    if tensor.gradient:
        entry["gradient"] = tensor.gradient
    else:
        entry["parameter"] = tensor.parameter
        entry["moves"] = tensor.moves
    return entry


def _channels(tensor: Tensor, prepared: Prepared) -> dict[str, Any]:
    """Of a parameter that is part of a tensor, which part."""
    part = prepared.slices.get(tensor.name)
    return {} if part is None else {"channels": {"axis": part.axis, "indices": list(part.indices)}}


def _ir_version(opset: int) -> int:
    """The oldest IR version for an opset (8 is what opset 17 came with)."""
    return max(8, int(onnx.helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", opset), 8)))
