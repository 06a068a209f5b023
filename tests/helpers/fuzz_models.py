"""Good ONNX models, and seeded mutations of their bytes and of their structure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from models import tiny
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Rng = np.random.Generator
_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**63), 0, 65536, 10**9)


# --- good models ---------------------------------------------------------------------------------------------


def _half() -> onnx.ModelProto:
    proto = tiny.conv_net()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return proto


def _quantised() -> onnx.ModelProto:
    proto = tiny.mlp()
    for name in ("hidden.weight", "out.weight"):
        tensor = next(item for item in proto.graph.initializer if item.name == name)
        stored = (numpy_helper.to_array(tensor) * 50).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}_q"))
        scales = {f"{name}_s": np.float32(0.02), f"{name}_z": np.int8(0)}
        proto.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in scales.items())
        dequantise = tiny.node("DequantizeLinear", [f"{name}_q", *scales], [name], f"/{name}/dequantize")
        proto.graph.node.insert(0, dequantise)
    return proto


def _with_if() -> onnx.ModelProto:
    proto = tiny.mlp()
    weight = numpy_helper.from_array(tiny.normal(3, 3), "branch.weight")
    made = [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)]
    yes = helper.make_graph([tiny.node("MatMul", ["l", "branch.weight"], ["branch"])], "yes", [], made, [weight])
    no = helper.make_graph([tiny.node("Identity", ["l"], ["branch"])], "no", [], made)
    proto.graph.node[-1].output[0] = "l"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "choice"))
    proto.graph.node.append(tiny.node("If", ["choice"], ["logits"], "/if", then_branch=yes, else_branch=no))
    return proto


def _in_training() -> onnx.ModelProto:
    """A Dropout in training mode before the last node."""
    proto = tiny.mlp()
    values = {"ratio": np.array(0.5, np.float32), "training": np.array(True)}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    last = proto.graph.node[-1]
    proto.graph.node.insert(len(proto.graph.node) - 1, tiny.node("Dropout", [last.input[0], *values], ["d"], "/drop"))
    last.input[0] = "d"
    return proto


def _computed(proto: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """Weights of a norm and a direction."""
    proto = tiny.mlp() if proto is None else proto
    for name in ("hidden.weight", "out.weight"):
        for node in proto.graph.node:
            for position, given in enumerate(node.input):
                if given == name:
                    node.input[position] = f"{name}/normed"
        proto.graph.node.insert(0, tiny.node("Div", [name, f"{name}/norm"], [f"{name}/normed"], f"/{name}/div"))
        proto.graph.node.insert(0, tiny.node("ReduceL2", [name], [f"{name}/norm"], f"/{name}/norm", axes=[1]))
    return proto


def _with_sparse() -> onnx.ModelProto:
    proto = tiny.mlp()
    _make_sparse(proto, next(tensor for tensor in proto.graph.initializer if tensor.name == "out.weight"))
    return proto


def _make_sparse(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    array = numpy_helper.to_array(tensor)
    places = np.flatnonzero(array)
    sparse = onnx.SparseTensorProto(
        values=numpy_helper.from_array(array.reshape(-1)[places], tensor.name),
        indices=numpy_helper.from_array(places.astype(np.int64), "indices"),
        dims=array.shape,
    )
    proto.graph.initializer.remove(tensor)
    proto.graph.sparse_initializer.append(sparse)


_MODELS: tuple[Callable[[], onnx.ModelProto], ...] = (
    tiny.conv_net,
    lambda: tiny.conv_net(batch=1, softmax=True),
    lambda: tiny.conv_net(opset=9),
    tiny.mlp,
    lambda: tiny.attention("four axes"),
    lambda: tiny.attention("sequence first"),
    _half,
    _quantised,
    _with_if,
    _in_training,
    _computed,
    _with_sparse,
)

# --- mutations of bytes --------------------------------------------------------------------------------------


def damaged(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not changed:
            break
        at = int(rng.integers(len(changed)))
        many = int(rng.integers(1, 40))
        kind = rng.integers(7)
        if kind == 0:
            changed[at] = int(rng.integers(256))
        elif kind == 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + many]
        elif kind == 4:
            changed[at:at] = changed[at : at + many]
        elif kind == 5:
            changed[at:at] = rng.bytes(many)
        else:  # a large number in protobuf encoding
            changed[at : at + 9] = b"\xff" * 8 + b"\x7f"
    return bytes(changed)


# --- mutations of graphs -------------------------------------------------------------------------------------


def pick(items, rng: Rng):
    return items[int(rng.integers(len(items)))]


def _number(rng: Rng) -> int:
    return int(pick(_HUGE, rng)) if rng.random() < 0.7 else int(rng.integers(-3, 20))


def _dims(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(proto.graph.initializer, rng)
    if tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _number(rng)
    else:
        tensor.dims.extend([_number(rng)] * int(rng.integers(1, 4)))


def _data(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(proto.graph.initializer, rng)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _type(proto: onnx.ModelProto, rng: Rng) -> None:
    pick(proto.graph.initializer, rng).data_type = int(rng.integers(-1, 30))


def _values(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(proto.graph.initializer, rng)
    tensor.raw_data = rng.bytes(len(tensor.raw_data))


def _operator(proto: onnx.ModelProto, rng: Rng) -> None:
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain in ("", "com.microsoft")})
    pick(proto.graph.node, rng).op_type = pick(names, rng)


def _edge(proto: onnx.ModelProto, rng: Rng) -> None:
    """Other inputs: later values (cycles), an output of the same node, none, or an unknown one."""
    names = [name for node in proto.graph.node for name in node.output] + ["", "nowhere", "input"]
    names += [tensor.name for tensor in proto.graph.initializer]
    node = pick(proto.graph.node, rng)
    if rng.random() < 0.2:
        node.input.append(pick(names, rng))
    elif node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(names, rng)


def _output(proto: onnx.ModelProto, rng: Rng) -> None:
    node = pick(proto.graph.node, rng)
    node.output[0] = pick([name for other in proto.graph.node for name in (*other.input, *other.output)], rng)


def _attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = [node for node in proto.graph.node if node.attribute]
    if not nodes:
        return
    node = pick(nodes, rng)
    attribute = pick(node.attribute, rng)
    kind = rng.integers(6)
    if kind == 0:
        attribute.type = int(rng.integers(0, 15))
    elif kind == 1:
        attribute.i = _number(rng)
    elif kind == 2 and attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _number(rng)
    elif kind == 3:
        attribute.ints.extend([_number(rng)] * int(pick((1, 7, 10_000), rng)))
    elif kind == 4:
        attribute.name = pick(("", "axis", "pads", "kernel_shape", "group", "\0", "x" * 10_000), rng)
    else:
        node.attribute.remove(attribute)


def _new_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    node = pick(proto.graph.node, rng)
    schemas = [schema for schema in onnx.defs.get_all_schemas() if schema.name == node.op_type]
    names = sorted(schemas[0].attributes) if schemas else []
    if names:
        attribute = node.attribute.add(name=pick(names, rng), type=AttributeProto.INT, i=_number(rng))
        if rng.random() < 0.5:
            attribute.type = AttributeProto.INTS
            attribute.ints.extend([_number(rng)] * int(rng.integers(0, 5)))


def _shape(proto: onnx.ModelProto, rng: Rng) -> None:
    value = pick([*proto.graph.input, *proto.graph.output], rng)
    shape = value.type.tensor_type.shape
    if not shape.dim or rng.random() < 0.2:
        shape.dim.add(dim_value=_number(rng))
    elif rng.random() < 0.2:
        del shape.dim[int(rng.integers(len(shape.dim)))]
    else:
        shape.dim[int(rng.integers(len(shape.dim)))].dim_value = _number(rng)


def _elements(proto: onnx.ModelProto, rng: Rng) -> None:
    pick([*proto.graph.input, *proto.graph.output], rng).type.tensor_type.elem_type = int(rng.integers(-1, 30))


def _bomb(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node before the last one's result that needs any amount of memory or time."""
    many = int(pick((10**6, 10**9, 10**12, 2**62, -1, 0), rng))
    kind = rng.integers(6)
    constants = {"bomb/shape": np.array([many, 4]), "bomb/start": np.array(0), "bomb/end": np.array(many)}
    constants |= {"bomb/step": np.array(1), "bomb/zero": np.zeros(1, np.float32), "bomb/true": np.array(True)}
    value = next((node.output[0] for node in proto.graph.node if node.output), "input")
    nodes = {
        0: [tiny.node("ConstantOfShape", ["bomb/shape"], ["bomb"], "/bomb")],
        1: [tiny.node("Expand", ["bomb/zero", "bomb/shape"], ["bomb"], "/bomb")],
        2: [
            tiny.node("Expand", ["bomb/zero", "bomb/shape"], ["b1"], "/b1"),
            tiny.node("Tile", ["b1", "bomb/shape"], ["bomb"], "/bomb"),
        ],
        3: [
            tiny.node("Range", ["bomb/start", "bomb/end", "bomb/step"], ["b1"], "/b1"),
            tiny.node("Cast", ["b1"], ["bomb"], "/bomb", to=1),
        ],
        4: [tiny.node("Reshape", [value, "bomb/shape"], ["bomb"], "/bomb")],
        5: [tiny.node("Loop", ["bomb/end", "bomb/true"], ["bomb"], "/bomb", body=_endless())],
    }[int(kind)]
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    last = proto.graph.node[-1]
    wanted = last.output[0]
    last.output[0] = "bomb/before"
    nodes += [
        tiny.node("ReduceMean", ["bomb"], ["bomb/mean"], "/bomb/mean", keepdims=0),
        tiny.node("Add", ["bomb/before", "bomb/mean"], [wanted], "/bomb/add"),
    ]
    proto.graph.node.extend(nodes)


