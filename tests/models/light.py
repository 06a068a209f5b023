"""Full-size architectures for tests, without a download: the *light* models that the onnx package carries.

A light model is a published network (ResNet-50, VGG-19, ...) whose weights were replaced by constants, so
that the file is small. Run as shipped, those constants overflow or give every input the same output.
`light_model` keeps the architecture and draws sane random weights instead.

The draw needs no forward pass. While it walks the nodes in order it carries an estimate of each value's
second moment, E[x^2]: a He-normal convolution doubles it, a ReLU halves it (unless a shortcut keeps its input
mostly positive), a sum adds. A BatchNormalization takes the estimate of its input as its running variance,
so activations stay O(1) at any depth.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_SIGNED = ("Conv", "Gemm", "BatchNormalization")  # as often negative as positive

_Arrays = dict[str, npt.NDArray[np.generic]]
_Shapes = dict[str, tuple[int, ...]]


def light_model(name: str, *, seed: int = 0) -> onnx.ModelProto:
    """Return a light model with random weights and a dynamic batch dimension.

    Parameters
    ----------
    name
        `name` in `light_{name}.onnx`: `"resnet50"`, `"squeezenet"`, `"inception_v1"`, `"vgg19"`, ...
    seed
        Seed of the weights. The same name and seed give the same bytes.

    Returns
    -------
    onnx.ModelProto
        Opset 9 as shipped. Its only input is the images, `("N", 3, 224, 224)`; weights are initializers.

    Raises
    ------
    ValueError
        If the installed onnx package has no such light model.
    """
    path = _FOLDER / f"light_{name}.onnx"
    if not path.is_file():
        known = sorted(p.stem.removeprefix("light_") for p in _FOLDER.glob("light_*.onnx"))
        raise ValueError(f"onnx {onnx.__version__} has no light model {name!r}; it has {', '.join(known)}.")
    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = _weight_shapes(graph, stored)
    weights = _draw(graph, shapes, np.random.default_rng(seed))

    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {value for node in nodes for value in node.input}
    kept = {key: array for key, array in stored.items() if key in used and key not in weights}
    for node in nodes:
        if node.op_type == "Reshape" and node.input[0] not in weights:
            target = kept[node.input[1]].copy()
            target[0] = 0  # copy the batch dimension of the input, which is 1 in the file
            kept[node.input[1]] = target
    images = [value for value in graph.input if value.name in used and value.name not in shapes | stored]
    for value in (*images, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"

    tensors = [numpy_helper.from_array(array, key) for key, array in (kept | weights).items()]
    for field, content in (("node", nodes), ("input", images), ("initializer", tensors), ("value_info", [])):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    model.ir_version = max(model.ir_version, 4)  # from 4 on, an initializer need not be a graph input
    onnx.checker.check_model(model)
    return model


def _weight_shapes(graph: onnx.GraphProto, stored: _Arrays) -> _Shapes:
    """Return the shape of each float weight: some are stored, the others are made by ConstantOfShape."""
    shapes = {key: array.shape for key, array in stored.items() if array.dtype == np.float32}
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(int(size) for size in stored[node.input[0]])
    return shapes


def _draw(graph: onnx.GraphProto, shapes: _Shapes, rng: np.random.Generator) -> _Arrays:
    """Draw each weight by its role in the node that uses it, following the activations' second moments."""
    weights: _Arrays = {}
    source = {key: key for key in shapes}  # a value that is a weight, maybe reshaped -> that weight
    moment: dict[str, float] = {}
    positive: set[str] = set()  # values that are mostly positive

    def normal(value: str, std: float) -> None:
        weights[source[value]] = std * rng.standard_normal(shapes[source[value]], dtype=np.float32)

    def near_one(value: str, size: float = 1.0) -> None:
        weights[source[value]] = (size * rng.uniform(0.8, 1.2, shapes[source[value]])).astype(np.float32)

    for node in graph.node:
        data, params = node.input[0], node.input[1:]
        if node.op_type in ("Reshape", "Unsqueeze") and data in source:
            source[node.output[0]] = source[data]
            continue
        before = after = moment.get(data, 1.0)
        if node.op_type in ("Conv", "Gemm"):
            fan_in = int(np.prod(shapes[source[params[0]]][1:]))  # Gemm: transB = 1 in all
            normal(params[0], float(np.sqrt(2.0 / fan_in)))
            for bias in params[1:]:
                normal(bias, 0.1)
            after = 2.0 * before
        elif node.op_type == "BatchNormalization":  # params: scale, bias, mean, variance
            near_one(params[0])
            normal(params[1], 0.1)
            normal(params[2], 0.1 * float(np.sqrt(before)))
            near_one(params[3], before)
            after = 1.0
        elif node.op_type == "Mul":  # the learned scale and bias of a Caffe BatchNormalization
            near_one(params[0])
        elif node.op_type == "Add":
            normal(params[0], 0.1)
        elif node.op_type == "Relu":
            after = before if data in positive else before / 2.0
        elif node.op_type == "Sum":
            after = sum(moment.get(value, 1.0) for value in node.input)
        moment[node.output[0]] = after
        if node.op_type == "Relu" or (node.op_type not in _SIGNED and not positive.isdisjoint(node.input)):
            positive.add(node.output[0])
    return weights
