"""Hostile files end in a clear error: no crash, no excessive memory or time, nothing read outside the folder."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import fuzz_files
import numpy as np
import onnx
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import DataError, ModelError, open_model
from adabet_onnx.data.source import open_data

SECRET = b"a secret that is not the model's" * 40


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_damaged_files(tmp_path: Path) -> None:
    """Seeded mutations, in a child process with limits (see fuzz_files.py)."""
    bad = [outcome for outcome in fuzz_files.run(200, 1, tmp_path) if not outcome.good]
    assert bad == []


# --- nothing outside the folder ------------------------------------------------------------------------------


def external(tensor: onnx.TensorProto, location: str, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def hidden_tensor(where: str, location: str) -> onnx.ModelProto:
    """A model with one external tensor, in some corner of the file."""
    proto = tiny.mlp()
    weight = numpy_helper.from_array(np.zeros((3, 3), np.float32), "hidden")
    external(weight, location, 36)
    last = proto.graph.node[-1]
    if where == "initializer":
        old = next(tensor for tensor in proto.graph.initializer if tensor.name == "out.weight")
        size = len(old.raw_data)
        external(old, location, size)
        return proto
    if where == "training":
        proto.training_info.add().initialization.initializer.append(weight)
        return proto
    last.output[0] = "before"
    if where == "attribute":
        proto.graph.node.append(node("Constant", [], ["hidden"], "/hidden", value=weight))
        proto.graph.node.append(node("MatMul", ["before", "hidden"], ["logits"], "/last"))
    elif where == "subgraph":
        made = [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)]
        body = helper.make_graph([node("MatMul", ["before", "hidden"], ["branch"])], "yes", [], made, [weight])
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "choice"))
        proto.graph.node.append(node("If", ["choice"], ["logits"], "/if", then_branch=body, else_branch=body))
    elif where == "function":
        body = [node("Constant", [], ["w"], value=weight), node("MatMul", ["x", "w"], ["y"])]
        imports = [helper.make_opsetid("", 17)]
        proto.functions.append(helper.make_function("local", "f", ["x"], ["y"], body, imports))
        proto.opset_import.append(helper.make_opsetid("local", 1))
        proto.graph.node.append(node("f", ["before"], ["logits"], domain="local"))
    else:
        indices = numpy_helper.from_array(np.arange(9), "indices")
        weight.dims[:] = [9]
        proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=weight, indices=indices, dims=[3, 3]))
        proto.graph.node.append(node("MatMul", ["before", "hidden"], ["logits"], "/last"))
    return proto


CORNERS = ("initializer", "attribute", "subgraph", "function", "sparse", "training")


@pytest.mark.parametrize("location", ["../secret.bin", "absolute", "link.bin", "folder/../../secret.bin"])
@pytest.mark.parametrize("where", CORNERS)
def test_external_data_outside_is_not_read(tmp_path: Path, where: str, location: str) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(SECRET)
    (folder / "link.bin").symlink_to("../secret.bin")
    there = str(tmp_path / "secret.bin") if location == "absolute" else location
    (folder / "model.onnx").write_bytes(hidden_tensor(where, there).SerializeToString())
    with pytest.raises(ModelError, match=r"outside the model's folder"):
        open_model(folder / "model.onnx")


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "-4"), ("offset", "9000000000"), ("length", "9000000000"), ("length", "x")]
)
def test_external_data_that_is_not_there(tmp_path: Path, key: str, value: str) -> None:
    proto = hidden_tensor("initializer", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    tensor = next(item for item in proto.graph.initializer if item.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"external data cannot be read.*Copy it again"):
        open_model(tmp_path / "model.onnx")


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[2**40, 2**40], [4, -2], [4, 9], [2**63 - 1], []], ids=str)
def test_a_weight_whose_shape_does_not_fit_its_data(dims: list[int]) -> None:
    proto = tiny.conv_net()
    next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight").dims[:] = dims
    with pytest.raises(ModelError, match=r"'fc\.weight' has the shape"):
        open_model(proto)


@pytest.mark.parametrize("how", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_a_few_bytes_that_ask_for_gigabytes(how: str) -> None:
    shape = np.array([100_000, 1_000_000])
    nodes = {
        "ConstantOfShape": [node("ConstantOfShape", ["shape"], ["big"], "/big")],
        "Expand": [node("Expand", ["one", "shape"], ["big"], "/big")],
        "Tile": [node("Tile", ["row", "shape"], ["big"], "/big")],
        "Range": [node("Range", ["start", "end", "step"], ["long"], "/long"), node("Cast", ["long"], ["big"], to=1)],
    }[how]
    nodes += [
        node("ReduceMean", ["big"], ["mean"], "/mean", keepdims=0),
        node("Gemm", ["input", "fc.weight"], ["g"], "/fc"),
        node("Add", ["g", "mean"], ["logits"], "/add"),
    ]
    values = {"shape": shape, "one": np.ones(1, np.float32), "row": np.ones((1, 1), np.float32)}
    values |= {"start": np.array(0), "end": np.array(10**12), "step": np.array(1), "fc.weight": normal(6, 3)}
    with pytest.raises(ModelError, match="bytes"):
        open_model(tiny.build(nodes, values, input_shape=("N", 6)))


@pytest.mark.parametrize(
    ("made", "weights", "dimensions"),
    [
        (node("Conv", ["input", "w"], ["y"], "/bad"), {"w": normal(6, 3, 3, 3)}, 4),
        (node("ConvTranspose", ["input", "w"], ["y"], "/bad"), {"w": normal(3, 6, 3, 3)}, 4),
        (node("MaxPool", ["input"], ["y"], "/bad", kernel_shape=[2, 2]), {}, 4),
        (node("AveragePool", ["input"], ["y"], "/bad", kernel_shape=[2]), {}, 3),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
@pytest.mark.parametrize("shape", [("N", 8), ("N", 8, 8, 8, 8), ("N", 3, 8), ("N", 3, 8, 8)])
def test_kernels_of_other_ranks(made: onnx.NodeProto, weights: dict, dimensions: int, shape: tuple) -> None:
    """onnxruntime aborts the process when it loads some of these, which cannot be caught."""
    nodes = [
        made,
        node("Flatten", ["y"], ["flat"], "/flat"),
        node("ReduceMean", ["flat"], ["m"], "/mean", axes=[1]),
        node("Gemm", ["m", "fc"], ["logits"], "/fc"),
    ]
    proto = tiny.build(nodes, weights | {"fc": normal(1, 3)}, input_shape=shape, output_shape=("N", 3))
    if len(shape) == dimensions:
        open_model(proto)
        return
    with pytest.raises(ModelError, match=f"'/bad' .* {dimensions} dimensions.* has {len(shape)}"):
        open_model(proto)


@pytest.mark.parametrize(("trips", "error"), [(10**9, "1000000000 trips"), (10**6, "1000000 trips"), (5, None)])
def test_a_loop_that_collects_without_end(trips: int, error: str | None) -> None:
    given = [("i", TensorProto.INT64), ("on", TensorProto.BOOL)]
    made = [("go", TensorProto.BOOL), ("collected", TensorProto.FLOAT)]
    body = helper.make_graph(
        [node("Identity", ["on"], ["go"]), node("Cast", ["i"], ["collected"], to=TensorProto.FLOAT)],
        "body",
        *([helper.make_tensor_value_info(name, kind, []) for name, kind in values] for values in (given, made)),
    )
    nodes = [
        node("Loop", ["trips", "true"], ["loop"], "/loop", body=body),
        node("ReduceMean", ["loop"], ["mean"], "/mean", keepdims=0),
        node("Gemm", ["input", "fc.weight"], ["g"], "/fc"),
        node("Add", ["g", "mean"], ["logits"], "/add"),
    ]
    values = {"trips": np.array(trips), "true": np.array(True), "fc.weight": normal(6, 3)}
    proto = tiny.build(nodes, values, input_shape=("N", 6))
    if error is None:
        assert [layer.name for layer in open_model(proto).layers] == ["fc"]
        return
    with pytest.raises(ModelError, match=error):
        open_model(proto)


def test_functions_that_call_themselves() -> None:
    proto = tiny.mlp()
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    body = [node("f", ["x"], ["y"], domain="local")]
    proto.functions.append(helper.make_function("local", "f", ["x"], ["y"], body, imports))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(node("f", ["before"], ["logits"], domain="local"))
    with pytest.raises(ModelError):
        open_model(proto)


@pytest.mark.parametrize("where", ["node", "comment", "graph", "input", "attribute"])
def test_names_and_comments_that_are_no_text(tmp_path: Path, where: str) -> None:
    proto = tiny.conv_net()
    if where == "node":
        proto.graph.node[0].name = "damaged"
    elif where == "comment":
        proto.graph.node[0].doc_string = "damaged"
    elif where == "graph":
        proto.graph.name = "damaged"
    elif where == "input":
        proto.graph.input[0].doc_string = "damaged"
    else:
        proto.graph.node[0].attribute.append(helper.make_attribute("damaged" + "d" * 9000, 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"damaged", b"\xffamaged"))
    with pytest.raises(ModelError, match="is not a valid ONNX model") as caught:
        open_model(path)
    assert len(str(caught.value)) < 600 + len(str(path))


# --- data ----------------------------------------------------------------------------------------------------


def archive(path: Path, shape: str, content: bytes) -> Path:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return path


@pytest.mark.parametrize("count", [10**6, 10**12, 2**63])
def test_an_npz_that_says_it_holds_more(tmp_path: Path, count: int) -> None:
    path = archive(tmp_path / "x.npz", f"({count}, 3, 8, 8)", bytes(1000))
    with pytest.raises(DataError, match=r"x should be float32 .*but holds 1000 bytes"):
        open_data(path, open_model(tiny.conv_net()))


def test_an_npz_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    from adabet_onnx.data import npz

    path = archive(tmp_path / "x.npz", "(40, 3, 8, 8)", bytes(4 * 40 * 192))
    assert len(open_data(path, open_model(tiny.conv_net())).train) == 40
    free = psutil.virtual_memory()._replace(available=30_000)
    monkeypatch.setattr(npz.psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match=r"unpacks to 30\.7 KB, more than the 30 KB of free memory"):
        open_data(path, open_model(tiny.conv_net()))


def test_an_image_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "0.png").write_bytes(fuzz_files.png(60_000, 60_000))
    data = open_data(tmp_path / "images", open_model(tiny.conv_net())).train
    with pytest.raises(DataError, match=r"0\.png cannot be read as an image"):
        data.rows.fetch(np.arange(1))
