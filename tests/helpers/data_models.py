"""Models of one layer that take samples of a given shape, and data as it is fed to them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import tiny
from onnx import helper

from adabet_onnx import open_model
from adabet_onnx.data.data import Data
from adabet_onnx.data.feeder import Feeder
from adabet_onnx.data.preprocess import Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.model.open import Model

CLASSES = ["cat", "dog", "eel", "fox"]


def taking(*shape: int, metadata: dict[str, str] | None = None) -> Model:
    """A model that takes samples of this shape: Flatten - Gemm."""
    weight = np.ones((2, int(np.prod(shape))), np.float32)
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], transB=1),
    ]
    proto = tiny.build(nodes, {"fc.weight": weight}, input_shape=("N", *shape), output_shape=("N", 2))
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=value)
    return open_model(proto)


def two_inputs() -> Model:
    """A model of inputs a (N, 4) and b (N, 4): (a + b) W."""
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "ab"]
    out = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["logits"]),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "two", infos, [out], [weight])
    return open_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def fed(
    model: Model,
    data: object,
    preprocessing: Arithmetic | None = None,
    *,
    layout: object = None,
    allow_resize: bool = False,
) -> np.ndarray:
    """The training data as fed to the model's only input."""
    train = open_data(Data(data, layout=layout, allow_resize=allow_resize), model).train
    (array,) = Feeder(model, preprocessing or Arithmetic()).feeds(train, np.arange(len(train))).values()
    return array


@pytest.fixture
def photos(rng) -> np.ndarray:
    """Ten uint8 images (N, H, W, C) of 8 x 6 pixels, no two extents alike."""
    return rng.integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)
