"""Export: the original graph with the trained values inserted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .. import runtime
from ..errors import CheckError, RecordError
from ..files import replacing
from ..model.metadata import METADATA, set_metadata
from ..model.open import open_model
from ..model.passes.bind_inputs import restore_bound_inputs
from ..model.unused_inputs import restore_unused_inputs
from ..options import typed
from .history import PROPERTY, keep_own_files, trained_checkpoint, trained_on
from .logits import logits_session
from .manifest import Manifest, load_manifest
from .rounding import logits_rounding
from .samples import sample_feeds, sample_labels

TOLERANCE = 1e-5  # between exported and trained logits, relative to the largest
_ROUNDINGS, _MOST = 4, 1e-3  # if rounding alone causes more: this multiple of it, and never more than this


@typed
def export_model(
    folder: str | os.PathLike[str], path: str | os.PathLike[str], *, full_precision: bool = False, check: bool = True
) -> onnx.ModelProto:
    """Write the adapted model: the graph before preparation, with the trained values.

    Unused inputs are restored. So is an input that was bound to a value, with that value as its default, unless
    something was computed from it on opening or it was trained. Classes and preprocessing are stored in the metadata.
    The file is an ordinary model for any ONNX runtime, and can be adapted again.

    Args:
        folder: the artifact folder; its best checkpoint is used, else the last, else the initial one.
        path: where to write the ``.onnx`` file.
        full_precision: write the frozen part in float32 if it was int8 in training. The model then differs from the
            trained one (measure it with `evaluate`), and only the trained values are checked.
        check: compare the exported model's logits with those of the evaluation graph.

    Returns:
        The exported model.

    Raises:
        CheckError: the logits differ by more than 1e-5 of the largest, and by more than rounding explains.
        RecordError: the folder is not an artifact folder, or is damaged.
        OutputError: the file cannot be written.
        RuntimeMissingError: the runtime that wrote the checkpoint is not installed.
        UsageError: the output would replace one of the folder's files.

    Example:
        >>> from adabet_onnx import Trainer, export_model, make_artifacts, select
        >>> manifest = make_artifacts("model.onnx", select("model.onnx", strategy="head"), "artifacts")
        >>> rows = Trainer("artifacts").fit("new_domain.npz", epochs=1)
        >>> export_model("artifacts", "adapted.onnx").graph.output[0].name
        'logits'
    """
    manifest = load_manifest(Path(folder))
    keep_own_files(manifest, path)
    proto = adapted_proto(manifest, full_precision=full_precision)
    if check and not (full_precision and manifest.float_file is not None):
        _compare(manifest, proto)
    write_adapted(proto, path)
    return proto


def write_adapted(proto: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write an adapted model, with its unused inputs restored.

    Raises:
        OutputError: the file cannot be written.
    """
    restore_unused_inputs(proto)
    with replacing(path) as part:
        part.write_bytes(proto.SerializeToString())


def adapted_proto(manifest: Manifest, *, full_precision: bool = False) -> onnx.ModelProto:
    """The adapted model in memory.

    Args:
        manifest: the manifest of the artifact folder.
        full_precision: whether the frozen part is in float32.
    """
    checkpoint, _ = trained_checkpoint(manifest)
    values, state = manifest.read_checkpoint(checkpoint, PROPERTY)
    return proto_with(manifest, values, str(checkpoint), trained=trained_on(state), full_precision=full_precision)


def proto_with(
    manifest: Manifest,
    values: Mapping[str, np.ndarray],
    where: str,
    *,
    trained: Mapping[str, Any],
    full_precision: bool = False,
) -> onnx.ModelProto:
    """Return the model with trained values.

    Args:
        manifest: the manifest of the artifact folder.
        values: parameters and statistics, by name.
        where: the source of the values, for messages.
        trained: information about the training data; see `trained_on`.
        full_precision: whether the frozen part is in float32.

    Raises:
        RecordError: a value is missing or does not fit.
        CheckError: a value is not finite.
    """
    model = manifest.model(full_precision=full_precision)
    initializers = model.graph.initializers
    for name in (*manifest.parameters, *manifest.statistics):
        value = initializers.get(name)
        if value is None or value.const_value is None or name not in values:
            raise RecordError(
                f"{manifest.folder}: parameter {name!r} is missing from model or checkpoint. Make the artifacts again."
            )
        array = manifest.restored(name, value.const_value.numpy(), values[name])
        if not np.isfinite(values[name]).all():
            raise CheckError(
                f"parameter {name!r} of {where} has NaN or infinite values. Train again with a lower rate."
            )
        value.const_value = ir.tensor(array, name=name)
    fallbacks = {"preprocessing": manifest.preprocessing_entry, "classes": manifest.classes}
    for key, fallback in fallbacks.items():  # the training's own settings take precedence over those of scoring
        metadata_value = trained.get(key) or fallback
        if metadata_value is not None:
            set_metadata(model, key, metadata_value)
    selection = manifest.selection_entry
    set_metadata(
        model,
        "adapted",
        {
            "model_sha256": manifest.model_sha256,
            "strategy": selection["strategy"],
            "layers": selection["layers"],
        },
    )
    opened = open_model(manifest.float_file or manifest.file("model"))
    if opened.new_head and opened.head is not None and opened.head.name in selection["layers"]:
        model.metadata_props.pop(METADATA + "new_head", None)  # it is trained now
    restore_bound_inputs(model, manifest.parameters)
    return ir.to_proto(model)


def _compare(manifest: Manifest, proto: onnx.ModelProto) -> None:
    feeds = sample_feeds(manifest, 4)
    name = manifest.model_logits
    graph = ir.from_proto(proto)
    inference = logits_session(graph, name, "the exported model")
    exported = runtime.run_session(inference, None, feeds, "the exported model")[0]
    session = manifest.session(trained_checkpoint(manifest)[0])
    _, trained = session.evaluate(feeds, sample_labels(manifest, exported))
    scale = max(1.0, float(np.abs(trained).max()))
    difference = float(np.abs(exported - trained).max()) / scale
    if difference <= TOLERANCE:
        return
    rounding = logits_rounding(graph, name, "the exported model", feeds, exported) / scale
    if not difference <= max(TOLERANCE, min(_MOST, _ROUNDINGS * rounding)):
        raise CheckError(
            f"the exported model's logits differ from the trained ones by {difference:.2e} of the largest, more than "
            f"{TOLERANCE:.0e} and more than rounding explains ({rounding:.0e}). Nothing was written; please report "
            "this with the model."
        )
