"""Plants wrong gradients, the same in the gradient graph and the step graph of an artifact folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from adabet_onnx import CheckError
from adabet_onnx.errors import TrainingError
from adabet_onnx.training.manifest import Manifest
from adabet_onnx.training.samples import sample_feeds, sample_labels
from adabet_onnx.training.selfcheck import check

Rng = np.random.Generator
SHARE = 0.03  # of the squared gradient norm: what a planted fault must carry to count
_FILES = ("grads.onnx", "step.onnx")


@dataclass(frozen=True)
class Planted:
    """A wrong gradient.

    Attributes:
        kind: of fault.
        where: name of the node where it was planted.
        share: squared norm of the error relative to that of the correct gradient, over all parameters.
    """

    kind: str
    where: str
    share: float


def plant(manifest: Manifest, seed: int) -> Planted | None:
    """Plant one fault with a share of at least SHARE; None if the graph has no place for one.

    The kind and the place are random. The folder's files are changed; hashes in the manifest are not.
    """
    rng = np.random.default_rng(seed)
    right = {name: (manifest.folder / name).read_bytes() for name in _FILES}
    before = _gradients(manifest)
    faults = [
        (kind, where) for kind, found in KINDS.items() for where in found(onnx.load_from_string(right[_FILES[0]]))
    ]
    kinds = sorted({kind for kind, _ in faults})
    for _ in range(60):
        if not kinds:
            break
        kind = kinds[int(rng.integers(len(kinds)))]
        places = [where for other, where in faults if other == kind]
        where = places[int(rng.integers(len(places)))]
        number = int(rng.integers(2**31))
        for name in _FILES:
            proto = onnx.load_from_string(right[name])
            _EDITS[kind](proto, where, np.random.default_rng(number))
            (manifest.folder / name).write_bytes(proto.SerializeToString())
        try:
            after = _gradients(manifest)
        except TrainingError:  # a path of another shape, broadcast in the sum
            continue
        missing = sum(float(np.square(after[name] - value).sum()) for name, value in before.items())
        share = missing / sum(float(np.square(value).sum()) for value in before.values())
        if share >= SHARE:
            return Planted(kind, where, share)
    for name in _FILES:
        (manifest.folder / name).write_bytes(right[name])
    return None


def _gradients(manifest: Manifest) -> dict[str, np.ndarray]:
    session = manifest.session(manifest.initial, threads=1)
    feeds = sample_feeds(manifest, 4, 11)
    labels = sample_labels(manifest, np.zeros([4, *manifest.content["logits_shape"][1:]], np.float32), 11)
    session.gradients(feeds, labels)
    return {name: session.gradient(name).astype(np.float64) for name in manifest.parameters}


# --- places ---------------------------------------------------------------------------------------------------


def _backward(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of the backward pass, in order."""
    return [node for node in proto.graph.node if "/grad/" in node.name]


def _sums(proto: onnx.ModelProto) -> Iterator[str]:
    """Sums of the gradients of two paths."""
    made = {name for node in _backward(proto) for name in node.output}
    for node in proto.graph.node:
        if node.op_type in ("Add", "Sum") and "/grad" in node.name and len(made & set(node.input)) > 1:
            yield node.name


