"""Training artifacts: a folder from which the selected layers, and only those, are retrained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from .. import runtime
from ..data.source import open_data
from ..errors import ModelError
from ..files import replacing_folder, sha256_of_files
from ..model.error_context import guarded
from ..model.logits_axes import axes_of, class_axis
from ..model.open import Model, ModelSource, open_model
from ..model.prepare import Prepared, trainable_graph
from ..options import typed, with_given
from ..portable import emit
from ..records import write_json
from ..selection.record import Selection, load_selection
from ..trainability.choices import Choices, choose_backend
from ..trainability.class_weights import resolved
from ..trainability.preflight import loss_obstacle, obstacles_to, pick_backend
from ..training_runtime import load
from ..version import __version__
from . import ort_artifacts
from .calibration import calibration_of
from .check_process import check_in_subprocess
from .manifest import FILE, FORMAT, VERSION, Manifest, load_manifest
from .precision import precision_notes, quantisation_shift

_MODEL = "model.onnx"


@typed
@guarded("making artifacts of")
def make_artifacts(
    model: ModelSource,
    selection: Selection | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    loss: str | None = None,
    choices: Choices | None = None,
    calibrate: Any = None,
    backend: str = "auto",
    check: bool = True,
) -> Manifest:
    """Make the artifacts for training the selected layers.

    The ``portable`` backend writes frozen.onnx, step.onnx, grads.onnx, update.onnx, eval.onnx, state.bin and
    weights.bin, which any onnxruntime from 1.17 on can run. The ``ort`` backend writes training_model.onnx,
    eval_model.onnx, optimizer_model.onnx and checkpoint, for onnxruntime-training. If the frozen part is in int8, there
    is also float.onnx, the model in float32. Both backends write model.onnx (the graph that an export inserts the
    trained values into) and manifest.json.

    Args:
        model: an opened model, or anything `open_model` accepts. A file is opened with the input values recorded in the
            selection.
        selection: what to train, or the path of a selection.json made for this model. If it names channels, only those
            are trained; only the portable backend supports this.
        folder: created or, if it holds earlier artifacts, replaced.
        loss: cross-entropy, mse, bce-with-logits or l1; overrides the loss in ``choices``.
        choices: loss, optimizer and form of the training; None: the defaults of `Choices`.
        calibrate: training data, in any form that `Data` describes. It is needed if ``choices`` put the frozen part in
            int8: activation ranges are measured on up to 256 of its samples. It is also used to measure how far
            quantisation moves the logits, including for a file that was already quantised. Labels are only read for
            ``class_weights='balanced'``, which needs them; the resulting weights are stored in the manifest.
        backend: portable, ort, or auto: portable, unless only onnxruntime-training supports the requested options or
            has a gradient for the selection.
        check: verify the artifacts in a separate process before they are put in place (see `selfcheck`).

    Returns:
        The manifest.

    Raises:
        CheckError: outputs, loss or gradients are wrong.
        ModelError: the graph cannot be trained.
        RecordError: the selection was made for another model.
        OutputError: the folder cannot be written.
        RuntimeMissingError: the runtime that the backend needs is not installed.
        UsageError: a choice is unknown, or the backend does not support it.

    Example:
        >>> from adabet_onnx import make_artifacts, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts", loss="mse")
        >>> manifest.backend
        'portable'
    """
    choices = with_given(choices or Choices(), loss=loss)
    choose_backend(backend, choices)  # rejects invalid choices before anything is read
    selection = load_selection(selection)
    model = open_model(model, bind=None if isinstance(model, Model) else selection.inputs)
    data = None if calibrate is None else open_data(calibrate, model)
    calibration = calibration_of(model, selection, data, choices)
    choices = resolved(choices.for_model(model), model, None if data is None else data.train, selection.classes)
    chosen_backend = pick_backend(model, selection, backend, choices)
    if chosen_backend == "ort":
        load()
    prepared = trainable_graph(model, selection, backend=chosen_backend)
    shape = _logits_shape(prepared, choices, chosen_backend)
    obstacle = obstacles_to(prepared, "ort") if chosen_backend == "ort" else None
    if obstacle is not None:
        raise ModelError(obstacle)
    target = Path(folder)
    with replacing_folder(target, FILE) as part:
        if chosen_backend == "ort":
            entries = ort_artifacts.write(prepared, choices, part)
            onnx.save(ir.to_proto(prepared.original), part / _MODEL)
            entries["files"]["model"] = _MODEL
        else:
            entries = emit.write(
                prepared,
                choices.recipe,
                part,
                profile=choices.profile,
                precision=choices.frozen_precision,
                calibration=calibration,
            )
        content = _manifest(prepared, selection, choices, chosen_backend, part, shape, entries)
        write_json(part / FILE, content)
        if choices.frozen_precision == "int8" or "float" in content["files"]:
            content["precision"] = quantisation_shift(
                Manifest(part, content), None if calibration is None else calibration.batches
            )
            content["notes"] += precision_notes(content["precision"], choices.frozen_precision)
            write_json(part / FILE, content)
        if check:
            content["checked"] = check_in_subprocess(part)
            content["notes"] += _unmeasured_notes(content["checked"])
            write_json(part / FILE, content)
    return load_manifest(target, verify=False)


def _unmeasured_notes(checked: dict[str, Any]) -> list[str]:
    """Notes about parameters whose gradients the check could not measure."""
    names = (checked["gradient"] or {}).get("unmeasured", [])
    if not names:
        return []
    return [
        f"the check could not measure the gradients of {len(names)} parameters precisely (the first is {names[0]}): "
        "the loss is rough around their values. Compare the loss before and after training."
    ]


def _logits_shape(prepared: Prepared, choices: Choices, backend: str) -> list[str | int]:
    obstacle = loss_obstacle(prepared.model, choices.loss, backend, choices.class_axis)
    if obstacle is not None:
        raise ModelError(f"{prepared.model.name}: {obstacle}")
    model = prepared.model
    shape = axes_of(model.graph, model.logits).batch_first(model.name)
    return ["N", *(int(extent) for extent in shape[1:])]


def _manifest(
    prepared: Prepared,
    selection: Selection,
    choices: Choices,
    backend: str,
    folder: Path,
    logits_shape: list[str | int],
    entries: dict[str, Any],
) -> dict[str, Any]:
    axis = class_axis(tuple(logits_shape), choices.class_axis, choices.loss)
    outputs = logits_shape[-1 if axis is None else axis] if len(logits_shape) > 1 else 1
    files, notes = entries.pop("files"), entries.pop("notes", [])
    return {
        "format": FORMAT,
        "version": VERSION,
        "backend": backend,
        "files": files,
        "sha256": {what: sha256_of_files([folder / name]) for what, name in files.items()},
        "model_sha256": prepared.model.sha256,
        "model_name": None if prepared.model.file is None else Path(prepared.model.file).name,
        **entries,
        "model_logits": prepared.model.logits,
        "bound": prepared.model.bound,
        **choices.to_json(),
        "class_axis": axis,
        "class_axis_given": choices.class_axis is not None,
        "num_outputs": outputs,
        "logits_shape": logits_shape,
        "selection": selection.to_json(),
        "preprocessing": selection.preprocessing,
        "classes": selection.classes,
        "notes": [*prepared.notes, *notes],
        "checked": None,
        "versions": {
            "adabet-onnx": __version__,
            "onnxruntime-training" if backend == "ort" else "onnxruntime": runtime.onnxruntime().__version__,
            "onnx": onnx.__version__,
        },
    }