def _endless() -> onnx.GraphProto:
    given = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
    ]
    made = [
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("collected", TensorProto.FLOAT, []),
    ]
    body = [tiny.node("Identity", ["go"], ["on"]), tiny.node("Cast", ["i"], ["collected"], to=1)]
    return helper.make_graph(body, "endless", given, made)


def _deep(proto: onnx.ModelProto, rng: Rng) -> None:
    """Subgraphs in subgraphs, or a long chain."""
    last = proto.graph.node[-1]
    wanted = last.output[0]
    last.output[0] = "deep0"
    if rng.random() < 0.5:
        length = int(pick((100, 3000), rng))
        for index in range(length):
            end = wanted if index == length - 1 else f"deep{index + 1}"
            proto.graph.node.append(tiny.node("Identity", [f"deep{index}"], [end], f"/deep{index}"))
        return
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "deep/true"))
    made = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    graph = helper.make_graph([tiny.node("Identity", ["deep0"], ["inner"])], "leaf", [], made)
    for _ in range(int(pick((3, 20, 28), rng))):
        body = (
            [tiny.node("If", ["deep/true"], ["inner"], then_branch=graph, else_branch=graph)]
            if rng.random() < 0.05
            else [tiny.node("If", ["deep/true"], ["inner"], then_branch=graph)]
        )
        graph = helper.make_graph(body, "level", [], made)
    proto.graph.node.append(tiny.node("If", ["deep/true"], [wanted], "/deep", then_branch=graph, else_branch=graph))


