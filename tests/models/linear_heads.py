"""Small networks that end in a head of four old outputs, by what lies between the head's input and the logits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

OLD = 4
_IMAGE, _FLAT, _TOKENS = "float[N,2,6,6] x", "float[N,7] x", "float[N,5,6] x"
_BODY = {
    _IMAGE: "c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, body_w, body_b)\n h = Relu(c)",
    _FLAT: "c = Gemm(x, body_w, body_b)\n h = Relu(c)",
    _TOKENS: "m = MatMul(x, body_w)\n c = Add(m, body_b)\n h = Relu(c)",
}
_BODY_SHAPES = {_IMAGE: ((6, 2, 3, 3), (6,)), _FLAT: ((7, 6), (6,)), _TOKENS: ((6, 6), (6,))}
# what the head is given, its nodes, the shapes of its parameters, and those of the logits of a sample
HEADS = {
    "gemm": (_FLAT, "y = Gemm(h, w, b)", {"w": (6, 4), "b": (4,)}, (4,)),
    "gemm, alpha and beta": (_FLAT, "y = Gemm<alpha=0.5, beta=2.0, transB=1>(h, w, b)", {"w": (4, 6), "b": (4,)}, (4,)),
    "gemm without bias": (_FLAT, "y = Gemm(h, w)", {"w": (6, 4)}, (4,)),
    "matmul and add": (_FLAT, "p = MatMul(h, w)\n y = Add(p, b)", {"w": (6, 4), "b": (4,)}, (4,)),
    "weight turned": (
        _FLAT,
        "t = Transpose<perm=[1,0]>(w)\n p = MatMul(h, t)\n y = Add(p, b)",
        {"w": (4, 6), "b": (4,)},
        (4,),
    ),
    "pooled, then the head": (
        _IMAGE,
        "g = GlobalAveragePool(h)\n f = Flatten(g)\n y = Gemm<transB=1>(f, w, b)",
        {"w": (4, 6), "b": (4,)},
        (4,),
    ),
    "1 x 1, pooled and flattened": (
        _IMAGE,
        "p = Conv<kernel_shape=[1,1]>(h, w, b)\n g = GlobalAveragePool(p)\n y = Flatten(g)",
        {"w": (4, 6, 1, 1), "b": (4,)},
        (4,),
    ),
    "3 x 3, strides, pooled": (
        _IMAGE,
        "p = Conv<kernel_shape=[3,3], strides=[2,1], pads=[1,0,1,0]>(h, w, b)\n"
        " y = ReduceMean<axes=[2,3], keepdims=0>(p)",
        {"w": (4, 6, 3, 3), "b": (4,)},
        (4,),
    ),
    "pixels": (_IMAGE, "y = Conv<kernel_shape=[1,1]>(h, w, b)", {"w": (4, 6, 1, 1), "b": (4,)}, (4, 6, 6)),
    "pixels, 3 x 3 dilated": (
        _IMAGE,
        "y = Conv<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(h, w, b)",
        {"w": (4, 6, 3, 3), "b": (4,)},
        (4, 6, 6),
    ),
    "pixels, same": (
        _IMAGE,
        'y = Conv<kernel_shape=[2,3], strides=[2,2], auto_pad="SAME_UPPER">(h, w, b)',
        {"w": (4, 6, 2, 3), "b": (4,)},
        (4, 3, 3),
    ),
    "pixels, enlarged": (
        _IMAGE,
        'p = Conv<kernel_shape=[1,1], strides=[2,2]>(h, w, b)\n y = Resize<mode="linear">(p, , factors)',
        {"w": (4, 6, 1, 1), "b": (4,)},
        (4, 6, 6),
    ),
    "tokens": (_TOKENS, "p = MatMul(h, w)\n y = Add(p, b)", {"w": (6, 4), "b": (4,)}, (5, 4)),
    "tokens, averaged": (
        _TOKENS,
        "p = MatMul(h, w)\n q = Add(p, b)\n y = ReduceMean<axes=[1], keepdims=0>(q)",
        {"w": (6, 4), "b": (4,)},
        (4,),
    ),
    "tokens, classes first": (
        _TOKENS,
        "p = MatMul(h, w)\n q = Add(p, b)\n y = Transpose<perm=[0,2,1]>(q)",
        {"w": (6, 4), "b": (4,)},
        (4, 5),
    ),
}
REFUSED = {
    "an activation": (_FLAT, "p = Gemm(h, w, b)\n y = Tanh(p)", {"w": (6, 4), "b": (4,)}, (4,)),
    "the largest": (
        _IMAGE,
        "p = Conv<kernel_shape=[1,1]>(h, w, b)\n g = GlobalMaxPool(p)\n y = Flatten(g)",
        {"w": (4, 6, 1, 1), "b": (4,)},
        (4,),
    ),
    "ConvTranspose": (
        _IMAGE,
        "y = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(h, w, b)",
        {"w": (6, 4, 2, 2), "b": (4,)},
        (4, 12, 12),
    ),
    "added up": (
        _TOKENS,
        "p = MatMul(h, w)\n q = Add(p, b)\n y = ReduceSum<keepdims=0>(q, one)",
        {"w": (6, 4), "b": (4,)},
        (4,),
    ),
}


def network(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of these networks, of random weights."""
    given, nodes, shapes, logits = (HEADS | REFUSED)[name]
    extents = ",".join(["N", *map(str, logits)])
    rng = np.random.default_rng(seed)
    weight, bias = _BODY_SHAPES[given]
    arrays = {"body_w": weight, "body_b": bias, **shapes}
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\nagraph ({given}) => (float[{extents}] y) {{\n {_BODY[given]}\n'
        f" {nodes}\n}}"
    )
    tensors = {key: rng.normal(size=shape).astype(np.float32) / 2 for key, shape in arrays.items()}
    tensors |= {"factors": np.array([1, 1, 2, 2], np.float32), "one": np.array([1], np.int64)}
    used = {value for node in model.graph.node for value in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in tensors.items() if key in used)
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    return model


def inputs(name: str, count: int, seed: int = 1) -> np.ndarray:
    """Random samples for it."""
    given = (HEADS | REFUSED)[name][0]
    shape = {_IMAGE: (2, 6, 6), _FLAT: (7,), _TOKENS: (5, 6)}[given]
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)
