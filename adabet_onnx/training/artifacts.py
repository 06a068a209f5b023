"""Training artifacts: a folder from which the selected layers are retrained and nothing else."""

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
from .checking import check_in_subprocess
from .manifest import FILE, FORMAT, VERSION, Manifest, load_manifest
from .precision import moved, precision_notes

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

    Of the ``portable`` backend: frozen.onnx, step.onnx, grads.onnx, update.onnx, eval.onnx, state.bin and weights.bin,
    for any onnxruntime from 1.17 on. Of the ``ort`` backend: training_model.onnx, eval_model.onnx, optimizer_model.onnx
    and checkpoint, for onnxruntime-training. With the frozen part in int8 also float.onnx, the model in
    float32. Of both: model.onnx (the graph that an export puts the trained values into) and manifest.json.

    Args:
        model: opened, or what `open_model` takes. A file is opened with the values of inputs that the selection notes.
        selection: what to train, or the path of a selection.json made for this model. Where it names channels, they
            alone are trained, which only the portable backend can.
        folder: made or, if it holds earlier artifacts, replaced.
        loss: cross-entropy, mse, bce-with-logits or l1, in place of that of ``choices``.
        choices: everything about loss, optimizer and form; None: the defaults of `Choices`.
        calibrate: training data, in any form that `Data` describes, where ``choices`` have the frozen part in int8: the
            ranges of its activations are those on up to 256 samples of it. It says how far logits move, also where a
            quantised file keeps its numbers. Labels are looked at for ``class_weights='balanced'`` alone, which needs
            them: the numbers are then in the manifest.
        backend: portable, ort, or auto: portable, except where only onnxruntime-training has what is asked for, or a
            gradient for the selection.
        check: verify the artifacts in a process of its own before they are handed out (see `selfcheck`).

    Returns:
        The manifest.

    Raises:
        CheckError: outputs, loss or gradients are not what they should be.
        ModelError: the graph cannot be trained.
        RecordError: the selection was made for another model.
        OutputError: the folder cannot be written.
        RuntimeMissingError: the runtime that the backend needs is not installed.
        UsageError: an unknown choice, or one that the backend does not have.

    Example:
        >>> from adabet_onnx import make_artifacts, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts", loss="mse")
        >>> manifest.backend
        'portable'
    """
    choices = with_given(choices or Choices(), loss=loss)
    choose_backend(backend, choices)  # says what is wrong with them before anything is read
    selection = load_selection(selection)
    model = open_model(model, bind=None if isinstance(model, Model) else selection.inputs)
    given = None if calibrate is None else open_data(calibrate, model)
    calibration = calibration_of(model, selection, given, choices)
    choices = resolved(choices.for_model(model), model, None if given is None else given.train, selection.classes)
    chosen = pick_backend(model, selection, backend, choices)
    if chosen == "ort":
        load()
    prepared = trainable_graph(model, selection, backend=chosen)
    shape = _logits_shape(prepared, choices, chosen)
    stopped = obstacles_to(prepared, "ort") if chosen == "ort" else None
    if stopped is not None:
        raise ModelError(stopped)
    target = Path(folder)
    with replacing_folder(target, FILE) as part:
        if chosen == "ort":
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
        content = _manifest(prepared, selection, choices, chosen, part, shape, entries)
        write_json(part / FILE, content)
        if choices.frozen_precision == "int8" or "float" in content["files"]:
            content["precision"] = moved(Manifest(part, content), None if calibration is None else calibration.batches)
            content["notes"] += precision_notes(content["precision"], choices.frozen_precision)
            write_json(part / FILE, content)
        if check:
            content["checked"] = check_in_subprocess(part)
            content["notes"] += _unmeasured(content["checked"])
            write_json(part / FILE, content)
    return load_manifest(target, verify=False)


def _unmeasured(checked: dict[str, Any]) -> list[str]:
    """What to say of parameters whose gradients the check could not measure."""
    names = (checked["gradient"] or {}).get("unmeasured", [])
    if not names:
        return []
    return [
        f"the check could not measure the gradients of {len(names)} parameters precisely (the first is {names[0]}): "
        "the loss is rough around their values. Compare the loss before and after training."
    ]


def _logits_shape(prepared: Prepared, choices: Choices, backend: str) -> list[str | int]:
    wrong = loss_obstacle(prepared.model, choices.loss, backend, choices.class_axis)
    if wrong is not None:
        raise ModelError(f"{prepared.model.name}: {wrong}")
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
    files = entries.pop("files")
    return {
        "format": FORMAT,
        "version": VERSION,
        "backend": backend,
        "files": files,
        "sha256": {what: sha256_of_files([folder / name]) for what, name in files.items()},
        "model_sha256": prepared.model.sha256,
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
        "notes": list(prepared.notes),
        "checked": None,
        "versions": {
            "adabet-onnx": __version__,
            "onnxruntime-training" if backend == "ort" else "onnxruntime": runtime.onnxruntime().__version__,
            "onnx": onnx.__version__,
        },
    }
