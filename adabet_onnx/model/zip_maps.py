"""Replace outputs that are not tensors of numbers: ZipMap's sequences of maps, and labels that are strings.

skl2onnx writes both by default. A ZipMap's output holds the same numbers as its input tensor, so that tensor becomes
the output; a string label is the class with the largest of them. The names of the classes are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import onnx

from .metadata import METADATA

_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")  # attributes of ZipMap, LinearClassifier
_CLASSES = METADATA + "classes"


def replace_zip_maps(proto: onnx.ModelProto, notes: list[str]) -> None:
    """Replace ZipMaps' outputs by tensors, and drop string outputs if there are others, in place.

    Class names other than 0, 1, 2, ... are stored in the metadata as ``classes``.

    Args:
        proto: the model.
        notes: receives a sentence for each change.
    """
    graph = proto.graph
    zips = {node.output[0]: node for node in graph.node if node.op_type == "ZipMap" and node.input and node.output}
    strings = [value.name for value in graph.output if _is_string(value)]
    if not any(node.domain == "ai.onnx.ml" for node in graph.node):
        return
    _keep_classes(proto, notes)
    _join_columns(graph, notes)
    outputs = []
    for value in graph.output:
        node = zips.get(value.name)
        if node is not None:
            notes.append(
                f"output {value.name!r}, a sequence of maps from class to number (ZipMap), was replaced by its input "
                f"tensor {node.input[0]!r}"
            )
            outputs.append(_tensor(node.input[0], graph))
        elif value.name not in strings or len(strings) == len(graph.output):
            outputs.append(value)
        else:
            notes.append(
                f"output {value.name!r}, the class as a string, was dropped: the index of the largest number gives the "
                "class"
            )
    del graph.output[:]
    graph.output.extend(outputs)
    for node in zips.values():
        graph.node.remove(node)


def _join_columns(graph: onnx.GraphProto, notes: list[str]) -> None:
    """Replace outputs that are the columns of a tensor, one for each class, by the tensor (``zipmap="columns"``)."""
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    sources = []
    for value in graph.output:
        node = makers.get(value.name)
        if node is not None and node.op_type == "Reshape":
            node = makers.get(node.input[0])
        sources.append(None if node is None else _column_of(node, tensors))
    names = {source[0] for source in sources if source is not None}
    columns = [source[1] for source in sources if source is not None]
    if len(names) != 1 or len(columns) < 2 or sorted(columns) != list(range(len(columns))):
        return
    joined = names.pop()
    others = [value for value, source in zip(graph.output, sources, strict=True) if source is None]
    listed = ", ".join(repr(value.name) for value, source in zip(graph.output, sources, strict=True) if source)
    notes.append(
        f"outputs {listed}, one column for each class, were replaced by {joined!r}, the tensor that holds the columns"
    )
    output = _tensor(joined, graph)
    del graph.output[:]
    graph.output.extend([*others, output])


def _column_of(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> tuple[str, int] | None:
    """The tensor from which a Slice takes one column, and the index of the column."""
    if node.op_type != "Slice" or len(node.input) != 4 or any(name not in tensors for name in node.input[1:]):
        return None
    start, end, axis = (onnx.numpy_helper.to_array(tensors[name]).ravel().tolist() for name in node.input[1:])
    if axis != [1] or len(start) != 1 or start[0] < 0 or end != [start[0] + 1]:
        return None
    return node.input[0], start[0]


def _is_string(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type == onnx.TensorProto.STRING


def _tensor(name: str, graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The declaration of a value that becomes an output: floats, with the shape that the file states, if any."""
    declaration = onnx.ValueInfoProto(name=name)
    declaration.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for value in graph.value_info:
        if value.name == name:
            declaration.CopyFrom(value)
    return declaration


def _keep_classes(proto: onnx.ModelProto, notes: list[str]) -> None:
    """Store the names of the classes in the metadata, with a note, unless they are 0, 1, 2, ..."""
    classes = _listed(proto.graph.node) or _looked_up(proto.graph)
    if classes is None or classes == [str(index) for index in range(len(classes))]:
        return
    if all(entry.key != _CLASSES for entry in proto.metadata_props):
        proto.metadata_props.add(key=_CLASSES, value=json.dumps(classes))
    shown = ", ".join(f"{index} is {name!r}" for index, name in enumerate(classes[:6])) + ", ..." * (len(classes) > 6)
    notes.append(f"labels are indices of the named classes: {shown}")


def _listed(nodes: Iterable[onnx.NodeProto]) -> list[str] | None:
    """The class labels of a ZipMap or a LinearClassifier."""
    for node in nodes:
        if node.op_type in ("ZipMap", "LinearClassifier") and node.domain == "ai.onnx.ml":
            for attribute in node.attribute:
                if attribute.name in _LABELS and (attribute.strings or attribute.ints):
                    return [_text(item) for item in attribute.strings] or [str(item) for item in attribute.ints]
    return None


def _looked_up(graph: onnx.GraphProto) -> list[str] | None:
    """The table of strings in which an ArrayFeatureExtractor looks up a class."""
    tables = {item.name: item for item in graph.initializer if item.data_type == onnx.TensorProto.STRING}
    for node in graph.node:
        if node.op_type == "ArrayFeatureExtractor" and node.input and node.input[0] in tables:
            return [_text(item) for item in tables[node.input[0]].string_data]
    return None


def _text(item: bytes) -> str:
    return item.decode("utf-8", "replace")
