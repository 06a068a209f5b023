"""Training artifacts: a folder from which the selected layers are retrained and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import ModelError
from ..files import replacing_folder, sha256_of_files
from ..model.door import guarded
from ..model.logits_axes import axes_of, class_axis
from ..model.open import Model
from ..model.prepare import Prepared, prepare
from ..portable import emit
from ..records import write_json
from ..selection.record import Selection, load_selection
from ..trainability.choices import Choices, choose_backend
from ..trainability.preflight import loss_obstacle, obstacles_to, pick_backend
from ..training_runtime import load
from ..version import __version__
from . import ort_artifacts
from .manifest import FILE, FORMAT, VERSION, Manifest, load_manifest

_MODEL = "model.onnx"


@guarded("making artifacts of")
def make_artifacts(
    model: Model,
    selection: Selection | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    backend: str = "auto",
    loss: str = "cross-entropy",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip_norm: float | None = None,
    label_smoothing: float = 0.0,
    class_axis: int | None = None,
    ignore_label: int | None = None,
    batch_norm: str = "frozen",
    recompute: bool = False,
    frozen: str = "embedded",
    ort_format: bool = False,
    profile: str | None = None,
    check: bool = True,
) -> Manifest:
    """Make the artifacts for training the selected layers.

    Of the ``portable`` backend: step.onnx, grads.onnx, update.onnx, eval.onnx and state.bin, for any onnxruntime from
    1.17 on. Of the ``ort`` backend: training_model.onnx, eval_model.onnx, optimizer_model.onnx and checkpoint, for
    onnxruntime-training. Of both: model.onnx (the graph that an export puts the trained values into) and manifest.json.

    Args:
        model: the opened model.
        selection: what to train, or the path of a selection.json made for this model. Where it names channels, they
            alone are trained, which only the portable backend can.
        folder: made or, if it holds earlier artifacts, replaced.
        backend: portable, ort, or auto: portable, except where only onnxruntime-training has what is asked for, or a
            gradient for the selection.
        loss: cross-entropy, mse, bce-with-logits or l1.
        optimizer: adamw (onnxruntime-training's: eps 1e-6), adamw-torch (torch's: eps 1e-8) or sgd.
        weight_decay: of the optimizer.
        momentum: of sgd.
        clip_norm: scale gradients down to this global norm.
        label_smoothing: of cross-entropy, 0 to below 1.
        class_axis: of the logits, for cross-entropy per pixel or token; None: that of the model's Softmax or head,
            else 1, or the last of three axes.
        ignore_label: a label per pixel or token that does not count, beside -100 (255 in masks).
        batch_norm: ``frozen``, or ``batch`` (the selected ones normalise by the batch and update their statistics).
        recompute: spend time to save memory, by computing activations again in the backward pass.
        frozen: where frozen weights live: ``embedded`` in the graphs as constants (faster), or once in the
            ``checkpoint``.
        ort_format: train from ``.ort`` files.
        profile: allow only operators that a target has (``webgpu``).
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
    """
    choices = Choices(
        loss=loss,
        optimizer=optimizer,
        weight_decay=weight_decay,
        momentum=momentum,
        clip_norm=clip_norm,
        label_smoothing=label_smoothing,
        class_axis=class_axis,
        ignore_label=ignore_label,
        batch_norm=batch_norm,
        recompute=recompute,
        frozen=frozen,
        ort_format=ort_format,
        profile=profile,
    )
    choose_backend(backend, choices)  # says what is wrong with them before anything is read
    if not isinstance(selection, Selection):
        selection = load_selection(selection)
    choices = choices.for_model(model)
    chosen = pick_backend(model, selection, backend, choices)
    if chosen == "ort":
        load()
    prepared = prepare(model, selection, backend=chosen)
    shape = _logits_shape(prepared, choices, chosen)
    stopped = obstacles_to(prepared, "ort") if chosen == "ort" else None
    if stopped is not None:
        raise ModelError(stopped)
    target = Path(folder)
    with replacing_folder(target, FILE) as part:
        if chosen == "ort":
            entries = ort_artifacts.write(prepared, choices, part)
        else:
            entries = _write_portable(prepared, choices, part)
        onnx.save(ir.to_proto(prepared.original), part / _MODEL)
        entries["files"]["model"] = _MODEL
        content = _manifest(prepared, selection, choices, chosen, part, shape, entries)
        write_json(part / FILE, content)
        if check:
            from .selfcheck import check_in_subprocess

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


def _write_portable(prepared: Prepared, choices: Choices, folder: Path) -> dict[str, Any]:
    return emit.write(prepared, choices.recipe, folder, profile=choices.profile)


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
