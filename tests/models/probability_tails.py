"""The forms in which exporters write the step from logits to probabilities, and similar ones that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from .tiny import assemble, node, normal

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Steps = list[tuple[str, list[str], list[str], dict[str, Any]]]
CONSTANTS = {
    "one": np.array([1], np.float32),
    "eps": np.array(1e-7, np.float32),
    "top": np.array(1 - 1e-7, np.float32),
    "minus": np.array(-1, np.float32),
    "low": np.array(-3e38, np.float32),
    "half": np.array(0.5, np.float32),
    "axis": np.array([1]),
    "last": np.array([-1]),
    "k": np.array([3]),
    "rows": np.array([-1, 1, 3]),
    "flat": np.array([-1, 3]),
    "like": np.array([1, 3]),
    "swap": np.array([2, 0, 1]),
}
SHIFT: Steps = [("ReduceMax", ["z"], ["m"], {"axes": [1]}), ("Sub", ["z", "m"], ["u"], {})]
EXP_SUM: Steps = [("Exp", ["z"], ["e"], {}), ("ReduceSum", ["e", "axis"], ["s"], {})]

# From ``z`` of three columns to ``y``, their probabilities.
SOFTMAX: dict[str, Steps] = {
    "Softmax": [("Softmax", ["z"], ["y"], {})],
    "Exp / ReduceSum": [*EXP_SUM, ("Div", ["e", "s"], ["y"], {})],
    "Exp * Reciprocal": [*EXP_SUM, ("Reciprocal", ["s"], ["r"], {}), ("Mul", ["r", "e"], ["y"], {})],
    "shifted": [
        *SHIFT,
        ("Exp", ["u"], ["e"], {}),
        ("ReduceSum", ["e", "last"], ["s"], {}),
        ("Div", ["e", "s"], ["y"], {}),
    ],
    "shifted, with bounds, reshaped and expanded": [
        ("ReduceMax", ["z"], ["m0"], {"axes": [1], "keepdims": 0}),
        ("Max", ["low", "m0"], ["m1"], {}),
        ("Unsqueeze", ["m1", "axis"], ["m2"], {}),
        ("Expand", ["m2", "like"], ["m"], {}),
        ("Sub", ["z", "m"], ["u"], {}),
        ("Exp", ["u"], ["e"], {}),
        ("ReduceSum", ["e", "axis"], ["s0"], {"keepdims": 0}),
        ("Unsqueeze", ["s0", "axis"], ["s"], {}),
        ("Div", ["e", "s"], ["y"], {}),
    ],
    "with a small number in the sum": [*EXP_SUM, ("Add", ["s", "eps"], ["t"], {}), ("Div", ["e", "t"], ["y"], {})],
    "Exp(LogSoftmax)": [("LogSoftmax", ["z"], ["l"], {}), ("Exp", ["l"], ["y"], {})],
    "Exp(x - ReduceLogSumExp(x))": [
        ("ReduceLogSumExp", ["z"], ["t"], {"axes": [1]}),
        ("Sub", ["z", "t"], ["l"], {}),
        ("Exp", ["l"], ["y"], {}),
    ],
    "bounded": [("Softmax", ["z"], ["p"], {}), ("Clip", ["p", "eps", "top"], ["y"], {})],
    "with changes of shape": [
        ("Softmax", ["z"], ["p"], {}),
        ("Reshape", ["p", "rows"], ["q"], {}),
        ("Identity", ["q"], ["i"], {}),
        ("Squeeze", ["i", "axis"], ["y"], {}),
    ],
    "with types": [
        ("Softmax", ["z"], ["p"], {}),
        ("Cast", ["p"], ["d"], {"to": TensorProto.DOUBLE}),
        ("Cast", ["d"], ["y"], {"to": FLOAT}),
    ],
}
LOG_SOFTMAX: dict[str, Steps] = {
    "LogSoftmax": [("LogSoftmax", ["z"], ["y"], {})],
    "Log(Softmax)": [("Softmax", ["z"], ["p"], {}), ("Log", ["p"], ["y"], {})],
    "Log(Clip(Softmax))": [("Softmax", ["z"], ["p"], {}), ("Max", ["p", "eps"], ["c"], {}), ("Log", ["c"], ["y"], {})],
    "x - ReduceLogSumExp": [("ReduceLogSumExp", ["z"], ["t"], {"axes": [1]}), ("Sub", ["z", "t"], ["y"], {})],
    "x - Log(ReduceSum(Exp(x)))": [*EXP_SUM, ("Log", ["s"], ["t"], {}), ("Sub", ["z", "t"], ["y"], {})],
    "shifted": [
        *SHIFT,
        ("Exp", ["u"], ["e"], {}),
        ("ReduceSum", ["e", "axis"], ["s"], {}),
        ("Log", ["s"], ["t"], {}),
        ("Sub", ["u", "t"], ["y"], {}),
    ],
}
SIGMOID: dict[str, Steps] = {  # from one column to one
    "Sigmoid": [("Sigmoid", ["z"], ["y"], {})],
    "1 / (1 + Exp(-x))": [
        ("Neg", ["z"], ["n"], {}),
        ("Exp", ["n"], ["e"], {}),
        ("Add", ["e", "one"], ["s"], {}),
        ("Div", ["one", "s"], ["y"], {}),
    ],
    "Reciprocal(1 + Exp(-1 x))": [
        ("Mul", ["minus", "z"], ["n"], {}),
        ("Exp", ["n"], ["e"], {}),
        ("Add", ["one", "e"], ["s"], {}),
        ("Reciprocal", ["s"], ["y"], {}),
    ],
}
COLUMNS: dict[str, Steps] = {  # from one column to two; the class of p is in the name
    "1 - p, p": [
        ("Sigmoid", ["z"], ["p"], {}),
        ("Sub", ["one", "p"], ["q"], {}),
        ("Concat", ["q", "p"], ["y"], {"axis": 1}),
    ],
    "p, 1 - p": [
        ("Sigmoid", ["z"], ["p"], {}),
        ("Sub", ["one", "p"], ["q"], {}),
        ("Concat", ["p", "q"], ["y"], {"axis": -1}),
    ],
    "-p + 1, p": [
        ("Sigmoid", ["z"], ["p"], {}),
        ("Neg", ["p"], ["n"], {}),
        ("Add", ["n", "one"], ["q"], {}),
        ("Concat", ["q", "p"], ["y"], {"axis": 1}),
    ],
    "reshaped": [
        ("Squeeze", ["z", "axis"], ["z1"], {}),
        ("Sigmoid", ["z1"], ["p0"], {}),
        ("Unsqueeze", ["p0", "axis"], ["p"], {}),
        ("Sub", ["one", "p"], ["q"], {}),
        ("Concat", ["q", "p"], ["y"], {"axis": 1}),
    ],
    "written out": [*SIGMOID["1 / (1 + Exp(-x))"][:3], ("Div", ["one", "s"], ["p"], {}),
                    ("Sub", ["one", "p"], ["q"], {}), ("Concat", ["q", "p"], ["y"], {"axis": 1})],
}  # fmt: skip
UNKNOWN: dict[str, Steps] = {  # probabilities in an unknown form
    "powers of 2": [  # 2^z / sum 2^z
        ("Pow", ["two", "z"], ["e"], {}),
        ("ReduceSum", ["e", "axis"], ["s"], {}),
        ("Div", ["e", "s"], ["y"], {}),
    ],
    "an ensemble": [
        ("Softmax", ["z"], ["p"], {}),
        ("Softmax", ["b2"], ["q"], {}),
        ("Add", ["p", "q"], ["t"], {}),
        ("Mul", ["t", "half"], ["y"], {}),
    ],
    "squared and divided": [
        ("Mul", ["z", "z"], ["e"], {}),
        ("ReduceSum", ["e", "axis"], ["s"], {}),
        ("Div", ["e", "s"], ["y"], {}),
    ],
}
RESCALED: dict[str, Steps] = {  # not probabilities themselves, but computed from them
    "twice": [("Softmax", ["z"], ["p"], {}), ("Div", ["p", "half"], ["y"], {})],
    "minus logarithms": [("LogSoftmax", ["z"], ["p"], {}), ("Neg", ["p"], ["y"], {})],
    "an L1 norm": [("Exp", ["z"], ["e"], {}), ("LpNormalization", ["e"], ["y"], {"axis": 1, "p": 1})],
}
NONE: dict[str, Steps] = {  # not probabilities, though some operators are the same
    "a bias": [("Add", ["z", "bias"], ["y"], {})],
    "Relu": [("Relu", ["z"], ["y"], {})],
    "a temperature": [("Div", ["z", "half"], ["y"], {})],
    "a mean removed": [("ReduceMean", ["z"], ["m"], {"axes": [1]}), ("Sub", ["z", "m"], ["y"], {})],
    "a weighted gate": [("Softmax", ["b2"], ["g"], {}), ("Mul", ["z", "g"], ["y"], {})],
    "an exponential": [("Exp", ["z"], ["y"], {})],
}


def with_tail(
    steps: Steps, columns: int = 3, outputs: dict[str, int] | None = None, *, shown: int | None = None
) -> onnx.ModelProto:
    """x (N, 8), a, Relu, fc to ``z`` (N, columns), then these steps; outputs are named with their element type."""
    values = {
        "a.weight": normal(8, 16, scale=0.4),
        "b.weight": normal(16, 3, scale=0.4),
        "fc.weight": normal(16, columns, scale=0.5),
        "two": np.array(2, np.float32),
        "bias": normal(3),
        **CONSTANTS,
    }
    nodes = [
        node("MatMul", ["x", "a.weight"], ["a"], "/a"),
        node("Relu", ["a"], ["b"], "/relu"),
        node("MatMul", ["b", "fc.weight"], ["z"], "/fc"),
    ]
    used = {name for _, given, _, _ in steps for name in given}
    if "b2" in used:
        nodes.insert(2, node("MatMul", ["b", "b.weight"], ["b2"], "/b"))
    nodes += [node(op_type, given, made, f"/tail{i}", **more) for i, (op_type, given, made, more) in enumerate(steps)]
    used |= {name for item in nodes for name in item.input}
    made = [
        helper.make_tensor_value_info(name, kind, ["N", shown or columns])
        for name, kind in (outputs or {"y": FLOAT}).items()
    ]
    given = [helper.make_tensor_value_info("x", FLOAT, ["N", 8])]
    return assemble(nodes, {key: array for key, array in values.items() if key in used}, given, made)


def over(axis: int, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A dense layer on each position of (N, *shape) and a Softmax over an axis."""
    values = {"fc.weight": normal(shape[-1], shape[-1])}
    nodes = [node("MatMul", ["x", "fc.weight"], ["z"], "/fc"), node("Softmax", ["z"], ["y"], "/softmax", axis=axis)]
    given = [helper.make_tensor_value_info("x", FLOAT, ["N", *shape])]
    made = [helper.make_tensor_value_info("y", FLOAT, ["N", *shape])]
    return assemble(nodes, values, given, made)
