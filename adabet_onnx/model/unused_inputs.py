"""Drop inputs that nothing reads on opening, so that they need not be fed, and restore them on export.

The metadata entry ``unused_inputs`` records them: a list, in graph order, of objects with
    at      position among the graph's inputs
    value   the ValueInfoProto in protobuf's JSON form: name, type, shape
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf import json_format

from .metadata import METADATA, get_metadata, set_metadata

_KEY = "unused_inputs"


def drop_unused_inputs(model: ir.Model) -> None:
    """Drop every input that no node reads and that is not an output, in place, unless that would be all inputs."""
    graph = model.graph
    outputs = set(graph.outputs)
    unused = [
        value for value in graph.inputs if not value.uses() and value not in outputs and not value.is_initializer()
    ]
    if not unused or len(unused) == sum(not value.is_initializer() for value in graph.inputs):
        return
    entries = [
        entry for entry in _entries(model) if entry["value"]["name"] not in {value.name for value in graph.inputs}
    ]
    places = {value: index for index, value in enumerate(graph.inputs)}
    for value in unused:
        entries.append({"at": places[value], "value": json_format.MessageToDict(ir.to_proto(value))})
        graph.inputs.remove(value)
    set_metadata(model, _KEY, sorted(entries, key=lambda entry: entry["at"]))


def unused_inputs(model: ir.Model) -> list[str]:
    """Names of the inputs that were dropped."""
    return [entry["value"]["name"] for entry in _entries(model)]


def restore_unused_inputs(proto: onnx.ModelProto) -> None:
    """Restore the unused inputs of a graph at their original positions, in place."""
    entries = _entries(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10, metadata_props=_metadata(proto)))
    names = {value.name for value in proto.graph.input} | {tensor.name for tensor in proto.graph.initializer}
    names |= {name for node in proto.graph.node for name in node.output}
    inputs = list(proto.graph.input)
    for entry in entries:
        value = json_format.ParseDict(entry["value"], onnx.ValueInfoProto(), ignore_unknown_fields=True)
        if value.name not in names:
            inputs.insert(entry["at"], value)
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    others = [item for item in proto.metadata_props if item.key != METADATA + _KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(others)


def _metadata(proto: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in proto.metadata_props}


def _entries(model: ir.Model) -> list[dict[str, Any]]:
    """The recorded entries; malformed ones are ignored."""
    stored = get_metadata(model, _KEY)
    return [entry for entry in stored if _is_entry(entry)] if isinstance(stored, list) else []


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("at"), int) or not isinstance(entry.get("value"), dict):
        return False
    try:
        value = json_format.ParseDict(entry["value"], onnx.ValueInfoProto(), ignore_unknown_fields=True)
    except (json_format.ParseError, RecursionError):
        return False
    return bool(value.name) and entry["at"] >= 0
