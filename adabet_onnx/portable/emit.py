"""Writing the files of a training: its graphs, their weights and the initial values, with the manifest's entries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..model.dims import dims
from ..model.prepare import Prepared
from ..model.shapes import BATCH
from ..quantiser import quantised
from ..runtime import in_memory
from . import checkpoint, weights
from .assemble import Graphs, make_graphs
from .frozen_replacement import check_boundary_values, with_frozen_graph
from .memory import step_bytes
from .names import StepTensor, TrainingGraphNames
from .opset import lower_opset, oldest_runtime
from .original_quantised import original_frozen, trial_feeds
from .profiles import fit_profile
from .quantised_cleanup import clean_up, wide_range_nodes
from .recipe import Recipe

FILES = {
    "frozen": "frozen.onnx",
    "step": "step.onnx",
    "gradients": "grads.onnx",
    "update": "update.onnx",
    "evaluation": "eval.onnx",
    "state": "state.bin",
    "weights": weights.FILE,
    "model": "model.onnx",
}
FLOAT = "float.onnx"  # the model with its frozen part in float32, written if the frozen part of model.onnx is int8
_BATCHES = (1, 8, 32)  # batch sizes for which the memory of a step is predicted


@dataclass(frozen=True)
class Calibration:
    """The data that the ranges of activations are measured on.

    Attributes:
        batches: batches of samples, by the names of the model's inputs; they can be iterated several times.
    """

    batches: Iterable[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class _Requirements:
    """What the written graphs need of a runtime: the newest opset and IR version, and their operators."""

    opset: int
    ir_version: int
    operators: frozenset[str]


def write(
    prepared: Prepared,
    recipe: Recipe,
    folder: Path,
    *,
    profile: str | None = None,
    precision: str = "auto",
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Write all files except the manifest, and return the manifest's entries.

    Args:
        prepared: the trainable graph, and the graph that an export puts trained values into.
        recipe: what to compute.
        folder: an existing folder.
        profile: the profile whose operators the graphs may use, or None.
        precision: precision of the frozen part: see `Choices`.
        calibration: data for int8.

    Raises:
        ModelError: a node has no gradient, or the frozen part cannot be quantised.
        UsageError: the profile lacks an operator, or a form of one.
        OSError: a file cannot be written.
    """
    graphs = make_graphs(prepared, recipe)
    step_memory, frozen_memory = (
        {str(batch): step_bytes(model, batch) for batch in _BATCHES} for model in (graphs.step, graphs.frozen)
    )
    frozen, model = _quantised_if_chosen(prepared, graphs, precision, calibration)
    models = {
        "frozen": frozen,
        "step": graphs.step,
        "gradients": graphs.gradients,
        "update": graphs.update,
        "evaluation": graphs.evaluation,
    }
    writer = weights.WeightsWriter(folder)
    required = _write_graphs(models, writer, profile)
    files = dict(FILES)
    writer.write(prepared.original.clone() if model is None else model, FILES["model"])
    if model is not None:
        writer.write(prepared.original.clone(), FLOAT)
        files["float"] = FLOAT
    offsets = _write_initial_values(prepared, graphs.names, folder)
    return {
        "files": files,
        "notes": [] if graphs.note is None else [graphs.note],
        **_data_entries(prepared, graphs, recipe.loss),
        **_tensor_entries(prepared, graphs.names, offsets),
        "opset": required.opset,
        "ir_version": required.ir_version,
        "oldest_onnxruntime": oldest_runtime(required.opset, required.ir_version, required.operators),
        "predicted_step_bytes": step_memory,
        "predicted_frozen_bytes": frozen_memory,
    }


def _write_graphs(models: Mapping[str, ir.Model], writer: weights.WeightsWriter, profile: str | None) -> _Requirements:
    """Lower the opset of each graph, fit it to the profile, and write it."""
    opset = ir_version = 0
    operators: set[str] = set()
    for name, model in models.items():
        lower_opset(model)
        fit_profile(profile, model)
        opset = max(opset, model.opset_imports.get("") or 0)
        model.ir_version = _ir_version(model.opset_imports.get("") or 0)
        ir_version = max(ir_version, model.ir_version)
        operators |= {node.op_type for node in model.graph}
        writer.write(model, FILES[name])
    return _Requirements(opset, ir_version, frozenset(operators))


