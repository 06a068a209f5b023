"""Bringing opset and IR version into the range that the rest of the package, and its runtimes, read."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from ..errors import ModelError
from ..isolation import during

OPSETS = (12, 21)
IR_VERSIONS = (4, 10)
CONVERTED_OPSET = 17  # what older models are converted to: read by every supported runtime
_OLDEST_RUNTIME = (20, 9)  # the newest opset and IR version that onnxruntime 1.17 reads
_FIRST_RESIZE_WITH_A_MODE, _COORDINATES = 11, "coordinate_transformation_mode"


def into_range(proto: onnx.ModelProto, name: str, notes: list[str]) -> onnx.ModelProto:
    """The model at an opset of 12 to 21.

    Raises:
        ModelError: it names no opset, or onnx cannot convert it.
    """
    _import_once(proto)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise ModelError(f"{name} imports no ai.onnx opset. Export it again.")
    if OPSETS[0] <= opset <= OPSETS[1]:
        return proto
    target = CONVERTED_OPSET if opset < OPSETS[0] else OPSETS[1]
    notes.append(f"opset {opset} was converted to {target}")
    return _convert(proto, name, opset, target)


def _import_once(proto: onnx.ModelProto) -> None:
    """Leave one import of each domain, the newest, in place: skl2onnx may write one twice."""
    versions: dict[str, int] = {}
    for entry in proto.opset_import:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    if len(versions) < len(proto.opset_import):
        del proto.opset_import[:]
        proto.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def lower_ir_version(model: ir.Model, notes: list[str]) -> None:
    """Set an IR version that the runtimes for the model's opset read, in place."""
    low, high = IR_VERSIONS
    if (model.opset_imports.get("") or 0) <= _OLDEST_RUNTIME[0]:
        high = _OLDEST_RUNTIME[1]
    if not low <= model.ir_version <= high:
        wanted = high if model.ir_version > high else 8
        notes.append(f"IR version {model.ir_version} was set to {wanted}")
        model.ir_version = wanted


def _convert(proto: onnx.ModelProto, name: str, opset: int, target: int) -> onnx.ModelProto:
    metadata = list(proto.metadata_props)
    try:
        if proto.functions:  # the converter would leave calls of functions it has dropped
            proto = onnx.inliner.inline_local_functions(proto)
        with during(f"onnx converts it from opset {opset} to {target}"):
            converted = onnx.version_converter.convert_version(proto, target)
    except Exception as error:  # the C++ converter raises its own kinds
        raise ModelError(
            f"{name} has opset {opset}, and onnx could not convert it to {target}: {str(error).strip()[:300]}. "
            f"Export it at an opset from {OPSETS[0]} to {OPSETS[1]}."
        ) from error
    if not converted.metadata_props:
        converted.metadata_props.extend(metadata)
    if opset < _FIRST_RESIZE_WITH_A_MODE:
        for node in converted.graph.node:
            if node.op_type == "Resize" and not any(a.name == _COORDINATES for a in node.attribute):
                # What Upsample and the Resize of opset 10 do; the converter leaves the new default, half_pixel.
                node.attribute.append(onnx.helper.make_attribute(_COORDINATES, "asymmetric"))
    return converted
