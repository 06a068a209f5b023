"""Damaged and adversarial files: models, data, images and records, made from good ones by seeded mutations.

``run(count, seed, folder)`` opens each of them in a child process with a limit on memory and on processor time, and
says what happened: success, or an `AdabetError`, or one of the outcomes that must not be: another exception, a crash,
too much memory, too much time. As a script: ``python tests/fuzz_files.py COUNT [SEED] [--first NUMBER] [--all]``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import psutil
from google.protobuf.message import DecodeError
from models import tiny
from onnx import AttributeProto, TensorProto, helper, numpy_helper

MEMORY = 1 << 30  # bytes that one file may cost, over what the process has when idle
SECONDS = 10  # of processor time
_PATIENCE = 300  # of the clock, for a process that waits
Rng = np.random.Generator
_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**63), 0, 65536, 10**9)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: ``success``, ``refused`` or something that must not be."""

    number: int
    what: str
    kind: str
    detail: str

    @property
    def good(self) -> bool:
        return self.kind in ("success", "refused")


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
)

# --- mutations of bytes --------------------------------------------------------------------------------------


def _bytes(data: bytes, rng: Rng) -> bytes:
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
        else:  # a large number in protobuf's coding
            changed[at : at + 9] = b"\xff" * 8 + b"\x7f"
    return bytes(changed)


# --- mutations of graphs -------------------------------------------------------------------------------------


def _any(items, rng: Rng):
    return items[int(rng.integers(len(items)))]


def _number(rng: Rng) -> int:
    return int(_any(_HUGE, rng)) if rng.random() < 0.7 else int(rng.integers(-3, 20))


def _dims(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _any(proto.graph.initializer, rng)
    if tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _number(rng)
    else:
        tensor.dims.extend([_number(rng)] * int(rng.integers(1, 4)))


def _data(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _any(proto.graph.initializer, rng)
    tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]


def _type(proto: onnx.ModelProto, rng: Rng) -> None:
    _any(proto.graph.initializer, rng).data_type = int(rng.integers(-1, 30))


def _values(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _any(proto.graph.initializer, rng)
    tensor.raw_data = rng.bytes(len(tensor.raw_data))


def _operator(proto: onnx.ModelProto, rng: Rng) -> None:
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain in ("", "com.microsoft")})
    _any(proto.graph.node, rng).op_type = _any(names, rng)


def _edge(proto: onnx.ModelProto, rng: Rng) -> None:
    """Other inputs: values made later (cycles), an own output, nothing, or something unknown."""
    names = [name for node in proto.graph.node for name in node.output] + ["", "nowhere", "input"]
    names += [tensor.name for tensor in proto.graph.initializer]
    node = _any(proto.graph.node, rng)
    if rng.random() < 0.2:
        node.input.append(_any(names, rng))
    elif node.input:
        node.input[int(rng.integers(len(node.input)))] = _any(names, rng)