def _reductions(proto: onnx.ModelProto) -> Iterator[str]:
    """Sums of the gradient of a broadcast value."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    for node in _backward(proto):
        if node.op_type == "ReduceSum" and len(node.input) == 2 and node.input[1] in stored:
            yield node.name


def _products(proto: onnx.ModelProto) -> Iterator[str]:
    """Where a path is multiplied by the derivative of an operator, or by a weight."""
    yield from (node.name for node in _backward(proto) if node.op_type in ("Mul", "MatMul", "Gemm", "Conv"))


def _tensors(proto: onnx.ModelProto) -> Iterator[str]:
    """The node that gives the gradient of a parameter with several rows, by its name in the step graph too."""
    for node, shape in _results(proto):
        if shape and shape[0] > 1:
            yield node.name


def _squares(proto: onnx.ModelProto) -> Iterator[str]:
    for node, shape in _results(proto):
        if len(shape) == 2 and shape[0] == shape[1] > 1:
            yield node.name


def _results(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[int]]]:
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in proto.graph.output
        if value.name.endswith(".gradient")
    }
    for node in proto.graph.node:
        if node.output[0] in shapes:
            yield node, shapes[node.output[0]]


# --- edits ----------------------------------------------------------------------------------------------------


def _at(proto: onnx.ModelProto, where: str) -> tuple[int, onnx.NodeProto]:
    return next((i, node) for i, node in enumerate(proto.graph.node) if node.name == where)


def _drop(proto: onnx.ModelProto, where: str, rng: Rng) -> None:
    """Drop one path of a sum: use only the other one, times one."""
    _, node = _at(proto, where)
    kept = node.input[int(rng.integers(len(node.input)))]
    del node.input[:]
    node.input.append(kept)
    node.op_type = "Identity"


def _after(proto: onnx.ModelProto, where: str, op_type: str, more: list[np.ndarray], **attributes: object) -> None:
    """One more node behind the first output of a node."""
    index, node = _at(proto, where)
    wanted, node.output[0] = node.output[0], "planted/before"
    given = []
    for i, array in enumerate(more):
        proto.graph.initializer.append(numpy_helper.from_array(array, f"planted/{i}"))
        given.append(f"planted/{i}")
    made = helper.make_node(op_type, ["planted/before", *given], [wanted], "planted", **attributes)
    proto.graph.node.insert(index + 1, made)


def _scale(proto: onnx.ModelProto, where: str, rng: Rng) -> None:
    factor = (0.0, 0.5, 0.8, 1.2, 2.0, -1.0)[int(rng.integers(6))]
    _after(proto, where, "Mul", [np.array(factor, np.float32)])


def _zero_channels(proto: onnx.ModelProto, where: str, rng: Rng) -> None:
    """No gradient for one channel (of more than eight: for every eighth)."""
    extents = {node.name: shape for node, shape in _results(proto)}.get(where) or _extents(proto, where)
    mask = np.ones([extents[0], *[1] * (len(extents) - 1)], np.float32)
    mask[int(rng.integers(min(8, extents[0]))) :: 8] = 0
    _after(proto, where, "Mul", [mask])


def _extents(proto: onnx.ModelProto, where: str) -> list[int]:
    """In the step graph, gradients are not outputs: their shape is that of the parameter."""
    inferred = onnx.shape_inference.infer_shapes(proto)
    name = _at(proto, where)[1].output[0]
    value = next(value for value in inferred.graph.value_info if value.name == name)
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _transpose(proto: onnx.ModelProto, where: str, rng: Rng) -> None:
    _after(proto, where, "Transpose", [], perm=[1, 0])


def _average(proto: onnx.ModelProto, where: str, rng: Rng) -> None:
    """A mean instead of the sum for the gradient of a broadcast value."""
    _at(proto, where)[1].op_type = "ReduceMean"
    if proto.opset_import[0].version < 18:  # axes are still an attribute of it
        node = _at(proto, where)[1]
        axes = next(t for t in proto.graph.initializer if t.name == node.input[1])
        del node.input[1]
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(axes).tolist()))


KINDS: dict[str, Callable[[onnx.ModelProto], Iterator[str]]] = {
    "a path dropped from a sum": _sums,
    "a path scaled": _products,
    "a channel without gradient": _tensors,
    "a square weight's gradient transposed": _squares,
    "a mean for the sum of a broadcast": _reductions,
}
_EDITS: dict[str, Callable[[onnx.ModelProto, str, Rng], None]] = {
    "a path dropped from a sum": _drop,
    "a path scaled": _scale,
    "a channel without gradient": _zero_channels,
    "a square weight's gradient transposed": _transpose,
    "a mean for the sum of a broadcast": _average,
}


def caught(manifest: Manifest) -> str | None:
    """The self-check's complaint, or None."""
    try:
        check(manifest)
    except CheckError as error:
        return str(error)
    return None
