"""Names of layers, derived from the names of their parameters and nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .origins import Origin, naming_parameters

# The role of a parameter in its layer, for names whose only separator is an underscore.
_ROLE = re.compile(r"(w|b|weights?|bias|kernel|gamma|beta|scale|shift)(_\d+)?(:\d+)?", re.IGNORECASE)
_WITHOUT_MEANING = re.compile(r"^(onnx::|_?v_?\d+$|\d+$|val_\d+$|t_?\d+$)")


def layer_names(nodes: Sequence[tuple[ir.Node, Sequence[str]]], made_from: Mapping[str, Origin]) -> list[str]:
    """One unique name per layer; see `_candidates` for the order of preference.

    Args:
        nodes: for each layer, its node and the names of its parameters.
        made_from: what initializers were computed from, by name.
    """
    candidates = []
    for index, (node, parameters) in enumerate(nodes):
        telling = [name for item in parameters for name in naming_parameters(item, made_from.get(item))]
        candidates.append(_candidates(node, telling, index))
    counts = [Counter(row[level] for row in candidates) for level in range(3)]
    names: list[str] = []
    used: set[str] = set()
    for row in candidates:
        name = next((row[level] for level in range(3) if row[level] and counts[level][row[level]] == 1), row[2])
        while name in used:
            name += "'"
        used.add(name)
        names.append(name)
    return names


def _common_prefix(names: list[str]) -> str:
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]


def _candidates(node: ir.Node, parameters: list[str], index: int) -> tuple[str, str, str]:
    """Names by preference: the parameters' common prefix, the node's name, operator and index."""
    prefix = _common_prefix(parameters)
    if len(parameters) == 1 or prefix in parameters:
        prefix = parameters[0]
    cut = max(prefix.rfind(separator) for separator in "./:")
    ends = [name[len(prefix) :] for name in parameters]
    if len(parameters) > 1 and prefix.endswith("_") and all(_ROLE.fullmatch(end) for end in ends):
        cut = len(prefix) - 1  # fire2/squeeze1x1_w_0 and fire2/squeeze1x1_b_0
    prefix = prefix[:cut].rstrip("./:") if cut > 0 else ""
    if any(_WITHOUT_MEANING.match(name) for name in parameters):
        prefix = ""
    node_name = node.name or ""
    return prefix, node_name, f"{node.op_type}_{index}"