def _output(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _any(proto.graph.node, rng)
    node.output[0] = _any([name for other in proto.graph.node for name in (*other.input, *other.output)], rng)


def _attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    nodes = [node for node in proto.graph.node if node.attribute]
    if not nodes:
        return
    node = _any(nodes, rng)
    attribute = _any(node.attribute, rng)
    kind = rng.integers(6)
    if kind == 0:
        attribute.type = int(rng.integers(0, 15))
    elif kind == 1:
        attribute.i = _number(rng)
    elif kind == 2 and attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _number(rng)
    elif kind == 3:
        attribute.ints.extend([_number(rng)] * int(_any((1, 7, 10_000), rng)))
    elif kind == 4:
        attribute.name = _any(("", "axis", "pads", "kernel_shape", "group", "\0", "x" * 10_000), rng)
    else:
        node.attribute.remove(attribute)


def _new_attribute(proto: onnx.ModelProto, rng: Rng) -> None:
    node = _any(proto.graph.node, rng)
    schemas = [schema for schema in onnx.defs.get_all_schemas() if schema.name == node.op_type]
    names = sorted(schemas[0].attributes) if schemas else []
    if names:
        attribute = node.attribute.add(name=_any(names, rng), type=AttributeProto.INT, i=_number(rng))
        if rng.random() < 0.5:
            attribute.type = AttributeProto.INTS
            attribute.ints.extend([_number(rng)] * int(rng.integers(0, 5)))


def _shape(proto: onnx.ModelProto, rng: Rng) -> None:
    value = _any([*proto.graph.input, *proto.graph.output], rng)
    shape = value.type.tensor_type.shape
    if not shape.dim or rng.random() < 0.2:
        shape.dim.add(dim_value=_number(rng))
    elif rng.random() < 0.2:
        del shape.dim[int(rng.integers(len(shape.dim)))]
    else:
        shape.dim[int(rng.integers(len(shape.dim)))].dim_value = _number(rng)


def _elements(proto: onnx.ModelProto, rng: Rng) -> None:
    _any([*proto.graph.input, *proto.graph.output], rng).type.tensor_type.elem_type = int(rng.integers(-1, 30))


def _bomb(proto: onnx.ModelProto, rng: Rng) -> None:
    """A node before the last one's result that asks for any amount of memory or time."""
    many = int(_any((10**6, 10**9, 10**12, 2**62, -1, 0), rng))
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
        length = int(_any((100, 3000), rng))
        for index in range(length):
            end = wanted if index == length - 1 else f"deep{index + 1}"
            proto.graph.node.append(tiny.node("Identity", [f"deep{index}"], [end], f"/deep{index}"))
        return
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "deep/true"))
    made = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    graph = helper.make_graph([tiny.node("Identity", ["deep0"], ["inner"])], "leaf", [], made)
    for _ in range(int(_any((3, 20, 28), rng))):
        body = (
            [tiny.node("If", ["deep/true"], ["inner"], then_branch=graph, else_branch=graph)]
            if rng.random() < 0.05
            else [tiny.node("If", ["deep/true"], ["inner"], then_branch=graph)]
        )
        graph = helper.make_graph(body, "level", [], made)
    proto.graph.node.append(tiny.node("If", ["deep/true"], [wanted], "/deep", then_branch=graph, else_branch=graph))


def _names(proto: onnx.ModelProto, rng: Rng) -> None:
    new = _any(("", "a" * 100_000, "\u202e\u0000", "../../etc/passwd", "[red]", "input"), rng)
    if rng.random() < 0.5:
        _any(proto.graph.node, rng).name = new
        return
    tensor = _any(proto.graph.initializer, rng)
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor.name:
                node.input[index] = new
    tensor.name = new


def _opset(proto: onnx.ModelProto, rng: Rng) -> None:
    version = int(_any((0, 1, 2, 5, 6, 7, 11, 12, 16, 22, 26, 99, -1, 2**62), rng))
    if rng.random() < 0.7:
        proto.opset_import[0].version = version
    else:
        proto.opset_import.append(
            helper.make_opsetid(_any(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "x"), rng), version)
        )


def _ir(proto: onnx.ModelProto, rng: Rng) -> None:
    proto.ir_version = int(_any((0, 1, 2, 3, 4, 12, 13, 99, 2**62), rng))


