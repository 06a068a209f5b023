"""Convert opset and IR version to the range that the rest of the package, and its runtimes, support."""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from ..errors import ModelError
from ..isolation import during
from .error_context import error_context
from .limits import all_nodes
from .passes.newer_operators import LowerNewerOperators, is_newer
from .trial_runs import compare

OPSETS = (12, 21)
IR_VERSIONS = (4, 10)
CONVERTED_OPSET = 17  # target for older models, supported by every runtime
_OLDEST_RUNTIME = (20, 9)  # the newest opset and IR version that onnxruntime 1.17 reads
_OWN = ("", "ai.onnx")  # the two names of the domain of ONNX's operators
_MOST = 1e-3  # largest relative difference between outputs with equivalent operators
_FIRST_RESIZE_WITH_A_MODE, _COORDINATES = 11, "coordinate_transformation_mode"


def convert_opset(proto: onnx.ModelProto, name: str, notes: list[str]) -> onnx.ModelProto:
    """Convert a model to an opset from 12 to 21.

    Raises:
        ModelError: the model states no opset, or onnx cannot convert it.
    """
    opset = next((entry.version for entry in proto.opset_import if entry.domain in _OWN), None)
    if opset is None:
        raise ModelError(f"{name} imports no ai.onnx opset. Export it again.")
    if OPSETS[0] <= opset <= OPSETS[1]:
        return proto
    target = CONVERTED_OPSET if opset < OPSETS[0] else OPSETS[1]
    if opset > OPSETS[1]:
        proto = _without_newer(proto, name, notes)
    notes.append(f"opset {opset} was converted to {target}")
    return _convert(proto, name, opset, target)


def normalise_domains(proto: onnx.ModelProto, name: str) -> None:
    """Write the domain of ONNX's own operators as the empty string instead of ``ai.onnx``, in place.

    Raises:
        ModelError: both names are imported, at different versions.
    """
    for holder, nodes in ((proto, proto.graph.node), *((function, function.node) for function in proto.functions)):
        _deduplicate_imports(holder)
        versions = sorted({entry.version for entry in holder.opset_import if entry.domain in _OWN})
        if len(versions) > 1:
            raise ModelError(
                f"{name} imports ONNX's operators at opsets {' and '.join(map(str, versions))}, as '' and as "
                "'ai.onnx', which are one domain; expected is one opset. Export it again."
            )
        others = [entry for entry in holder.opset_import if entry.domain not in _OWN]
        del holder.opset_import[:]
        holder.opset_import.extend([onnx.helper.make_opsetid("", version) for version in versions] + others)
        for node, _ in all_nodes(nodes):
            if node.domain in _OWN:
                node.domain = ""


def opset_of(proto: onnx.ModelProto) -> int:
    """The opset of ONNX's operators; 0 if it is not stated."""
    return max((entry.version for entry in proto.opset_import if entry.domain in _OWN), default=0)


def check_versions(proto: onnx.ModelProto, name: str) -> None:
    """Check that the installed onnx supports the model's opset and IR version.

    Raises:
        ModelError: it is too old.
    """
    opset = opset_of(proto)
    newest, newest_ir = onnx.defs.onnx_opset_version(), int(onnx.IR_VERSION)
    if opset > newest or proto.ir_version > newest_ir:
        raise ModelError(
            f"{name} has opset {opset} and IR version {proto.ir_version}; the installed onnx {onnx.__version__} "
            f"supports up to opset {newest} and IR version {newest_ir}. Update it (pip install --upgrade onnx), or "
            f"export the model at opset {OPSETS[1]}."
        )


def _without_newer(proto: onnx.ModelProto, name: str, notes: list[str]) -> onnx.ModelProto:
    """Rewrite operators that are newer than `OPSETS` with older ones."""
    with error_context(name, "replacing operators of newer opsets in"):
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        if not any(is_newer(node.op_type, node.domain, OPSETS[1]) for node, _ in all_nodes(proto.graph.node)):
            return proto
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        lowering = LowerNewerOperators(OPSETS[1])
        try:
            lowering(model)
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        difference = compare(ir.from_proto(proto), model)
    if lowering.capped:
        notes.append(
            "Attention caps its scores before masking, as ONNX defines it; onnxruntime 1.23 masks first and computes "
            "different outputs from the file"
        )
    elif difference is not None and difference > _MOST:
        raise ModelError(
            f"{name}: with {', '.join(lowering.lowered)} replaced by older operators, the outputs change (by "
            f"{difference:.0%}): a rewrite is wrong. Please report this with the model."
        )
    checked = "" if difference is None else f" (on random inputs, outputs differ by {difference:.2g} of their size)"
    notes.append(f"{', '.join(lowering.lowered)} of newer opsets: replaced by older operators{checked}")
    return ir.to_proto(model)


def _deduplicate_imports(holder: onnx.ModelProto | onnx.FunctionProto) -> None:
    """Keep only the newest import of each domain, in place: skl2onnx may write one twice."""
    versions: dict[str, int] = {}
    for entry in holder.opset_import:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    if len(versions) < len(holder.opset_import):
        del holder.opset_import[:]
        holder.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def lower_ir_version(model: ir.Model, notes: list[str]) -> None:
    """Set an IR version that the runtimes for the model's opset support, in place."""
    low, high = IR_VERSIONS
    if (model.opset_imports.get("") or 0) <= _OLDEST_RUNTIME[0]:
        high = _OLDEST_RUNTIME[1]
    if not low <= model.ir_version <= high:
        new_version = high if model.ir_version > high else 8
        notes.append(f"IR version {model.ir_version} was set to {new_version}")
        model.ir_version = new_version


def _convert(proto: onnx.ModelProto, name: str, opset: int, target: int) -> onnx.ModelProto:
    metadata = list(proto.metadata_props)
    try:
        if proto.functions:  # the converter drops functions but keeps their calls
            proto = onnx.inliner.inline_local_functions(proto)
        with during(f"onnx converts it from opset {opset} to {target}"):
            converted = onnx.version_converter.convert_version(proto, target)
    except Exception as error:  # the C++ converter raises its own types
        raise ModelError(
            f"{name} has opset {opset}, and onnx could not convert it to {target}: {str(error).strip()[:300]}. Export "
            f"it at an opset from {OPSETS[0]} to {OPSETS[1]}."
        ) from error
    if not converted.metadata_props:
        converted.metadata_props.extend(metadata)
    if opset < _FIRST_RESIZE_WITH_A_MODE:
        for node in converted.graph.node:
            if node.op_type == "Resize" and not any(a.name == _COORDINATES for a in node.attribute):
                # The mode of Upsample and of opset 10's Resize; the converter leaves the new default, half_pixel.
                node.attribute.append(onnx.helper.make_attribute(_COORDINATES, "asymmetric"))
    return converted