def _names(proto: onnx.ModelProto, rng: Rng) -> None:
    new = pick(("", "a" * 100_000, "\u202e\u0000", "../../etc/passwd", "[red]", "input"), rng)
    if rng.random() < 0.5:
        pick(proto.graph.node, rng).name = new
        return
    tensor = pick(proto.graph.initializer, rng)
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor.name:
                node.input[index] = new
    tensor.name = new


def _opset(proto: onnx.ModelProto, rng: Rng) -> None:
    version = int(pick((0, 1, 2, 5, 6, 7, 11, 12, 16, 22, 26, 99, -1, 2**62), rng))
    if rng.random() < 0.7:
        proto.opset_import[0].version = version
    else:
        proto.opset_import.append(
            helper.make_opsetid(pick(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "x"), rng), version)
        )


def _ir(proto: onnx.ModelProto, rng: Rng) -> None:
    proto.ir_version = int(pick((0, 1, 2, 3, 4, 12, 13, 99, 2**62), rng))


def _external(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = pick(proto.graph.initializer, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = pick(
        (
            "weights.bin",
            "../secret.bin",
            "/etc/passwd",
            "",
            "link.bin",
            "a\0b",
            "x" * 5000,
            ".",
            "sub/../../secret.bin",
        ),
        rng,
    )
    for key, value in (("location", location), ("offset", str(_number(rng))), ("length", str(_number(rng)))):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=value)


def _sparse(proto: onnx.ModelProto, rng: Rng) -> None:
    values = numpy_helper.from_array(np.ones(3, np.float32), proto.graph.initializer[0].name)
    indices = numpy_helper.from_array(rng.integers(-5, 10**9, 3), "indices")
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[_number(rng), _number(rng)])
    del proto.graph.initializer[0]
    proto.graph.sparse_initializer.append(sparse)


