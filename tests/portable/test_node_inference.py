"""Dtypes and shapes that the builder gives its nodes: those that ONNX shape inference finds, remembered by kind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from adabet_onnx.portable.node_inference import infer_outputs


def value(name, dtype, shape, array=None):
    tensor = None if array is None else ir.tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)


def inferred(op_type, inputs, attributes=None, outputs=1):
    node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs)
    infer_outputs(node, attributes or {}, 17)
    return [(v.dtype, None if v.shape is None else [getattr(d, "value", d) for d in v.shape]) for v in node.outputs]


@pytest.mark.parametrize("turn", ["first", "remembered"])
def test_kinds_that_differ_in_one_thing_are_kept_apart(turn):
    x = value("x", ir.DataType.FLOAT, ["N", 12])
    for target, expected in (([-1, 3, 4], [None, 3, 4]), ([2, -1], [2, None]), ([0, 12], ["N", 12])):
        shape = value("shape", ir.DataType.INT64, [len(target)], np.array(target))
        [(dtype, found)] = inferred("Reshape", [x, shape])
        assert dtype == ir.DataType.FLOAT
        assert found == expected
    assert inferred("Transpose", [x], {"perm": [1, 0]}) == [(ir.DataType.FLOAT, [12, "N"])]
    assert inferred("Transpose", [x], {"perm": [0, 1]}) == [(ir.DataType.FLOAT, ["N", 12])]
    assert inferred("Cast", [x], {"to": 7}) == [(ir.DataType.INT64, ["N", 12])]
    doubles = value("x", ir.DataType.DOUBLE, ["N", 12])
    assert inferred("Relu", [x]) == [(ir.DataType.FLOAT, ["N", 12])]
    assert inferred("Relu", [doubles]) == [(ir.DataType.DOUBLE, ["N", 12])]


def test_inputs_left_out_and_several_outputs():
    x, high = value("x", ir.DataType.FLOAT, [2, 8]), value("high", ir.DataType.FLOAT, [])
    assert inferred("Clip", [x, None, high]) == [(ir.DataType.FLOAT, [2, 8])]
    halves = inferred("Split", [x], {"axis": 1}, outputs=2)
    assert halves == [(ir.DataType.FLOAT, [2, 4])] * 2


def test_an_attribute_that_is_a_tensor():
    shape = value("shape", ir.DataType.INT64, [2], np.array([3, 4]))
    for dtype, array in ((ir.DataType.INT64, np.zeros(1, np.int64)), (ir.DataType.FLOAT, np.ones(1, np.float32))):
        assert inferred("ConstantOfShape", [shape], {"value": ir.tensor(array)}) == [(dtype, [3, 4])]
