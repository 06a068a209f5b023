"""Models with tensors in sequences, written in ONNX's text form."""

from __future__ import annotations

import numpy as np
import onnx

from .tiny import normal

# From h, float [N, 12], to y, float [N, something]; a new name for what each is about.
BODIES = {
    "split by a number": """
        two = Constant<value: tensor = int64 {5}>()  s = SplitToSequence<axis = 1>(h, two)
        first = Constant<value: tensor = int64 {0}>()  last = Constant<value: tensor = int64 {-1}>()
        a = SequenceAt(s, first)  b = SequenceAt(s, last)  y = Concat<axis = 1>(b, a)""",
    "split by a list": """
        sizes = Constant<value: tensor = int64[3] {3, 7, 2}>()  s = SplitToSequence<axis = -1>(h, sizes)
        one = Constant<value: tensor = int64 {1}>()  minus = Constant<value: tensor = int64 {-3}>()
        a = SequenceAt(s, one)  b = SequenceAt(s, minus)  y = Concat<axis = 1>(a, b)""",
    "defaults, without the axis": """
        order = Constant<value: tensor = int64[2] {1, 0}>()  t = Transpose<perm = [1, 0]>(h)
        s = SplitToSequence<keepdims = 0>(t)  place = Constant<value: tensor = int64 {7}>()
        a = SequenceAt(s, place)  back = Constant<value: tensor = int64 {-2}>()  b = SequenceAt(s, back)
        c = Sub(a, b)  axes = Constant<value: tensor = int64[1] {1}>()  y = Unsqueeze(c, axes)""",
    "keepdims counts for no list": """
        size = Constant<value: tensor = int64 {4}>()  s = SplitToSequence<axis = 1, keepdims = 0>(h, size)
        one = Constant<value: tensor = int64 {1}>()  y = SequenceAt(s, one)""",
    "construct and at": """
        r = Sigmoid(h)  s = SequenceConstruct(h, r)  one = Constant<value: tensor = int64 {-1}>()
        i = Identity(s)  a = SequenceAt(i, one)  b = SequenceAt(s, one)  y = Mul(a, b)""",
    "construct and concat": """
        r = Sigmoid(h)  s = SequenceConstruct(h, r)  y = ConcatFromSequence<axis = 1>(s)""",
    "a new axis": """
        r = Sigmoid(h)  s = SequenceConstruct(h, r, h)  c = ConcatFromSequence<axis = -1, new_axis = 1>(s)
        shape = Constant<value: tensor = int64[2] {-1, 36}>()  y = Reshape(c, shape)""",
    "length": """
        five = Constant<value: tensor = int64 {5}>()  s = SplitToSequence<axis = 1>(h, five)
        n = SequenceLength(s)  f = Cast<to = 1>(n)  y = Mul(h, f)""",
    "insert and erase": """
        r = Sigmoid(h)  t = Tanh(h)  e = SequenceEmpty()  one = SequenceInsert(e, h)  two = SequenceInsert(one, r)
        zero = Constant<value: tensor = int64 {0}>()  three = SequenceInsert(two, t, zero)
        shorter = SequenceErase(three)  least = SequenceErase(shorter, zero)
        y = ConcatFromSequence<axis = 1>(least)""",
    "computed place": """
        size = Constant<value: tensor = int64 {4}>()  s = SplitToSequence<axis = 1>(h, size)
        one = Constant<value: tensor = int64 {1}>()  two = Add(one, one)  y = SequenceAt(s, two)""",
    "place from a shape": """
        q = Shape<start = 1>(h)  six = Constant<value: tensor = int64[1] {6}>()  half = Div(q, six)
        flat = Squeeze(half)  size = Constant<value: tensor = int64 {4}>()  s = SplitToSequence<axis = 1>(h, size)
        y = SequenceAt(s, flat)""",
    "split twice": """
        size = Constant<value: tensor = int64 {6}>()  s = SplitToSequence<axis = 1>(h, size)
        zero = Constant<value: tensor = int64 {0}>()  a = SequenceAt(s, zero)
        three = Constant<value: tensor = int64 {3}>()
        t = SplitToSequence<axis = 1>(a, three)  one = Constant<value: tensor = int64 {1}>()  y = SequenceAt(t, one)""",
}

NOT_IN_ONNXRUNTIME = ("keepdims counts for no list",)  # 1.19.2 fails where both are given; ONNX ignores keepdims

# The same, if a sequence differs between runs: node, and the message.
UNKNOWN = {
    "SequenceAt": (
        """
        size = Constant<value: tensor = int64 {4}>()  s = SplitToSequence<axis = 1>(h, size)
        m = ReduceMax<keepdims = 0>(h)  z = Mul(m, m)  k = Cast<to = 7>(z)  zero = Constant<value: tensor = int64 {0}>()
        place = Min(k, zero)  y = SequenceAt(s, place)""",
        "a value that varies between runs",
    ),
    "SplitToSequence": (
        """
        one = Constant<value: tensor = int64 {1}>()  s = SplitToSequence<axis = 0>(h, one)
        zero = Constant<value: tensor = int64 {0}>()  y = SequenceAt(s, zero)""",
        "along axis 0, which is the batch",
    ),
    "SequenceMap": (
        """
        size = Constant<value: tensor = int64 {6}>()  s = SplitToSequence<axis = 1>(h, size)
        m = SequenceMap(s) <body = each (float[M, K] v) => (float[M, K] w) { w = Tanh(v) }>
        y = ConcatFromSequence<axis = 1>(m)""",
        "maps a sequence",
    ),
}


def model(body: str, width: int, opset: int = 17) -> onnx.ModelProto:
    """A Gemm, the body, and a Gemm of ``width`` inputs."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[N, 8] input) => (float[N, 3] logits) {{
            h = Gemm(input, "a.weight", "a.bias")
            {body}
            logits = Gemm(y, "b.weight", "b.bias")
        }}"""
    )
    weights = {"a.weight": normal(8, 12), "a.bias": normal(12), "b.weight": normal(width, 3), "b.bias": normal(3)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"/{node.op_type}_{index}"
    return proto


def expected(name: str, h: np.ndarray) -> np.ndarray:
    """The result of the body of that name, in NumPy."""
    sigmoid = 1 / (1 + np.exp(-h))
    return {
        "split by a number": lambda: np.concatenate([h[:, 10:], h[:, :5]], 1),
        "split by a list": lambda: np.concatenate([h[:, 3:10], h[:, :3]], 1),
        "defaults, without the axis": lambda: (h[:, 7] - h[:, 10])[:, None],
        "keepdims counts for no list": lambda: h[:, 4:8],
        "construct and at": lambda: sigmoid**2,
        "construct and concat": lambda: np.concatenate([h, sigmoid], 1),
        "a new axis": lambda: np.stack([h, sigmoid, h], -1).reshape(len(h), 36),
        "length": lambda: 3 * h,
        "insert and erase": lambda: h,
        "computed place": lambda: h[:, 8:],
        "place from a shape": lambda: h[:, 8:],
        "split twice": lambda: h[:, 3:6],
    }[name]()
