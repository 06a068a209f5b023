"""One-operator models: forms that WebGPU's providers get wrong or reject, or that a rewrite must keep correct."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

Case = tuple[onnx.ModelProto, dict[str, np.ndarray]]
_RNG = np.random.default_rng(0)
LEAST = -(1 << 63)


def normal(*shape: int) -> np.ndarray:
    """Random numbers."""
    return _RNG.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    """Integers as ONNX wants them."""
    return np.array(numbers, np.int64)


def one(op_type: str, *inputs: np.ndarray | None, outputs: int = 1, opset: int = 17, **attributes: Any) -> Case:
    """A model of one node, and what to feed: the first input and all float ones; integers after it are constants."""
    names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
    made = [f"y{i}" for i in range(outputs)]
    given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    fed = {name: value for name, value in given.items() if name == "x0" or value.dtype == np.float32}
    node = onnx.helper.make_node(op_type, names, made, "/node", **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info(name, 1, value.shape) for name, value in fed.items()],
        [
            onnx.helper.make_tensor_value_info(name, 7 if op_type == "MaxPool" and name == "y1" else 1, None)
            for name in made
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in given.items() if name not in fed],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model), fed


def conv(*, kernel: tuple[int, ...] = (3, 3), bias: bool = False, transposed: bool = False, **attributes: Any) -> Case:
    """A convolution of 4 channels of length 8 to 6."""
    weight = normal(4, 6, *kernel) if transposed else normal(6, 4 // attributes.get("group", 1), *kernel)
    inputs = [normal(2, 4, *[8] * len(kernel)), weight, *([normal(6)] if bias else [])]
    return one("ConvTranspose" if transposed else "Conv", *inputs, **attributes)


def pool(op_type: str, **attributes: Any) -> Case:
    """A pool of windows of 3, two apart."""
    return one(op_type, normal(2, 4, 8, 9), **{"kernel_shape": [3, 3], "strides": [2, 2], **attributes})


def _lines(count: int) -> list[np.ndarray]:
    return [normal(2, 1, 3) for _ in range(count)]


_POSITIVE = np.abs(normal(6)) + 0.5
_TWO = {"strides": [2, 2], "kernel_shape": [3, 3]}
# Cases that at least one bundle computes incorrectly or rejects without the rewrite.
FORMS: dict[str, Case] = {
    **{f"Concat of {n}": one("Concat", *_lines(n), axis=1) for n in (8, 9, 25, 51)},
    "Concat of 7": one("Concat", *_lines(7), axis=1),
    **{f"Split in {n}": one("Split", normal(2, n, 3), outputs=n, axis=1) for n in (7, 8, 12, 50)},
    "Split in 9 of all sizes": one("Split", normal(2, 45), ints(*range(1, 10)), outputs=9, axis=-1),
    "Conv": conv(),
    "Conv with bias": conv(bias=True, pads=[1] * 4),
    "Conv in groups": conv(group=2, strides=[2, 2]),
    "Conv, VALID": conv(auto_pad="VALID", strides=[2, 2]),
    "Conv of one axis": conv(kernel=(3,)),
    "Conv of three axes": conv(kernel=(3, 3, 3)),
    "ConvTranspose": conv(transposed=True),
    "ConvTranspose, output_shape": conv(transposed=True, output_shape=[16, 16], **_TWO),
    "ConvTranspose, a larger output_shape": conv(transposed=True, bias=True, output_shape=[18, 18], **_TWO),
    "ConvTranspose, SAME_UPPER": conv(transposed=True, auto_pad="SAME_UPPER", **_TWO),
    "ConvTranspose, SAME_LOWER": conv(transposed=True, auto_pad="SAME_LOWER", **_TWO),
    "ConvTranspose, VALID": conv(transposed=True, auto_pad="VALID", **_TWO),
    "ConvTranspose, padded before": conv(transposed=True, pads=[1, 2, 0, 0], output_padding=[1, 0], **_TWO),
    "ConvTranspose of one axis, padded before": conv(transposed=True, kernel=(3,), pads=[1, 0], strides=[2]),
    "MaxPool, ceil_mode": pool("MaxPool", ceil_mode=1),
    "MaxPool, ceil_mode and pads": pool("MaxPool", ceil_mode=1, pads=[1] * 4),
    "AveragePool, ceil_mode": pool("AveragePool", ceil_mode=1),
    "AveragePool, ceil_mode, all counted": pool("AveragePool", ceil_mode=1, count_include_pad=1, pads=[1, 0, 0, 0]),
    "BatchNormalization of two axes": one(
        "BatchNormalization", normal(5, 6), normal(6), normal(6), normal(6), _POSITIVE, epsilon=0.1
    ),
    "Pow by an int64": one("Pow", normal(6), ints(2)),
    "Pow by an int32": one("Pow", normal(6), np.array(3, np.int32)),
    "CumSum": one("CumSum", normal(3, 4), ints(1)),
    "CumSum, reversed": one("CumSum", normal(3, 4), ints(1), reverse=1),
    "CumSum, reversed, exclusive": one("CumSum", normal(3, 4), np.array(-1), reverse=1, exclusive=1),
    "Einsum over one index": one("Einsum", normal(2, 3, 4), normal(2, 4, 5), equation="bij,bjk->bik"),
    "Einsum over two indices": one("Einsum", normal(2, 3, 4), normal(2, 3, 5), equation="abc, abd -> cd"),
    "Einsum over all": one("Einsum", normal(3, 4), normal(3, 4), equation="ij,ij->"),
    "Slice backwards": one("Slice", normal(5, 6), ints(-1), ints(LEAST), ints(1), ints(-1)),
    "Slice both ways": one("Slice", normal(5, 6), ints(4, 1), ints(-9, 5), ints(0, 1), ints(-2, 2)),
    "Slice backwards, no axes": one("Slice", normal(5, 6), ints(3, 3), ints(0, 1), None, ints(-1, -1)),
}
# Cases that stay incorrect or rejected in any form, and their message.
REFUSED: dict[str, tuple[Case, str]] = {
    "training": (
        one(
            "BatchNormalization",
            normal(2, 6, 3),
            normal(6),
            normal(6),
            normal(6),
            _POSITIVE,
            training_mode=1,
            outputs=3,
        ),
        "no BatchNormalization that normalises by the batch .use `batch_norm='frozen'`., as node '/node' does",
    ),
    "dilated pool": (pool("MaxPool", dilations=[2, 2]), "no MaxPool that has dilations"),
    "dilated average": (pool("AveragePool", dilations=[2, 2], opset=19), "no AveragePool that has dilations"),
    "places": (pool("MaxPool", outputs=2), "no MaxPool that gives the places of the maxima"),
    "counted": (pool("AveragePool", ceil_mode=1, count_include_pad=1), "'/node' .AveragePool. has ceil_mode, and its"),
    "three axes": (conv(transposed=True, kernel=(3, 3, 3)), "no ConvTranspose that has three spatial axes"),
    "three factors": (
        one("Einsum", normal(3, 4), normal(4, 5), normal(5, 2), equation="ij,jk,kl->il"),
        "no Einsum that has more than two inputs",
    ),
    "ellipsis": (
        one("Einsum", normal(2, 3, 4), normal(2, 3, 4), equation="...ab,...ab->..."),
        "no Einsum that sums over several indices beside an ellipsis",
    ),
    "vector": (one("MatMul", normal(3, 4), normal(4)), "no MatMul that has an input of one axis"),
    "wrap": (one("Pad", normal(4, 4), ints(1, 1, 1, 1), mode="wrap", opset=19), "no Pad that repeats the image"),
    "antialias": (
        one("Resize", normal(1, 2, 8, 8), None, None, ints(1, 2, 4, 4), mode="linear", antialias=1, opset=18),
        "no Resize that has antialias",
    ),
    "tanh": (one("Gelu", normal(5), approximate="tanh", opset=20), "no Gelu that is approximated by tanh"),
    "old": (one("Relu", normal(5), opset=12), "needs opset 13 or newer, and a node keeps the graph at 12"),
    "unknown operator": (one("Softsign", normal(5)), "the profile webgpu has no Softsign, which is node '/node'"),
}
