"""This package's entries in a model's metadata_props, each in JSON."""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

METADATA = "adabet_onnx."  # prefix of this package's keys


def set_metadata(model: ir.Model, key: str, value: Any) -> None:
    """Write an entry of this package into a graph, in place."""
    model.metadata_props[METADATA + key] = json.dumps(value, ensure_ascii=False)


def get_metadata(model: ir.Model, key: str) -> Any:
    """The value of an entry of this package, or None if absent or unreadable."""
    text = model.metadata_props.get(METADATA + key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
