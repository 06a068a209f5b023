"""The measurements of the gradient check, and correct gradients that are hard to measure."""

from __future__ import annotations

import numpy as np
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import TensorProto, helper

from adabet_onnx import make_artifacts, open_model
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.exact_loss import exact_loss
from adabet_onnx.training.gradient_check import check_gradients
from adabet_onnx.training.samples import integer_ceilings, sample_feeds, sample_labels


def made(proto, folder, **options):
    model = open_model(proto)
    names = tuple(dict.fromkeys(parameter.name for layer in model.layers for parameter in layer.parameters))
    selection = Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), names)
    backend = options.pop("backend", "portable")
    return make_artifacts(model, selection, folder, check=False, backend=backend, choices=Choices(**options))


def measured(manifest):
    return check_gradients(manifest.session(manifest.initial, threads=1), manifest, 4)


@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.2}, {"loss": "mse"}, {"loss": "l1"}, {"loss": "bce-with-logits"}],
    ids=str,
)
def test_the_exact_loss_is_that_of_the_graphs(tmp_path, options):
    manifest = made(tiny.mlp(), tmp_path / "a", **options)
    session = manifest.session(manifest.initial, threads=1)
    feeds = sample_feeds(manifest, 4, 1)
    labels = sample_labels(manifest, np.zeros((4, 3), np.float32), 1)
    loss, logits = session.evaluate(feeds, labels)
    assert exact_loss(manifest, logits, labels) == pytest.approx(loss, rel=1e-6)


def pruned() -> object:
    """Channels of zeros, so that a Relu sits exactly on its kink; saturated gates; a wide and a tiny weight."""
    values = {"a.weight": normal(8, 3, 3, 3), "a.bias": normal(8), "b.weight": normal(8, 8), "fc.weight": normal(8, 4)}
    values["a.weight"][::2], values["a.bias"][::2] = 0, 0
    values["b.weight"] *= np.float32(30)
    values["fc.weight"] *= np.float32(1e-3)
    nodes = [
        node("Conv", ["input", "a.weight", "a.bias"], ["c"], "/a", pads=[1] * 4),
        node("Relu", ["c"], ["r"], "/relu"),
        node("GlobalAveragePool", ["r"], ["p"], "/pool"),
        node("Flatten", ["p"], ["f"], "/flat"),
        node("Gemm", ["f", "b.weight"], ["g"], "/b"),
        node("Sigmoid", ["g"], ["s"], "/gate"),
        node("Mul", ["f", "s"], ["m"], "/mul"),
        node("Gemm", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    return tiny.build(nodes, values, output_shape=("N", 4))


@pytest.mark.parametrize("backend", ["portable", "ort"])
def test_right_gradients_on_kinks_pass(tmp_path, backend, request):
    if backend == "ort":
        request.getfixturevalue("training")
    manifest = made(pruned(), tmp_path / "a", backend=backend)
    found = measured(manifest)
    assert found["parameters"] == len(manifest.parameters) == 4
    assert found["error"] <= 0.1
    assert found["unmeasured"] == []


def bytes_model() -> object:
    """Bytes to one-hot vectors by Equal, a matrix, and a normalisation over the tokens: near constant for 0 and 1."""
    values = {"all": np.arange(256, dtype=np.int32).reshape(1, 1, 256), "embed.weight": normal(256, 6, scale=0.1)}
    values |= {"norm.scale": 1 + normal(12), "norm.bias": normal(12), "fc.weight": normal(6, 3), "one": np.array([2])}
    nodes = [
        node("Unsqueeze", ["bytes", "one"], ["u"], "/column"),
        node("Equal", ["u", "all"], ["e"], "/equal"),
        node("Cast", ["e"], ["o"], "/cast", to=TensorProto.FLOAT),
        node("MatMul", ["o", "embed.weight"], ["h"], "/embed"),
        node("Transpose", ["h"], ["t"], "/turn", perm=[0, 2, 1]),
        node("LayerNormalization", ["t", "norm.scale", "norm.bias"], ["n"], "/norm"),
        node("ReduceMean", ["n"], ["m"], "/mean", axes=[2], keepdims=0),
        node("MatMul", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    given = [helper.make_tensor_value_info("bytes", TensorProto.INT32, ["N", 12])]
    return tiny.assemble(nodes, values, given, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])])


def test_integers_as_wide_as_the_model_takes_them(tmp_path):
    manifest = made(bytes_model(), tmp_path / "a")
    session = manifest.session(manifest.initial, threads=1)
    labels = np.zeros(4, np.int64)
    assert integer_ceilings(manifest, lambda feeds: session.evaluate(feeds, labels), 4) == {"bytes": 256}
    feeds = sample_feeds(manifest, 4, 0, {"bytes": 256})
    assert feeds["bytes"].max() > 100
    assert measured(manifest)["parameters"] == len(manifest.parameters)


def test_a_small_vocabulary_keeps_integers_small(tmp_path):
    values = {"embed.weight": normal(10, 4, scale=1.0), "fc.weight": normal(4, 3)}
    nodes = [
        node("Gather", ["embed.weight", "tokens"], ["e"], "/embed"),
        node("ReduceMean", ["e"], ["m"], "/mean", axes=[1], keepdims=0),
        node("MatMul", ["m", "fc.weight"], ["logits"], "/fc"),
    ]
    given = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", 6])]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    manifest = made(tiny.assemble(nodes, values, given, [output]), tmp_path / "a")
    session = manifest.session(manifest.initial, threads=1)
    labels = np.zeros(4, np.int64)
    assert integer_ceilings(manifest, lambda feeds: session.evaluate(feeds, labels), 4) == {"tokens": 8}


def test_a_missing_gradient_of_zeros_is_caught(tmp_path):
    """A gradient of length zero has no direction: it is compared relative to the others."""
    import onnx

    from adabet_onnx import CheckError

    manifest = made(tiny.mlp(), tmp_path / "a")
    proto = onnx.load(manifest.file("gradients"))
    maker = next(item for item in proto.graph.node if "hidden.bias.gradient" in item.output)
    maker.output[0] = "right"
    proto.graph.node.append(node("Sub", ["right", "right"], ["hidden.bias.gradient"], "planted"))
    manifest.file("gradients").write_bytes(proto.SerializeToString())
    with pytest.raises(CheckError, match=r"gradient of 'hidden.bias' disagrees .* by the gradient it is 0"):
        measured(manifest)


def test_a_gradient_that_has_no_inverse_in_float32_is_finite(tmp_path):
    values = {name: normal(8, 8) for name in ("a.weight", "b.weight", "c.weight")} | {"fc.weight": normal(8, 4)}
    for name in ("b.weight", "c.weight"):
        values[name] *= np.float32(1e-20)
    names = ["input", "a", "b", "c", "logits"]
    nodes = [
        node("Gemm", [before, weight], [after], f"/{weight}")
        for before, weight, after in zip(names[:-1], values, names[1:], strict=True)
    ]
    nodes[-1].input.append("fc.bias")
    proto = tiny.build(nodes, values | {"fc.bias": normal(4)}, input_shape=("N", 8), output_shape=("N", 4))
    assert measured(made(proto, tmp_path / "a"))["unmeasured"] == []
