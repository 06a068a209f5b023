"""Our entries in a model's metadata_props, JSON each."""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

METADATA = "adabet_onnx."  # prefix of our keys


def set_metadata(model: ir.Model, key: str, value: Any) -> None:
    """Write one of our entries into a graph, in place."""
    model.metadata_props[METADATA + key] = json.dumps(value, ensure_ascii=False)


def get_metadata(model: ir.Model, key: str) -> Any:
    """The value of one of our entries, or None if absent or unreadable."""
    text = model.metadata_props.get(METADATA + key)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
