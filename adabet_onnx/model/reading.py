"""Read a path or ModelProto: check that its tensors match their declarations, and compute its SHA-256.

Nothing outside the model's folder is read. Weights of up to 2 GB are loaded into memory; larger ones stay in the files
beside the model, and are mapped when needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ModelError, UsageError
from ..files import sha256_of_files
from ..runtime import MOST_BYTES
from ..sizes import size_text
from .error_context import name_of
from .sparse import densify

_FOREIGN_FILES = (
    (0, b"PK\x03\x04", "a zip archive (a PyTorch .pt/.pth, Keras .keras or NumPy .npz file?)"),
    (4, b"ORTM", "an ORT-format model (.ort), which ONNX Runtime converted from an .onnx file: give that file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89HDF", "an HDF5 file (Keras .h5?)"),
    (0, b"\x80", "a Python pickle (a PyTorch file?)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)
# Fields of a TensorProto that hold single elements, and the count of numbers per element.
_FIELDS = {
    "float_data": {ir.DataType.FLOAT: 1, ir.DataType.COMPLEX64: 2},
    "double_data": {ir.DataType.DOUBLE: 1, ir.DataType.COMPLEX128: 2},
    "int64_data": {ir.DataType.INT64: 1},
    "uint64_data": {ir.DataType.UINT64: 1, ir.DataType.UINT32: 1},
    "string_data": {ir.DataType.STRING: 1},
}


@dataclass(frozen=True)
class ReadModel:
    """A model as read from its source.

    Attributes:
        name: its name in messages.
        proto: the model; a copy if the caller gave a ModelProto.
        sha256: hash of the file followed by its external data files in order of name, or of the serialised bytes for a
            ModelProto.
        folder: the folder of external weights that were too large to load; None if all are in the proto.
    """

    name: str
    proto: onnx.ModelProto
    sha256: str
    folder: Path | None = None


def read(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> ReadModel:
    """Read a model.

    Raises:
        UsageError: the source is not of a supported type.
        ModelError: the file is missing, empty, truncated or not ONNX, or its external data is missing, outside its
            folder or cut short; or a tensor does not hold what its shape says.
    """
    name = name_of(source)
    if isinstance(source, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        return _in_memory(copy, name, source.SerializeToString())
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        _check_head(data[:64], name)
        return _in_memory(_parsed(data, name), name, data)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            "expected a model: the path of an .onnx file, its bytes, an onnx.ModelProto, an onnx_ir.Model or what "
            f"open_model returned, not {type(source).__name__}."
        )
    path = Path(source)
    name = str(path)
    proto = _parse(path, name)
    external = [tensor for tensor in tensors(proto) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    files = sorted({_location(tensor, name) for tensor in external})
    for file in files:
        _check_file(path, file)
    paths = [path.parent / file for file in files]
    large = sum(file.stat().st_size for file in paths) + path.stat().st_size >= MOST_BYTES
    for tensor in external:
        _take_in(tensor, path, load=not large)
    _check_tensors(proto, name, external=large)
    densify(proto, name)
    return ReadModel(name, proto, sha256_of_files([path, *paths]), path.parent if large else None)


def _in_memory(proto: onnx.ModelProto, name: str, data: bytes) -> ReadModel:
    _check_tensors(proto, name, external=False)
    densify(proto, name)
    return ReadModel(name, proto, hashlib.sha256(data).hexdigest())


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: weights, sparse ones, attributes, in subgraphs and functions."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)
        yield from _of_nodes(function.node)
    for training in proto.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def without_external(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """Turn external weights into inputs, so that nothing reads or copies them; return the model and these weights.

    A model without external weights is returned unchanged.
    """
    weights = [item for item in proto.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
    if not weights:
        return proto, []
    light = onnx.ModelProto()
    light.CopyFrom(proto)
    internal = [item for item in light.graph.initializer if item.data_location != onnx.TensorProto.EXTERNAL]
    del light.graph.initializer[:]
    light.graph.initializer.extend(internal)
    names = {value.name for value in light.graph.input}
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims)
        for item in weights
        if item.name not in names
    )
    return light, weights


def with_external(proto: onnx.ModelProto, weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    """Put back the weights that `without_external` removed, in place."""
    proto.graph.initializer.extend(weights)
    return proto


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ):
        yield from (sparse.values, sparse.indices)
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        yield from _of_graph(graph)


def _parse(path: Path, name: str) -> onnx.ModelProto:
    if not path.is_file():
        raise ModelError(f"{name} does not exist or is not a file. Give the path of an .onnx file.")
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
            _check_head(head, name)
            size = path.stat().st_size
            if size >= 2**31:
                raise ModelError(
                    f"{name} has {size_text(size)} in one file, which ONNX does not allow (2 GiB at most). Export it "
                    "with its weights in an external data file."
                )
            data = head + stream.read()
    except OSError as error:
        raise ModelError(f"cannot read {name}: {error.strerror}.") from error
    return _parsed(data, name)


def _parsed(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between versions
        raise ModelError(
            f"{name} is not a readable ONNX file ({error}): damaged, cut short, or another format. Copy or export it "
            "again."
        ) from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{name} holds no ONNX graph (no nodes or no opset). Is it an ONNX model file?")
    return proto


def _check_head(head: bytes, name: str) -> None:
    if not head:
        raise ModelError(f"{name} is empty (0 bytes). Export or copy the model again.")
    for offset, magic, kind in _FOREIGN_FILES:
        if head[offset : offset + len(magic)] == magic:
            remedy = "" if ": " in kind else " Export the model to ONNX first."
            raise ModelError(f"{name} is not an ONNX file but {kind}.{remedy}")


def _location(tensor: onnx.TensorProto, name: str) -> str:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if not location or "\0" in location:
        raise ModelError(f"{name}: tensor {tensor.name!r} lies in an external file that is not named. Export it again.")
    return location


def _check_file(path: Path, location: str) -> None:
    folder = path.parent
    file = folder / location
    try:
        outside = Path(location).is_absolute() or not file.resolve().is_relative_to(folder.resolve())
        exists = outside or file.is_file()
    except (OSError, RuntimeError) as error:  # the name is too long, or links form a loop
        reason = getattr(error, "strerror", None) or "a loop of links"
        raise ModelError(f"{path}: its external data file {location[:200]!r} cannot be opened: {reason}.") from error
    if outside:
        raise ModelError(
            f"{path}: external data {location!r} lies (or is a link to) outside the model's folder, which is not read. "
            "Copy it beside the model."
        )
    if not exists:
        raise ModelError(
            f"{path}: its external data file {location!r} is missing. It must lie beside the model: copy it too."
        )


def _take_in(tensor: onnx.TensorProto, path: Path, *, load: bool) -> None:
    """Check the location of a tensor in its external file; with ``load``, read it into memory."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = path.parent / entries["location"]
    try:
        offset = int(entries.get("offset") or 0)
        size = _bytes_of(tensor)
        length = int(entries.get("length") or size)
        if not 0 <= offset <= offset + length <= file.stat().st_size or length != size:
            raise ValueError(
                f"tensor {tensor.name!r} of shape {list(tensor.dims)} is declared as bytes {offset} to "
                f"{offset + length} of {file.stat().st_size}"
            )
        if not load:
            return
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its external data cannot be read: {error}. Copy it again.") from error
    tensor.raw_data = data
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements, from its shape and type.

    Raises:
        ValueError: a negative dimension, or a type that has no size.
    """
    count = 1
    for extent in tensor.dims:
        if extent < 0:
            raise ValueError(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}")
        count *= extent
    try:
        return -(-count * ir.DataType(tensor.data_type).bitwidth // 8)
    except (ValueError, TypeError) as error:
        raise ValueError(f"tensor {tensor.name!r} has a type that cannot be stored in a file") from error


def _check_tensors(proto: onnx.ModelProto, name: str, *, external: bool) -> None:
    """Check that the data of every tensor matches its shape and type."""
    for tensor in tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            if external:
                continue
            raise ModelError(
                f"{name}: tensor {tensor.name!r} lies in an external file, which a ModelProto in memory cannot locate. "
                "Give the path of the .onnx file, or load its external data first."
            )
        mismatch = _mismatch(tensor)
        if mismatch:
            raise ModelError(
                f"{name} is not a valid ONNX model: tensor {tensor.name!r} has the shape {list(tensor.dims)[:9]}, but "
                f"{mismatch}. It is damaged: copy or export it again."
            )


def _mismatch(tensor: onnx.TensorProto) -> str | None:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return f"the unknown type {tensor.data_type}"
    if dtype == ir.DataType.UNDEFINED:
        return "no type" if tensor.dims else None
    if any(extent < 0 for extent in tensor.dims):
        return "no dimension can be negative"
    count = 1
    for extent in tensor.dims:
        count *= extent
    if tensor.HasField("raw_data"):
        expected, actual = (-1 if dtype == ir.DataType.STRING else _bytes_of(tensor)), len(tensor.raw_data)
        return None if expected == actual else f"{actual} bytes of data"
    field, numbers = next(
        ((field, types[dtype]) for field, types in _FIELDS.items() if dtype in types),
        ("int32_data", 1),
    )
    expected = count * numbers
    if field == "int32_data" and dtype.bitwidth < 8:
        expected = -(-count * dtype.bitwidth // 8)
    actual = len(getattr(tensor, field))
    return None if actual == expected else f"{actual} numbers of data"