def _sparse_as_it_is(proto: onnx.ModelProto, rng: Rng) -> None:
    """A tensor converted to sparse form, sometimes with wrong indices or values."""
    tensor = pick([item for item in proto.graph.initializer if item.data_type == TensorProto.FLOAT], rng)
    _make_sparse(proto, tensor)
    made = proto.graph.sparse_initializer[-1]
    kind = rng.integers(6)
    if kind == 0:
        made.indices.raw_data = rng.bytes(len(made.indices.raw_data))
    elif kind == 1:
        made.dims[0] = _number(rng)
    elif kind == 2:
        made.values.data_type = int(rng.integers(0, 24))
    elif kind == 3:
        made.indices.dims.append(_number(rng))


def _branches(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node in the branch of an If, whose condition is a constant, is computed from one, or from the input."""
    at = int(rng.integers(len(proto.graph.node)))
    inner = onnx.NodeProto()
    inner.CopyFrom(proto.graph.node[at])
    outputs = list(inner.output)
    made = [helper.make_tensor_value_info(f"{name}/inside", TensorProto.FLOAT, None) for name in outputs]
    inner.output[:] = [f"{name}/inside" for name in outputs]
    other = [tiny.node("Identity", [pick([*inner.input, "input"], rng)], [name], name) for name in inner.output]
    graphs = [helper.make_graph([inner], "one", [], made), helper.make_graph(other, "other", [], made)]
    if rng.random() < 0.3:
        graphs[0].initializer.append(numpy_helper.from_array(np.ones(3, np.float32), pick(inner.output, rng)))
    condition, before = "branches/true", []
    kind = rng.integers(4)
    if kind == 1:
        condition = "branches/not"
        before = [tiny.node("Not", ["branches/true"], [condition])]
    elif kind == 2:
        condition = "branches/greater"
        before = [
            tiny.node("ReduceMax", [proto.graph.input[0].name], ["branches/most"], keepdims=0),
            tiny.node("Greater", ["branches/most", "branches/zero"], [condition]),
        ]
    elif kind == 3:
        condition = "branches/equal"
        before = [
            tiny.node("Shape", [proto.graph.input[0].name], ["branches/shape"]),
            tiny.node("Gather", ["branches/shape", "branches/one"], ["branches/extent"]),
            tiny.node("Equal", ["branches/extent", "branches/one"], [condition]),
        ]
    values = {"true": np.array(rng.random() < 0.8), "zero": np.float32(0), "one": np.array(1)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), f"branches/{name}") for name, array in values.items()
    )
    branch = tiny.node("If", [condition], outputs, "/branches", then_branch=graphs[0], else_branch=graphs[1])
    del proto.graph.node[at]
    for node in (branch, *reversed(before)):
        proto.graph.node.insert(at, node)


def _chance(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node that gives random numbers, or a Dropout in some mode, before the last one."""
    last = proto.graph.node[-1]
    kind = rng.integers(3)
    if kind == 0:
        made = [tiny.node("RandomNormalLike", [last.input[0]], ["noise"], "/noise")]
        made.append(tiny.node("Add", [last.input[0], "noise"], ["chance"], "/add"))
    elif kind == 1:
        made = [tiny.node("Dropout", [last.input[0]], ["chance", "mask"], "/drop")]
    else:
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.3), "ratio"))
        mode = pick([tensor.name for tensor in proto.graph.initializer] + ["input", "mode"], rng)
        made = [tiny.node("Dropout", [last.input[0], "ratio", mode], ["chance"], "/drop")]
        if mode == "mode":
            proto.graph.input.append(helper.make_tensor_value_info(mode, TensorProto.BOOL, []))
    for node in made:
        proto.graph.node.insert(len(proto.graph.node) - 1, node)
    last.input[0] = "chance"