def _external(proto: onnx.ModelProto, rng: Rng) -> None:
    tensor = _any(proto.graph.initializer, rng)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = _any(
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


def _functions(proto: onnx.ModelProto, rng: Rng) -> None:
    """Functions that call each other, or themselves."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    calls = _any((("f", "g"), ("g", "f"), ("f", "f")), rng)
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
    items = _any(lists, rng)
    items.append(_any(items, rng))


def _remove(proto: onnx.ModelProto, rng: Rng) -> None:
    lists = [proto.graph.node, proto.graph.initializer, proto.graph.input, proto.graph.output]
    items = _any(lists, rng)
    del items[int(rng.integers(len(items)))]


_GRAPHS = (
    _dims, _data, _type, _values, _operator, _operator, _edge, _edge, _output, _attribute, _attribute, _new_attribute,
    _shape, _elements, _bomb, _bomb, _deep, _names, _opset, _ir, _external, _sparse, _functions, _duplicate, _remove,
)  # fmt: skip


def _write_model(folder: Path, rng: Rng) -> tuple[Path, str]:
    path = folder / "model.onnx"
    proto = _any(_MODELS, rng)()
    if rng.random() < 0.3:
        path.write_bytes(_bytes(proto.SerializeToString(), rng))
        return path, "model, bytes"
    done = []
    for _ in range(int(rng.integers(1, 3))):
        change = _any(_GRAPHS, rng)
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


# --- data, images, records -----------------------------------------------------------------------------------


def _npz_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _write_npz(folder: Path, rng: Rng) -> tuple[Path, str]:
    path = folder / "data.npz"
    x, y = rng.random((40, 3, 8, 8), dtype=np.float32), np.arange(40) % 4
    kind = rng.integers(8)
    if kind == 0:
        file = BytesIO()
        np.savez(file, x=x, y=y)
        path.write_bytes(_bytes(file.getvalue(), rng))
    elif kind == 1:  # an archive that says it holds more than there is, or that unpacks to very much
        many = int(_any((10**6, 10**9, 10**15, 2**63), rng))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", _npz_header(f"({many}, 3, 8, 8)") + bytes(1000))
    elif kind == 2:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
            stream.write(_npz_header("(3000000, 3, 8, 8)"))
            for _ in range(300):
                stream.write(bytes(1 << 20))
    elif kind == 3:
        np.savez(path, x=np.array([{"a": 1}, print], object), y=y)
    elif kind == 4:
        x[int(rng.integers(40))] = _any((np.nan, np.inf, -np.inf), rng)
        np.savez(path, x=x, y=y)
    elif kind == 5:
        shapes = ((40,), (40, 0), (0, 3, 8, 8), (40, 3), (40, 3, 8, 9), (40, 1, 1, 1, 1, 3), (2, 3, 8, 8), ())
        np.savez(
            path,
            x=np.zeros(_any(shapes, rng), _any((np.float32, np.complex64, np.uint8, np.int64, "U3", "M8[s]"), rng)),
        )
    elif kind == 6:
        with zipfile.ZipFile(path, "w") as archive:
            descr = _any(("'<f4'", "'|O'", "[('a', '<f4')]", "'<U1000000000'", "{}", "'<f99'"), rng)
            header = _npz_header("(40, 3, 8, 8)").replace(b"'<f4'", descr.encode())
            archive.writestr("x.npy", header + bytes(40 * 3 * 64 * 4))
    else:
        shape = "(" * int(_any((50, 5000), rng)) + "1" + ")" * 50
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", _npz_header(shape[:60000]) + bytes(100))
    return path, f"npz, kind {kind}"


def png(width: int, height: int) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _write_images(folder: Path, rng: Rng) -> tuple[Path, str]:
    from PIL import Image

    images = folder / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(images / name / f"{index}.png")
    victim = images / "a" / "0.png"
    kind = rng.integers(3)
    if kind == 0:
        victim.write_bytes(_bytes(victim.read_bytes(), rng))
    elif kind == 1:
        size = int(_any((10_000, 60_000, 2**31 - 1), rng))
        victim.write_bytes(png(size, size))
    else:
        form = str(_any(("JPEG", "GIF", "BMP", "TIFF", "WEBP"), rng))
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(file, form)
        victim.write_bytes(_bytes(file.getvalue(), rng))
    return images, f"images, kind {kind}"


def _mutated_json(value: object, rng: Rng) -> object:
    other = _any((None, -1, 1e308, "x", [], {}, True, 10**30, "\u0000", [[[]]]), rng)
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = _any(sorted(value), rng)
        return {**value, key: _mutated_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        return [*value[:at], _mutated_json(value[at], rng), *value[at + 1 :]]
    return other


def _write_record(folder: Path, rng: Rng) -> tuple[Path, str]:
    name = str(_any(("scores", "selection"), rng))
    path = folder / f"{name}.json"
    text = (folder.parent / "good" / f"{name}.json").read_text()
    kind = rng.integers(3)
    if kind == 0:
        path.write_bytes(_bytes(text.encode(), rng))
    elif kind == 1:
        path.write_text("[" * int(_any((100, 200_000), rng)))
    else:
        path.write_text(json.dumps(_mutated_json(json.loads(text), rng)))
    return path, f"{name}, kind {kind}"


def make(number: int, seed: int, folder: Path) -> tuple[Path, str]:
    """Write the file of this number; return its path and what was done to it."""
    rng = np.random.default_rng([seed, number])
    share = rng.random()
    if share < 0.7:
        return _write_model(folder, rng)
    return (_write_npz if share < 0.82 else _write_images if share < 0.9 else _write_record)(folder, rng)


# --- running -------------------------------------------------------------------------------------------------


def _open(path: Path, good: Path) -> None:
    from adabet_onnx import open_model, score
    from adabet_onnx.scoring.record import load_scores
    from adabet_onnx.selection.record import load_selection

    if path.name == "scores.json":
        load_scores(path)
    elif path.name == "selection.json":
        load_selection(path)
    elif path.suffix == ".onnx":
        model = open_model(path)
        shape = [int(extent) for extent in model.inputs[0].shape[1:]]
        if len(model.inputs) == 1 and np.prod(shape, dtype=float) <= 10_000:
            x = np.random.default_rng(0).standard_normal((8, *shape)).astype(model.inputs[0].dtype)
            score(model, x, samples=8, subset_size=4, subsets=1, preset="none", threads=1)
    else:
        score(open_model(good), path, samples=16, subset_size=8, subsets=1, preset="unit", threads=1)


def _serve(connection: Connection, good: Path) -> None:
    """Open files one after another and say what happened."""
    warnings.simplefilter("ignore")
    from adabet_onnx import AdabetError

    _open(good, good)  # everything is imported and warm
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    while True:
        path = connection.recv()
        if path is None:
            return
        try:
            _open(path, good)
            connection.send(("success", ""))
        except AdabetError as error:
            told = str(error)
            fine = len(told) < 2000 and "secret" not in told.replace("secret.bin", "")
            connection.send(("refused" if fine else "a long message", told[:300]))
        except MemoryError as error:
            connection.send(("memory", f"{error} {traceback.format_exc(limit=-3)}"))
        except BaseException as error:
            connection.send((type(error).__name__, f"{str(error)[:300]} {traceback.format_exc(limit=-4)}"))


class _Child:
    def __init__(self, good: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, good), daemon=True)
        self.process.start()
        there.close()
        assert self.connection.poll(_PATIENCE)
        assert self.connection.recv() == "ready"
        self._watched = psutil.Process(self.process.pid)

    def open(self, path: Path) -> tuple[str, str]:
        before = self._seconds()
        self.connection.send(path)
        deadline = time.monotonic() + _PATIENCE
        while not self.connection.poll(0.2):
            if not self.process.is_alive():
                return "crash", f"exit code {self.process.exitcode}"
            if self._seconds() - before > SECONDS or time.monotonic() > deadline:
                self.process.kill()
                self.process.join()
                return "time", f"more than {SECONDS} s"
        try:
            kind, detail = self.connection.recv()
        except EOFError:
            self.process.join()
            return "crash", f"exit code {self.process.exitcode}"
        return kind, detail

    def _seconds(self) -> float:
        try:
            times = self._watched.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def stop(self) -> None:
        if self.process.is_alive():
            self.connection.send(None)
            self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def run(count: int, seed: int, folder: Path, *, first: int = 0) -> Iterator[Outcome]:
    """Make and open ``count`` files in ``folder``, one after another."""
    from adabet_onnx import open_model, score, select

    good = folder / "good"
    good.mkdir()
    onnx.save(tiny.conv_net(), good / "model.onnx")
    scores = score(
        open_model(good / "model.onnx"), np.random.default_rng(0).random((32, 3, 8, 8)), samples=32, subsets=2
    )
    scores.save(good / "scores.json")
    select(scores, rho=0.4).save(good / "selection.json")
    work = folder / "work"
    work.mkdir()
    child: _Child | None = None
    for number in range(first, first + count):
        path, what = make(number, seed, work)
        if child is None or not child.process.is_alive():
            child = _Child(good / "model.onnx")
        yield Outcome(number, what, *child.open(path))
    if child is not None:
        child.stop()


def main() -> None:
    """Run, print what must not be and a count of all outcomes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every outcome")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run(given.count, given.seed, Path(folder), first=given.first):
            counts[outcome.kind] += 1
            if given.all or not outcome.good:
                print(outcome.number, outcome.what, "->", outcome.kind, outcome.detail, flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main()
