"""Replace AveragePool by a depthwise Conv with a constant kernel.

In onnxruntime-training 1.19.2, its gradient with a dynamic batch kills the process (SIGFPE). Where padded positions do
not count, the Conv sums and is multiplied by a constant map of 1 / count.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir

from ...errors import ModelError
from .replacement import Replacement


class AveragePoolToConv(ir.passes.InPlacePass):
    """Rewrite AveragePool (after ExplicitPads).

    Args:
        shapes: static shapes of the pooled values and of the results.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        nodes = [node for node in model.graph if node.op_type == "AveragePool"]
        for node in nodes:
            self._rewrite(model.graph, node)
        return ir.passes.PassResult(model, bool(nodes))

    def _rewrite(self, graph: ir.Graph, node: ir.Node) -> None:
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        shape, result = self._shapes.get(x.name or ""), self._shapes.get(y.name or "")
        if shape is None or result is None:
            raise ModelError(
                f"node {node.name!r} (AveragePool) pools a value of unknown shape; export the model with static height "
                "and width."
            )
        spatial = len(shape) - 2
        attributes = node.attributes
        kernel = list(attributes["kernel_shape"].as_ints())
        strides = list(attributes.get_ints("strides", [1] * spatial))
        dilations = list(attributes.get_ints("dilations", [1] * spatial))
        pads = list(attributes.get_ints("pads", [0] * 2 * spatial))
        include = bool(attributes.get_int("count_include_pad", 0))
        counts = self._counts(shape[2:], result[2:], kernel, strides, dilations, pads, include)
        for axis in range(spatial):  # ceil_mode: pad where the last window extends beyond the end
            start = (result[2 + axis] - 1) * strides[axis] - pads[axis]
            end = start + (kernel[axis] - 1) * dilations[axis] + 1 - shape[2 + axis]
            if start >= shape[2 + axis] or (include and end > pads[spatial + axis]):
                raise ModelError(
                    f"node {node.name!r} (AveragePool): with ceil_mode, its last window extends beyond the padding, "
                    "and releases of onnxruntime disagree on the result. Export the model without ceil_mode, or with "
                    "count_include_pad off."
                )
            pads[spatial + axis] = max(pads[spatial + axis], end)
        channels = shape[1]
        even = bool(np.all(counts == counts.flat[0]))
        kernel_value = 1 / counts.flat[0] if even else 1.0
        edit = Replacement(graph, node)
        weight = edit.constant("kernel", np.full([channels, 1, *kernel], kernel_value))
        value = edit.apply(
            "Conv",
            x,
            weight,
            kernel_shape=kernel,
            strides=strides,
            dilations=dilations,
            pads=pads,
            group=channels,
        )
        if not even:
            value = edit.apply("Mul", value, edit.constant("inverse_count", (1 / counts)[np.newaxis, np.newaxis]))
        edit.finish(value)

    @staticmethod
    def _counts(
        extents: tuple[int, ...],
        results: tuple[int, ...],
        kernel: list[int],
        strides: list[int],
        dilations: list[int],
        pads: list[int],
        count_include_pad: bool,
    ) -> np.ndarray:
        """The number of positions in each window: all of the kernel's, or those inside if pads do not count."""
        if count_include_pad:
            return np.full(results, math.prod(kernel), np.float64)
        counts = np.zeros(results)
        for index in itertools.product(*map(range, results)):
            inside = 1
            for axis, place in enumerate(index):
                start = place * strides[axis] - pads[axis]
                inside *= sum(0 <= start + k * dilations[axis] < extents[axis] for k in range(kernel[axis]))
            counts[index] = max(inside, 1)
        return counts
