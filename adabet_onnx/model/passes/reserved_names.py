"""Rename values whose names onnxruntime-training reserves: labels, target and anything ending in _grad."""

from __future__ import annotations

import onnx_ir as ir

RESERVED = frozenset({"labels", "target"})


class RenameClashes(ir.passes.InPlacePass):
    """Rename values called ``labels``, ``target`` or ``*_grad``; ``renamed`` then maps old names to new ones."""

    def __init__(self) -> None:
        super().__init__()
        self.renamed: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        graph = model.graph
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        names = {value.name for value in values}
        for value in values:
            name = value.name or ""
            if name not in RESERVED and not name.endswith("_grad"):
                continue
            new = f"{name}_value"
            while new in names:
                new += "_"
            names.add(new)
            value.name = new
            self.renamed[name] = new
        return ir.passes.PassResult(model, bool(self.renamed))