def _write_initial_values(prepared: Prepared, names: TrainingGraphNames, folder: Path) -> dict[str, int]:
    """Write state.bin, and return the offset of each tensor in it."""
    tensors = (*names.parameters, *names.state)
    initial = {}
    for name in (tensor.name for tensor in tensors):
        value = prepared.graph.graph.initializers.get(name)
        if value is not None and value.const_value is not None:
            initial[name] = value.const_value.numpy()
    checkpoint.write_initial(folder / FILES["state"], tensors, initial)
    return dict(zip((tensor.name for tensor in tensors), checkpoint.offsets(tensors), strict=True))


def _data_entries(prepared: Prepared, graphs: Graphs, loss: str) -> dict[str, Any]:
    """The manifest's entries about inputs, kept values and labels."""
    specs = {spec.name: spec for spec in prepared.model.inputs}
    return {
        "inputs": [feed for _, feed in prepared.inputs],
        "input_details": [
            {"name": name, "feed": feed, "dtype": specs[name].dtype, "shape": list(specs[name].shape)}
            for name, feed in prepared.inputs
        ],
        "boundary": [
            {
                "name": kept.name,
                "shape": list(kept.shape),
                "dtype": kept.dtype,
                "bytes": kept.bytes,
                "input": kept.given,
            }
            for kept in graphs.boundary
        ],
        "labels": graphs.names.labels,
        "label_details": {
            "dtype": "int64" if loss == "cross-entropy" else "float32",
            "shape": [d if isinstance(d, int) else BATCH for d in dims(graphs.labels)],
        },
    }


def _tensor_entries(prepared: Prepared, names: TrainingGraphNames, offsets: Mapping[str, int]) -> dict[str, Any]:
    """The manifest's entries about the other inputs and outputs of a step."""
    return {
        "learning_rate": names.learning_rate,
        "step": names.step,
        "loss": names.loss,
        "logits": names.logits,
        "parameters": [
            _entry(tensor, offsets[tensor.name]) | _channels(tensor, prepared) for tensor in names.parameters
        ],
        "state": [_entry(tensor, offsets[tensor.name]) for tensor in names.state],
    }


def _quantised_if_chosen(
    prepared: Prepared, graphs: Graphs, precision: str, calibration: Calibration | None
) -> tuple[ir.Model, ir.Model | None]:
    """The frozen graph, and the model with this graph in it; None if everything is computed in float32."""
    frozen, boundary = graphs.frozen, graphs.boundary
    if precision == "float32" or all(kept.given is not None for kept in boundary):
        return frozen, None
    lower_opset(frozen)
    if precision == "auto":
        quantised_frozen, feeds = original_frozen(prepared, frozen, boundary), trial_feeds(prepared, frozen)
        if quantised_frozen is None or feeds is None:
            return frozen, None
        try:
            check_boundary_values(prepared, frozen, boundary, feeds)
            return quantised_frozen, with_frozen_graph(prepared, quantised_frozen, boundary)
        except ModelError:  # int8 was not requested
            return frozen, None
    assert calibration is not None
    batches = [{new: batch[old] for old, new in prepared.inputs} for batch in calibration.batches]
    check_boundary_values(prepared, frozen, boundary, batches[0])
    proto = ir.to_proto(in_memory(frozen))
    quantised_frozen = ir.from_proto(
        quantised(proto, batches, f"the frozen part of {prepared.model.name}", wide_range_nodes(frozen))
    )
    clean_up(quantised_frozen)
    return quantised_frozen, with_frozen_graph(prepared, quantised_frozen, boundary)


def _entry(tensor: StepTensor, offset: int) -> dict[str, Any]:
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


def _channels(tensor: StepTensor, prepared: Prepared) -> dict[str, Any]:
    """For a parameter that is a part of a tensor: which part."""
    part = prepared.slices.get(tensor.name)
    return {} if part is None else {"channels": {"axis": part.axis, "indices": list(part.indices)}}


def _ir_version(opset: int) -> int:
    """The oldest IR version for an opset (opset 17 came with 8)."""
    return max(8, int(onnx.helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", opset), 8)))
