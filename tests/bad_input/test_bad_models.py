"""Bad models: the right exit code, one clear message, nothing half-written (see bad_inputs.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_inputs import FAILURE, RANDOM, USAGE, Case, cases, changed, cut, saved, write
from models import tiny
from onnx import TensorProto, helper, numpy_helper

from adabet_onnx import check_model


def tensors(proto: onnx.ModelProto, **arrays: np.ndarray) -> None:
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())


def computed_scale(proto: onnx.ModelProto) -> None:
    """A weight whose scale comes from the data."""
    tensors(proto, stored=np.zeros((4, 8), np.int8))
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight")
    proto.graph.initializer.remove(weight)
    at = len(proto.graph.node) - 1
    proto.graph.node.insert(at, helper.make_node("ReduceMax", ["flat"], ["scale"], "/scale", keepdims=0))
    proto.graph.node.insert(
        at + 1, helper.make_node("DequantizeLinear", ["stored", "scale"], ["fc.weight"], "/dequantize")
    )


def quantised_qlinear(proto: onnx.ModelProto) -> None:
    conv = proto.graph.node[0]
    conv.op_type = "QLinearConv"


def domain(name: str, operator: str) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].op_type, proto.graph.node[-1].domain = operator, name
        proto.opset_import.append(helper.make_opsetid(name, 1))

    return change


def second_output(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "first"
    proto.graph.output.append(helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["N", 8, 8, 8]))


def argmax(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(helper.make_node("ArgMax", ["logits"], ["answer"], axis=1))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("answer", TensorProto.INT64, ["N", 1]))


def no_layers() -> onnx.ModelProto:
    nodes = [helper.make_node("GlobalAveragePool", ["input"], ["p"]), helper.make_node("Flatten", ["p"], ["logits"])]
    return tiny.build(nodes, {}, output_shape=("N", 3))


def unknown_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "h", "w"]))


def no_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, None))


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].input[0] = "nowhere"


def bad_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(helper.make_attribute("wobble", 3))


def wrong_weight(proto: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((4, 9), np.float32), "fc.weight"))


def external(location: str | None = None, spoil: Callable[[], Any] | None = None) -> Callable[[], Any]:
    def make() -> None:
        proto = tiny.conv_net()
        onnx.save(proto, "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
        if location is not None:
            proto = onnx.load("bad.onnx", load_external_data=False)
            for tensor in proto.graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = location
            Path("bad.onnx").write_bytes(proto.SerializeToString())
        if spoil is not None:
            spoil()

    return make


def ort_format() -> None:
    Path("bad.onnx").write_bytes(b"\x14\x00\x00\x00ORTM" + bytes(200))


def zip_archive() -> None:
    np.savez("bad", a=np.zeros(3))
    Path("bad.npz").rename("bad.onnx")


INSPECT = "inspect bad.onnx"


@cases(
    Case("missing", "inspect nothing.onnx", USAGE, ("nothing.onnx", "does not exist")),
    Case("folder", "inspect .", USAGE, ("'.'", "is a directory")),
    Case("empty", INSPECT, FAILURE, ("bad.onnx", "empty", "Export or copy"), write("bad.onnx", b"")),
    Case("truncated", "inspect model.onnx", FAILURE, ("model.onnx", "cut short"), cut("model.onnx")),
    Case("random bytes", INSPECT, FAILURE, ("bad.onnx", "not a readable ONNX file"), write("bad.onnx", RANDOM)),
    Case("text", INSPECT, FAILURE, ("bad.onnx", "not a readable ONNX"), write("bad.onnx", b"Dear reader,\n" * 9)),
    Case("zip", INSPECT, FAILURE, ("bad.onnx", "zip archive", "PyTorch", "Export"), zip_archive),
    Case("pickle", INSPECT, FAILURE, ("bad.onnx", "pickle", "Export"), write("bad.onnx", b"\x80\x02}q\x00.")),
    Case("ort format", INSPECT, FAILURE, ("bad.onnx", "ORT-format", "give that file"), ort_format),
    Case("lfs", INSPECT, FAILURE, ("git lfs pull",), write("bad.onnx", b"version https://git-lfs.github.com/spec/v1")),
    Case("no graph", INSPECT, FAILURE, ("bad.onnx", "no ONNX graph"), saved(lambda: onnx.ModelProto(ir_version=8))),
    Case("qlinear", INSPECT, FAILURE, ("bad.onnx", "QLinearConv"), changed(quantised_qlinear)),
    Case("rescaled", INSPECT, FAILURE, ("quantised", "'/dequantize'", "float32 model"), changed(computed_scale)),
    Case(
        "fused",
        INSPECT,
        FAILURE,
        ("com.microsoft.LongformerAttention", "'/fc'", "optimised", "originally exported model"),
        changed(domain("com.microsoft", "LongformerAttention")),
    ),
    Case(
        "custom domain",
        INSPECT,
        FAILURE,
        ("ai.example.Head", "'/fc'", "standard operators"),
        changed(domain("ai.example", "Head")),
    ),
    Case(
        "two outputs",
        INSPECT,
        FAILURE,
        ("2 outputs", "'first' (float [N, 4]), 'r2' (float [N, 8, 8, 8])", "import bad.onnx"),
        changed(second_output),
    ),
    Case("integer output", INSPECT, FAILURE, ("'answer' is int64", "float32", "ArgMax", "--logits"), changed(argmax)),
    Case("no layers", INSPECT, FAILURE, ("bad.onnx has no layer",), saved(no_layers)),
    Case(
        "unknown size",
        INSPECT,
        FAILURE,
        ("dimension h of input 'input'", "Fix all", "--dim h=SIZE --dim w=SIZE"),
        changed(unknown_size),
    ),
    Case("no shape", INSPECT, FAILURE, ("bad.onnx", "shape", "Export"), changed(no_shape)),
    Case("dangling input", INSPECT, FAILURE, ("bad.onnx", "not a valid ONNX", "nowhere"), changed(dangling)),
    Case("unknown attribute", INSPECT, FAILURE, ("not a valid ONNX", "wobble"), changed(bad_attribute)),
    Case("shapes do not fit", INSPECT, FAILURE, ("bad.onnx", "Export"), changed(wrong_weight)),
    Case("no opset", INSPECT, FAILURE, ("bad.onnx", "opset"), changed(lambda proto: proto.ClearField("opset_import"))),
    Case(
        "no external data",
        INSPECT,
        FAILURE,
        ("'weights.bin' is missing", "beside the model"),
        external(spoil=lambda: Path("weights.bin").unlink()),
    ),
    Case(
        "external data outside",
        INSPECT,
        FAILURE,
        ("'../weights.bin' lies (or is a link to) outside",),
        external("../weights.bin"),
    ),
    Case(
        "external data absolute",
        INSPECT,
        FAILURE,
        ("'/etc/passwd' lies (or is a link to) outside",),
        external("/etc/passwd"),
    ),
    Case(
        "external data truncated",
        INSPECT,
        FAILURE,
        ("bad.onnx", "external data", "again"),
        external(spoil=cut("weights.bin")),
    ),
    Case("score", "score bad.onnx data.npz -o out.json", FAILURE, ("bad.onnx", "empty"), write("bad.onnx", b"")),
    Case("surgery", "surgery bad.onnx --outputs gram -o out.onnx", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("new head", "new-head bad.onnx --num-classes 3 -o out.onnx", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("evaluate", "evaluate bad.onnx data.npz", FAILURE, ("empty",), write("bad.onnx", b"")),
    Case("predict", "predict bad.onnx data.npz", FAILURE, ("empty",), write("bad.onnx", b"")),
)
def test_models(case, refused):
    if case.spoil is not None:
        case.spoil()
    refused(case.command, case.code, *case.words)


@pytest.mark.parametrize("command", ["artifacts bad.onnx selection.json -o out", "run bad.onnx data.npz -o out"])
def test_models_to_train(command, refused):
    write("bad.onnx", RANDOM)()
    refused(command, FAILURE, "bad.onnx", "not a readable ONNX file")


def test_a_model_cut_anywhere_is_refused_or_read(refused, work):
    """Protocol buffers have no checksum: a cut may fall between fields, but must never cause an internal error."""
    whole = Path("model.onnx").read_bytes()
    for length in range(1, len(whole), len(whole) // 25):
        Path("bad.onnx").write_bytes(whole[:length])
        refused(INSPECT, FAILURE, "bad.onnx")


def test_a_call_that_does_not_fit_is_not_the_models_fault():
    with pytest.raises(TypeError, match=r"^check_model\(\) got an unexpected keyword argument 'los'"):
        check_model(tiny.conv_net(), los="mse")
    with pytest.raises(TypeError, match=r"^check_model\(\) missing a required argument: 'model'"):
        check_model()