def _constant_chain(proto: onnx.ModelProto, rng: Rng) -> None:
    """Operators between a weight and what reads it."""
    tensor = pick(proto.graph.initializer, rng)
    name = tensor.name
    for step in range(int(rng.integers(1, 4))):
        made = f"chain/{name}/{step}"
        operator = pick(
            ("Neg", "Exp", "Cast", "Shape", "Size", "NonZero", "Softmax", "Unsqueeze", "ConstantOfShape"), rng
        )
        for node in proto.graph.node:
            for position, given in enumerate(node.input):
                if given == name and not node.name.startswith("/chain"):
                    node.input[position] = made
        more = {"to": int(rng.integers(1, 24))} if operator == "Cast" else {}
        proto.graph.node.insert(step, tiny.node(operator, [name], [made], f"/chain{step}", **more))
        name = made


def _functions(proto: onnx.ModelProto, rng: Rng) -> None:
    """Functions that call each other, or themselves."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    calls = pick((("f", "g"), ("g", "f"), ("f", "f")), rng)
    for name, called in zip(("f", "g"), calls, strict=True):
        body = [tiny.node(called, ["x"], ["y"], domain="local")]
        proto.functions.append(helper.make_function("local", name, ["x"], ["y"], body, imports))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    last = proto.graph.node[-1]
    wanted = last.output[0]
    last.output[0] = "before/function"
    proto.graph.node.append(tiny.node("f", ["before/function"], [wanted], domain="local"))


def _duplicate(proto: onnx.ModelProto, rng: Rng) -> None:
    lists = [proto.graph.node, proto.graph.initializer, proto.graph.input, proto.graph.output]
    items = pick(lists, rng)
    items.append(pick(items, rng))


def _remove(proto: onnx.ModelProto, rng: Rng) -> None:
    lists = [proto.graph.node, proto.graph.initializer, proto.graph.input, proto.graph.output]
    items = pick(lists, rng)
    del items[int(rng.integers(len(items)))]


_GRAPHS = (
    _dims, _data, _type, _values, _operator, _operator, _edge, _edge, _output, _attribute, _attribute, _new_attribute,
    _shape, _elements, _bomb, _bomb, _deep, _names, _opset, _ir, _external, _sparse, _sparse_as_it_is, _branches,
    _branches, _chance, _constant_chain, _functions, _duplicate, _remove,
)  # fmt: skip


def write_model(folder: Path, rng: Rng) -> tuple[Path, str]:
    path = folder / "model.onnx"
    proto = pick(_MODELS, rng)()
    if rng.random() < 0.3:
        path.write_bytes(damaged(proto.SerializeToString(), rng))
        return path, "model, bytes"
    done = []
    for _ in range(int(rng.integers(1, 3))):
        change = pick(_GRAPHS, rng)
        try:
            change(proto, rng)
        except (IndexError, ValueError, TypeError, DecodeError):  # an earlier change left nothing to change
            continue
        done.append(change.__name__.strip("_"))
    (folder / "weights.bin").write_bytes(rng.bytes(3000))
    (folder.parent / "secret.bin").write_bytes(b"secret" * 100)
    link = folder / "link.bin"
    link.unlink(missing_ok=True)
    link.symlink_to("../secret.bin")
    path.write_bytes(proto.SerializeToString())
    return path, f"model, {' and '.join(done)}"
