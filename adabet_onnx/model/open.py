"""Opening a model: from a file or ModelProto to a graph the rest of the package can rely on.

An opened model has: IR version 4 to 10 and opset 12 to 21 (what onnxruntime-training 1.19.2 reads), float32
weights in memory, initializers that are not graph inputs, no local functions, unique node names, weights that
came as Constant nodes as initializers, a dynamic batch dimension ``N``, one output, known activation shapes.
Nodes and initializers keep their names; nothing is rewritten for training yet (that is `prepare`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common as passes

from ..errors import ModelError, UsageError
from ..files import sha256_of_files
from .batch import make_batch_dynamic
from .layers import Layer, find_layers, head_of
from .logits import find_logits
from .shapes import Shapes, infer_shapes, measured_shapes

OPSETS = (12, 21)
IR_VERSIONS = (4, 10)
_OLDEST_RUNTIME = (20, 9)  # the newest opset and IR version that onnxruntime 1.17 reads
_FIRST_RESIZE_WITH_A_MODE, _COORDINATES = 11, "coordinate_transformation_mode"
CONVERTED_OPSET = 17  # what older models are converted to: read by every supported runtime
_PROBE_BATCH = 7919
METADATA = "adabet_onnx."  # prefix of our keys in a model's metadata_props

_MOST_BYTES = 2_000_000_000  # protobuf and onnx's checker end at 2 GiB
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger", "QGemm", "DynamicQuant")
_FOREIGN_FILES = (
    (0, b"PK\x03\x04", "a zip archive (a PyTorch .pt/.pth, Keras .keras or NumPy .npz file?)"),
    (4, b"ORTM", "an ORT-format model (.ort)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89HDF", "an HDF5 file (Keras .h5?)"),
    (0, b"\x80", "a Python pickle (a PyTorch file?)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)


@dataclass(frozen=True)
class Tensor:
    """A graph input: its name, NumPy dtype name and shape (the batch dimension is the string ``N``)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Model:
    """An opened model.

    Attributes:
        name: what messages call it (the path, or ``<ModelProto>``).
        sha256: of the file followed by its external data files in order of name; of the serialised bytes for a
            ModelProto.
        graph: the graph (treat it as read-only; ``clone`` it to change it).
        layers: the layers in topological order.
        logits: name of the value a loss is computed from (before a final Softmax).
        inputs: the graph's inputs.
        notes: what was changed on opening, a sentence each.
    """

    name: str
    sha256: str
    graph: ir.Model = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    logits: str
    inputs: tuple[Tensor, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def head(self) -> Layer | None:
        """The last parameterised Gemm, MatMul or Conv."""
        return head_of(self.layers)

    @property
    def new_head(self) -> bool:
        """Whether the head is marked as new (untrained) in the file's metadata."""
        head = self.head
        return head is not None and self.metadata("new_head") == head.name

    @property
    def parameter_count(self) -> int:
        """Number of trainable elements; a tensor shared by layers counts once."""
        sizes = {parameter.name: parameter.size for layer in self.layers for parameter in layer.parameters}
        return sum(sizes.values())

    def metadata(self, key: str) -> Any:
        """The value of one of our metadata entries (JSON), or None if absent or unreadable."""
        text = self.graph.metadata_props.get(METADATA + key)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError:
            return None

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            UsageError: there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UsageError(f"{self.name} has no layer {name!r}; adabet-onnx inspect lists its layers.")

    def proto(self) -> onnx.ModelProto:
        """The graph as a ModelProto of its own."""
        return ir.to_proto(self.graph)


def open_model(source: str | os.PathLike[str] | onnx.ModelProto | Model) -> Model:
    """Open a trained ONNX model.

    Args:
        source: path of an ``.onnx`` file (external data beside it is read), or a ModelProto. An opened model is
            returned as it is.

    Returns:
        The model with its layers.

    Raises:
        ModelError: the file is missing, empty, truncated, not ONNX, invalid, quantised, half precision, already
            optimised by ONNX Runtime, or its graph cannot be handled; the message says what to do.
    """
    if isinstance(source, Model):
        return source
    name, proto, sha256 = _read(source)
    _refuse(proto, name)
    notes: list[str] = []
    model = _normalise(proto, name, notes)
    logits = find_logits(model, name)
    layers = _with_shapes(model, find_layers(model), name)
    if not layers:
        raise ModelError(f"{name} has no layer with float32 parameters, so there is nothing to select or train.")
    inputs = tuple(_tensor(value) for value in model.graph.inputs)
    return Model(name, sha256, model, layers, logits.name or "", inputs, tuple(notes))


def set_metadata(model: ir.Model, key: str, value: Any) -> None:
    """Write one of our metadata entries (JSON) into a graph, in place."""
    model.metadata_props[METADATA + key] = json.dumps(value, ensure_ascii=False)


def _read(source: str | os.PathLike[str] | onnx.ModelProto) -> tuple[str, onnx.ModelProto, str]:
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return "<ModelProto>", copy, hashlib.sha256(source.SerializeToString()).hexdigest()
    path = Path(source)
    name = str(path)
    if not path.is_file():
        raise ModelError(f"{name} does not exist or is not a file. Give the path of an .onnx file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {name}: {error.strerror}.") from error
    if not data:
        raise ModelError(f"{name} is empty (0 bytes). Export or copy the model again.")
    for offset, magic, what in _FOREIGN_FILES:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"{name} is not an ONNX file but {what}. Export the model to ONNX first.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between versions
        raise ModelError(
            f"{name} is not a readable ONNX file ({error}): damaged, cut short, or another format. "
            "Copy or export it again."
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{name} holds no ONNX graph (no nodes or no opset). Is it an ONNX model file?")
    externals = _load_external_data(proto, path)
    return name, proto, sha256_of_files([path, *externals])


def _load_external_data(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Bring external tensors into memory; return their files in order of name."""
    locations = sorted(
        {
            entry.value
            for tensor in onnx.external_data_helper._get_all_tensors(proto)
            if tensor.data_location == onnx.TensorProto.EXTERNAL
            for entry in tensor.external_data
            if entry.key == "location"
        }
    )
    folder = path.parent
    files = []
    for location in locations:
        file = folder / location
        if Path(location).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(
                f"{path}: external data {location!r} lies (or is a link to) outside the model's folder, which is not "
                f"read. "
                "Copy it beside the model."
            )
        if not file.is_file():
            raise ModelError(
                f"{path}: its external data file {location!r} is missing. It must lie beside the model: copy it too."
            )
        files.append(file)
    if files:
        try:
            onnx.load_external_data_for_model(proto, str(folder))
        except Exception as error:  # onnx raises several kinds for damaged external data
            raise ModelError(f"{path}: its external data cannot be read: {error}. Copy it again.") from error
    return files


def _refuse(proto: onnx.ModelProto, name: str) -> None:
    """Turn away, by name, the kinds of file that cannot be scored or trained."""
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size >= _MOST_BYTES:
        raise ModelError(
            f"{name} has {size / 1e9:.1f} GB of weights; models of 2 GB and more are not supported yet. Give a "
            f"smaller one."
        )
    operators = Counter(node.op_type for node in proto.graph.node)
    functions = {(function.domain, function.name) for function in proto.functions}
    quantised = sorted(operator for operator in operators if operator.startswith(_QUANTISED))
    if quantised:
        raise ModelError(
            f"{name} is quantised (it has {quantised[0]} nodes). Quantised weights cannot be trained: "
            "give the float32 model it was made from."
        )
    for node in proto.graph.node:
        if node.domain in ("", "ai.onnx") or (node.domain, node.op_type) in functions:
            continue
        what = f"{name}: node {node.name or node.output[0]!r} is {node.domain}.{node.op_type}"
        if node.domain.startswith("com.microsoft"):
            raise ModelError(
                f"{what}, so the file was optimised (fused) by ONNX Runtime. Give the model as it was exported, "
                "before optimisation."
            )
        raise ModelError(f"{what}, not a standard ONNX operator. Export the model with standard operators only.")
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    for tensor in proto.graph.initializer:
        if tensor.data_type in half and len(tensor.dims) > 0:
            kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            raise ModelError(f"{name}: weights are {kind} (initializer {tensor.name!r}). Export the model in float32.")
    try:
        onnx.checker.check_model(proto)
    except Exception as error:  # onnx.checker.ValidationError, or a C++ type error
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[0] if lines else str(error)).strip().rstrip(".")
        raise ModelError(f"{name} is not a valid ONNX model: {reason}. Export it again.") from error


def _normalise(proto: onnx.ModelProto, name: str, notes: list[str]) -> ir.Model:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise ModelError(f"{name} imports no ai.onnx opset. Export it again.")
    if not OPSETS[0] <= opset <= OPSETS[1]:
        target = CONVERTED_OPSET if opset < OPSETS[0] else OPSETS[1]
        proto = _convert(proto, name, opset, target)
        notes.append(f"opset {opset} was converted to {target}")
    model = ir.from_proto(proto)
    lifting = passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=1)
    for step in (passes.InlinePass(), passes.RemoveInitializersFromInputsPass(), lifting):
        step(model)
    _fill_constants(model)
    _name_nodes(model)
    passes.NameFixPass()(model)
    low, high = IR_VERSIONS
    if (model.opset_imports.get("") or 0) <= _OLDEST_RUNTIME[0]:
        high = _OLDEST_RUNTIME[1]
    if not low <= model.ir_version <= high:
        wanted = high if model.ir_version > high else 8
        notes.append(f"IR version {model.ir_version} was set to {wanted}")
        model.ir_version = wanted
    if make_batch_dynamic(model, name):
        notes.append("the fixed batch dimension was made dynamic")
    return model


def _convert(proto: onnx.ModelProto, name: str, opset: int, target: int) -> onnx.ModelProto:
    metadata = list(proto.metadata_props)
    try:
        if proto.functions:  # the converter would leave calls of functions it has dropped
            proto = onnx.inliner.inline_local_functions(proto)
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


def _fill_constants(model: ir.Model) -> None:
    """ConstantOfShape of a constant shape becomes an initializer: it may be a weight."""
    for node in list(model.graph):
        shape = node.inputs[0] if node.op_type == "ConstantOfShape" else None
        extents = ir.convenience.get_const_tensor(shape) if shape is not None else None
        output = node.outputs[0]
        if extents is None or output.is_graph_output():
            continue
        fill = node.attributes["value"].as_tensor().numpy() if "value" in node.attributes else np.zeros(1, np.float32)
        name = output.name
        output.name = None
        array = np.full(extents.numpy(), fill.reshape(-1)[0], fill.dtype)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        model.graph.register_initializer(value)
        output.replace_all_uses_with(value)
        model.graph.remove(node, safe=True)


def _name_nodes(model: ir.Model) -> None:
    """Give nodes without a name one made of operator and position; make doubled names unique."""
    used: set[str] = set()
    for index, node in enumerate(model.graph):
        base = node.name or f"{node.op_type}_{index}"
        name, number = base, 1
        while name in used:
            name, number = f"{base}_{number}", number + 1
        node.name = name
        used.add(name)


def _with_shapes(model: ir.Model, layers: tuple[Layer, ...], name: str) -> tuple[Layer, ...]:
    """Fill in activation shapes: by inference, and by a run on zeros where inference cannot tell.

    The batch, a large prime, shows in which axis it is (an LSTM's is the third) and what is merged with it.
    """
    shapes = infer_shapes(model, _PROBE_BATCH)
    missing = [layer.activation for layer in layers if layer.activation not in shapes]
    measured: Shapes = {}
    if missing:
        try:
            measured = measured_shapes(model, missing, batch=3)
        except ModelError as error:
            raise ModelError(
                f"{name}: the shape of {missing[0]!r} is unknown: {error}. Export it again, with shapes that fit."
            ) from error
    filled = []
    for layer in layers:
        inferred = layer.activation in shapes
        shape, batch = (shapes if inferred else measured)[layer.activation], _PROBE_BATCH if inferred else 3
        axis = next((index for index, extent in enumerate(shape) if extent and extent % batch == 0), None)
        if axis is None:
            raise ModelError(
                f"{name}: the activation {layer.activation!r} of layer {layer.name!r} has shape {shape} for a batch of "
                f"{batch}, so it has no batch dimension. Export the model with a dynamic batch dimension."
            )
        merged = shape[axis] // batch
        rest = (*shape[:axis], *((merged,) if merged > 1 else ()), *shape[axis + 1 :])
        filled.append(dataclasses.replace(layer, activation_shape=rest, batch_axis=axis, batch_merged=merged > 1))
    return tuple(filled)


def _tensor(value: ir.Value) -> Tensor:
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(extent if isinstance(extent, int) else str(extent) for extent in value.shape)
    return Tensor(value.name or "", str(value.dtype.numpy()), shape)
