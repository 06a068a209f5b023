"""One file for the weights of several graphs, in which each weight is stored once.

The graphs refer to it as ONNX external data, with offset and length. A weight that is another one times a factor, such
as that of a convolution merged with the normalisation after it, is not written: the graph computes it. Small tensors
stay in the graphs. A tensor starts at a multiple of 64 bytes, a large one at a multiple of 4096, so that it can be
mapped into memory.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ModelError, RecordError
from ..model.reading import tensors
from ..model.scaled import Scaled

FILE = "weights.bin"
INSIDE = 1024  # bytes; smaller tensors stay in the graph
_ALIGNED, _MAPPED, _PAGE = 64, 1 << 16, 4096


class WeightsWriter:
    """Writes the graphs of a folder, with their weights in one file.

    Args:
        folder: an existing folder.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        (folder / FILE).write_bytes(b"")

    def write(self, model: ir.Model, name: str, *, elsewhere: str | None = None) -> Path:
        """Write a graph to a file; its weights are read from the folder from then on.

        Args:
            model: the graph.
            name: name of its file.
            elsewhere: another file of the folder, from which some of the weights are already read.

        Raises:
            ModelError: the graph is not valid ONNX.
            OSError: a file cannot be written.
        """
        _compute_scaled(model.graph)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.location == elsewhere:
                continue
            if tensor is not None and _goes_outside(tensor):
                value.const_value = self._outside(tensor, value.name or "")
        path = self._folder / name
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise ModelError(f"the graph of {name} is not valid ONNX: {str(error).strip()[:300]}") from error
        return path

    def _outside(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        """The same tensor, stored in the weights file."""
        offset, length = self._place(tensor.tobytes())
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(FILE, offset, length, tensor.dtype, shape=shape, name=name, base_dir=self._folder)

    def _place(self, data: bytes) -> tuple[int, int]:
        """Offset and length of these bytes in the file; new bytes are appended to it."""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._places:
            unit = _PAGE if len(data) >= _MAPPED else _ALIGNED
            offset = -(-self._end // unit) * unit
            with (self._folder / FILE).open("ab") as file:
                file.write(bytes(offset - self._end) + data)
            self._places[digest] = (offset, len(data))
            self._end = offset + len(data)
        return self._places[digest]


def _goes_outside(tensor: ir.TensorProtocol) -> bool:
    return tensor.nbytes >= INSIDE and tensor.dtype != ir.DataType.STRING


def _compute_scaled(graph: ir.Graph) -> None:
    """Have the graph compute weights that are others times a factor; the runtime does so once, while loading it."""
    taken = {*graph.initializers, *(node.name for node in graph)}
    scaled = [value for value in graph.initializers.values() if isinstance(value.const_value, Scaled)]
    for value in scaled:
        tensor, name = value.const_value, value.name or ""
        source, factor, product = (f"{name}/{suffix}" for suffix in ("source", "factor", "Mul"))
        if not isinstance(tensor, Scaled) or not _goes_outside(tensor) or taken & {source, factor, product}:
            continue
        operands = [
            ir.Value(name=source, const_value=tensor.source),
            ir.Value(name=factor, const_value=ir.tensor(tensor.factor)),
        ]
        node = ir.node("Mul", operands, name=product)
        first = next(iter(graph))
        graph.insert_before(first, node)
        value.replace_all_uses_with(node.outputs[0])
        del graph.initializers[name]
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
        for operand in operands:
            graph.register_initializer(operand)


def check_external(path: Path, weights: Path | None) -> None:
    """Check that a graph reads its weights only from the one file beside it, and that the file is complete.

    Args:
        path: path of the graph.
        weights: path of the file; None if the graph must contain its weights.

    Raises:
        RecordError: it names another file, or the file is too short, or is a link out of its folder.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
        size = weights.stat().st_size if weights is not None else 0
    except Exception as error:  # protobuf's DecodeError has moved between versions
        raise RecordError(f"{path} cannot be read ({error}). Make the artifacts again.") from error
    if weights is not None and weights.resolve().parent != path.resolve().parent:
        raise RecordError(f"{weights} is a link to a file outside of its folder. Make the artifacts again.")
    for tensor in tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if weights is None or location != weights.name:
            raise RecordError(
                f"{path} reads {tensor.name!r} from {location!r}, but expected is "
                f"{'no other file' if weights is None else repr(weights.name)}. Make the artifacts again."
            )
        offset, length = entries.get("offset") or "0", entries.get("length") or ""
        if not (offset.isdecimal() and length.isdecimal() and int(offset) + int(length) <= size):
            raise RecordError(
                f"{path}: {tensor.name!r} should have {length or 'no'} bytes from {offset} on, but {weights.name} "
                f"has {size} bytes: it was cut short. Make the artifacts again."
            )
