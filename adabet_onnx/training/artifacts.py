"""Training artifacts: a folder from which onnxruntime-training retrains the selected layers and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError, UsageError
from ..files import replacing_folder, sha256_of_files
from ..model.open import Model
from ..model.prepare import Prepared, prepare
from ..model.shapes import infer_shapes
from ..records import write_json
from ..selection.record import Selection, load_selection
from . import ort
from .manifest import BACKEND, FILE, FORMAT, VERSION, Manifest, load_manifest

_FILES = {
    "training_model": "training_model.onnx",
    "eval_model": "eval_model.onnx",
    "optimizer_model": "optimizer_model.onnx",
    "checkpoint": "checkpoint",
    "model": "model.onnx",
}
_BUFFER = "_grad.accumulation.buffer"


def make_artifacts(
    model: Model,
    selection: Selection | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    loss: str = "cross-entropy",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    frozen: str = "embedded",
    ort_format: bool = False,
    check: bool = True,
) -> Manifest:
    """Write the folder from which the selected layers are trained.

    It holds training_model.onnx, eval_model.onnx, optimizer_model.onnx, checkpoint, model.onnx (the graph that an
    export puts the trained values into) and manifest.json.

    Args:
        model: the opened model.
        selection: what to train, or the path of a selection.json made for this model.
        folder: made or, if it holds earlier artifacts, replaced.
        loss: cross-entropy, mse, bce-with-logits or l1.
        optimizer: adamw (onnxruntime-training's: eps 1e-6) or sgd (plain).
        weight_decay: of adamw.
        frozen: where frozen weights live: ``embedded`` in both models as constants (faster), or once in the
            ``checkpoint``.
        ort_format: train from ``.ort`` files.
        check: verify the artifacts in a process of its own before they are handed out (see `selfcheck`).

    Returns:
        The manifest.

    Raises:
        CheckError: outputs, loss or gradients are not what they should be.
        ModelError: the graph cannot be trained.
        RecordError: the selection was made for another model.
        OutputError: the folder cannot be written.
        RuntimeMissingError: onnxruntime-training is not installed.
        UsageError: an unknown loss, optimizer or place for frozen weights.
    """
    ort.load()
    if not isinstance(selection, Selection):
        selection = load_selection(selection)
    if frozen not in ("embedded", "checkpoint"):
        raise UsageError(f"frozen weights can be 'embedded' or in the 'checkpoint', not {frozen!r}.")
    prepared = prepare(model, selection)
    _check_logits(prepared, loss)
    target = Path(folder)
    with replacing_folder(target, FILE) as part:
        kept = _frozen_parameters(prepared) if frozen == "checkpoint" else []
        ort.generate(
            prepared.proto(),
            prepared.trainable,
            part,
            loss=loss,
            optimizer=optimizer,
            weight_decay=weight_decay,
            frozen=kept,
            ort_format=ort_format,
        )
        onnx.save(ir.to_proto(prepared.original), part / _FILES["model"])
        content = _manifest(prepared, selection, part, loss, optimizer, weight_decay, frozen, ort_format)
        write_json(part / FILE, content)
        if check:
            from .selfcheck import check_in_subprocess

            content["checked"] = check_in_subprocess(part)
            write_json(part / FILE, content)
    return load_manifest(target, verify=False)


def _check_logits(prepared: Prepared, loss: str) -> None:
    shape = infer_shapes(prepared.graph).get(prepared.graph.graph.outputs[0].name or "")
    if shape is None:
        raise ModelError(
            f"{prepared.model.name}: the shape of the logits is unknown. Export the model with shape inference."
        )
    if loss == "cross-entropy" and len(shape) != 2:
        raise ModelError(
            f"{prepared.model.name}: cross-entropy needs logits of shape (N, classes), but they have "
            f"{('N', *shape[1:])}. "
            "Use --loss mse, l1 or bce-with-logits, or end the model with a classifier."
        )


def _frozen_parameters(prepared: Prepared) -> list[str]:
    """Every frozen float initializer but single numbers."""
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


def _manifest(
    prepared: Prepared,
    selection: Selection,
    folder: Path,
    loss: str,
    optimizer: str,
    weight_decay: float,
    frozen: str,
    ort_format: bool,
) -> dict[str, Any]:
    from .. import __version__

    training = onnx.load(folder / _FILES["training_model"], load_external_data=False)
    files = dict(_FILES)
    if ort_format:
        for what in ("training_model", "eval_model", "optimizer_model"):
            (folder / files[what]).unlink()
            files[what] = files[what].replace(".onnx", ".ort")
    shapes = {
        name: list(value.const_value.shape.numpy())
        for name, value in prepared.graph.graph.initializers.items()
        if value.const_value is not None
    }
    order = [value.name[: -len(_BUFFER)] for value in training.graph.input if value.name.endswith(_BUFFER)]
    parameters, offset = [], 0
    for name in order:
        shape = [int(extent) for extent in shapes[name]]
        parameters.append({"name": name, "shape": shape, "offset": offset})
        offset += int(np.prod(shape, dtype=np.int64))
    if sorted(order) != sorted(prepared.trainable):
        missing = sorted(set(prepared.trainable) - set(order))
        raise ModelError(f"onnxruntime-training gave no gradient to {missing}; select other layers.")
    feeds = dict(prepared.inputs)
    specs = {spec.name: spec for spec in prepared.model.inputs}
    label_name = "labels" if loss == "cross-entropy" else "target"
    labels = next(value for value in training.graph.input if value.name == label_name)
    training_order = [value.name for value in training.graph.input]
    inputs = sorted(feeds.items(), key=lambda item: training_order.index(item[1]))
    logits_shape = infer_shapes(prepared.graph)[prepared.graph.graph.outputs[0].name or ""]
    return {
        "format": FORMAT,
        "version": VERSION,
        "backend": BACKEND,
        "files": files,
        "sha256": {what: sha256_of_files([folder / name]) for what, name in files.items()},
        "model_sha256": prepared.model.sha256,
        "inputs": [
            {"name": name, "feed": feed, "dtype": specs[name].dtype, "shape": list(specs[name].shape)}
            for name, feed in inputs
        ],
        "labels": {
            "name": labels.name,
            "dtype": "int64" if loss == "cross-entropy" else "float32",
            "rank": len(labels.type.tensor_type.shape.dim),
        },
        "outputs": [training.graph.output[0].name, prepared.graph.graph.outputs[0].name],
        "loss": training.graph.output[0].name,
        "logits": prepared.graph.graph.outputs[0].name,
        "model_logits": prepared.model.logits,
        "loss_function": loss,
        "optimizer": {"name": optimizer, "weight_decay": weight_decay},
        "parameters": parameters,
        "frozen": frozen,
        "num_outputs": int(logits_shape[-1]),
        "logits_shape": ["N", *(int(extent) for extent in logits_shape[1:])],
        "selection": selection.to_json(),
        "preprocessing": selection.preprocessing,
        "classes": selection.classes,
        "notes": list(prepared.notes),
        "checked": None,
        "versions": {
            "adabet-onnx": __version__,
            "onnxruntime-training": runtime.onnxruntime().__version__,
            "onnx": onnx.__version__,
        },
    }
