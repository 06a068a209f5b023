"""From a model and a selection to a trainable graph; and the self-check of the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny
from models.tiny import node, normal
from onnx import helper, numpy_helper

from adabet_onnx import CheckError, RecordError, UsageError, make_artifacts, open_model
from adabet_onnx.model import prepare as prepare_module
from adabet_onnx.model.open import Model
from adabet_onnx.model.passes.unshare import consumers
from adabet_onnx.model.prepare import Prepared, trainable_graph
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training import selfcheck
from adabet_onnx.training.manifest import Manifest


def selecting(model: Model, *layers: str) -> Selection:
    chosen = [model.layer(name) for name in layers]
    names = tuple(dict.fromkeys(parameter.name for layer in chosen for parameter in layer.parameters))
    return Selection(model.sha256, "layers", tuple(layers), names)


def prepared(proto: onnx.ModelProto | str | Path, *layers: str) -> Prepared:
    """Prepare, and check the properties of every trainable graph."""
    model = open_model(proto)
    layers = layers or tuple(layer.name for layer in model.layers)
    before = model.proto().SerializeToString(deterministic=True)
    made = trainable_graph(model, selecting(model, *layers), backend="ort")
    assert model.proto().SerializeToString(deterministic=True) == before
    batch = [normal(3, *(int(extent) for extent in spec.shape[1:]), scale=1.0) for spec in model.inputs]
    expected = tiny.run(model.proto(), *batch, output=model.logits)
    assert tiny.difference(tiny.run(made.graph, *batch), expected) <= 1e-5
    assert tiny.difference(tiny.run(made.original, *batch, output=model.logits), expected) <= 1e-6
    onnx.checker.check_model(made.proto())
    assert set(made.trainable) <= set(made.graph.graph.initializers)
    assert set(made.trainable) <= set(made.original.graph.initializers)
    operators = {item.op_type for item in made.graph.graph}
    assert not operators & {"BatchNormalization", "AveragePool", "Dropout", "Identity"}
    return made


def checked(model: Model, selection: Selection, folder: Path, **options: Any) -> tuple[Manifest, dict[str, Any]]:
    """Artifacts and the result of their check, which runs in this process to be faster."""
    choices = Choices(**options)
    manifest = make_artifacts(model, selection, folder / "artifacts", backend="ort", check=False, choices=choices)
    return manifest, selfcheck.check(manifest)


@pytest.mark.parametrize(
    "layers",
    [(), ("conv1",), ("bn1",), ("conv2", "bn2"), ("bn1", "fc"), ("fc",)],
    ids=lambda layers: "+".join(layers) or "all",
)
def test_logits_and_trainable_names(layers: tuple[str, ...]) -> None:
    proto = tiny.conv_net(softmax=True)
    made = prepared(proto, *layers)
    model = open_model(proto)
    names = [p.name for layer in model.layers for p in layer.parameters if not layers or layer.name in layers]
    assert list(made.trainable) == names
    assert made.inputs == (("input", "input"),)
    assert made.notes == ()


def test_the_final_softmax_goes() -> None:
    made = prepared(tiny.conv_net(softmax=True), "fc")
    assert [value.name for value in made.graph.graph.outputs] == ["scores"]
    assert "Softmax" not in {item.op_type for item in made.graph.graph}
    assert "Softmax" in {item.op_type for item in made.original.graph}  # an export keeps it


def test_layer_normalisation_keeps_the_outputs_it_was_given() -> None:
    made = prepared(tiny.mlp(), "hidden")
    norm = next(item for item in made.graph.graph if item.op_type == "LayerNormalization")
    assert len([value for value in norm.outputs if value.name]) == 3


def test_a_trainable_part_of_a_layer() -> None:
    """A selection may name only some parameters of its layers (norm-bias does)."""
    model = open_model(tiny.conv_net())
    made = trainable_graph(
        model, Selection(model.sha256, "norm-bias", ("bn1", "bn2"), ("bn1.bias", "bn2.bias")), backend="ort"
    )
    assert made.trainable == ("bn1.bias", "bn2.bias")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet20_cifar10_bn", ("blocks.0.conv1",)),
        ("resnet20_cifar10_bn", ()),
        ("mobilenetv1_025_vww96_bn", ("blocks.27.fc",)),
        ("mobilenetv1_025_vww96_folded", ()),
        ("mobilenetv2_035_imagenet128", ()),
        ("resnet20_cifar10_folded", ("blocks.10.fc",)),
    ],
)
def test_real_models(shared: Path, name: str, layers: tuple[str, ...]) -> None:
    prepared(shared / "models" / f"{name}.onnx", *layers)


# --- refusals ------------------------------------------------------------------------------------------------


def test_a_selection_for_another_model_is_refused() -> None:
    model, other = open_model(tiny.conv_net()), open_model(tiny.conv_net(seed=1))
    with pytest.raises(RecordError, match=other.sha256[:12]):
        trainable_graph(model, selecting(other, "fc"), backend="ort")


def test_an_empty_selection_is_refused() -> None:
    model = open_model(tiny.conv_net())
    with pytest.raises(UsageError, match="empty"):
        trainable_graph(model, Selection(model.sha256, "layers", (), ()), backend="ort")
    with pytest.raises(UsageError, match="empty"):
        trainable_graph(model, Selection(model.sha256, "layers", ("fc",), ()), backend="ort")


def test_unknown_names_are_refused() -> None:
    model = open_model(tiny.conv_net())
    with pytest.raises(UsageError, match="nope"):
        trainable_graph(model, Selection(model.sha256, "layers", ("nope",), ("fc.weight",)), backend="ort")
    for parameter in ("nope.weight", "conv1.weight", "bn1.running_mean", "r1"):
        with pytest.raises(UsageError, match=parameter):
            trainable_graph(model, Selection(model.sha256, "layers", ("fc",), ("fc.weight", parameter)), backend="ort")


def test_a_parameter_with_a_reserved_name_is_refused() -> None:
    proto = tiny.build(
        [node("Gemm", ["input", "w_grad"], ["logits"], "fc")], {"w_grad": normal(6, 3)}, input_shape=("N", 6)
    )
    model = open_model(proto)
    with pytest.raises(UsageError, match="w_grad"):
        trainable_graph(model, selecting(model, "fc"), backend="ort")


def test_a_batchnorm_in_training_mode_is_set_to_inference() -> None:
    proto = tiny.conv_net()
    bn = next(item for item in proto.graph.node if item.op_type == "BatchNormalization")
    bn.attribute.append(helper.make_attribute("training_mode", 1))
    bn.output.extend(["m", "v"])
    model = open_model(proto)
    assert any(bn.name in note and "stored statistics" in note for note in model.notes)
    x = normal(5, 3, 8, 8)
    made = trainable_graph(model, selecting(model, "fc"), backend="ort")
    assert tiny.difference(tiny.run(made.graph, x), tiny.run(tiny.conv_net(), x)) <= 1e-5


# --- names and sharing ---------------------------------------------------------------------------------------


def test_an_input_named_labels(training: None, tmp_path: Path) -> None:
    proto = tiny.conv_net()
    proto.graph.input[0].name = "labels"
    proto.graph.node[0].input[0] = "labels"
    made = prepared(proto, "fc")
    assert made.inputs == (("labels", "labels_value"),)
    model = open_model(proto)
    manifest, _ = checked(model, selecting(model, "conv1", "fc"), tmp_path)
    assert manifest.feed_names == [("labels", "labels_value")]


def shared_bias() -> onnx.ModelProto:
    """Three layers that share a zero bias; the two later ones through one Identity."""
    nodes = [
        node("Identity", ["zero"], ["again"], "again"),
        node("Gemm", ["input", "first.weight", "zero"], ["a"], "first"),
        node("Tanh", ["a"], ["t1"], "tanh1"),
        node("Gemm", ["t1", "second.weight", "again"], ["b"], "second"),
        node("Tanh", ["b"], ["t2"], "tanh2"),
        node("Gemm", ["t2", "third.weight", "again"], ["logits"], "third"),
    ]
    values = {f"{name}.weight": normal(5, 5, scale=0.3) for name in ("first", "second", "third")}
    return tiny.build(nodes, {**values, "zero": np.zeros(5, np.float32)}, input_shape=("N", 5))


@pytest.mark.parametrize(("layer", "bias"), [("first", "zero"), ("second", "zero/second/2"), ("third", "zero/third/2")])
def test_only_the_selected_layers_own_bias_is_trained(training: None, tmp_path: Path, layer: str, bias: str) -> None:
    made = prepared(shared_bias(), layer)
    assert made.trainable == (f"{layer}.weight", bias)
    for graph in (made.graph.graph, made.original.graph):
        assert [item.name for item, _ in consumers(graph.initializers[bias])] == [layer]
    model = open_model(shared_bias())
    manifest, found = checked(model, selecting(model, layer), tmp_path)
    assert manifest.parameters == list(made.trainable)
    assert found["changed"] == 2


def test_tied_matrices_are_noted() -> None:
    nodes = [
        node("Gemm", ["input", "tied.weight"], ["a"], "first"),
        node("Tanh", ["a"], ["t"], "tanh"),
        node("Gemm", ["t", "tied.weight"], ["logits"], "second", transB=1),
    ]
    made = prepared(tiny.build(nodes, {"tied.weight": normal(5, 5)}, input_shape=("N", 5)), "second")
    assert made.trainable == ("tied.weight",)
    assert len(made.notes) == 1
    assert "tied.weight" in made.notes[0]


# --- the self-check ------------------------------------------------------------------------------------------


class Nothing(ir.passes.InPlacePass):
    """A pass that was forgotten."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, False)


def same_padded() -> onnx.ModelProto:
    """A strided Conv with auto_pad on an even size: what onnxruntime-training's gradient gets wrong."""
    nodes = [
        node("Conv", ["input", "stem.weight"], ["s"], "stem", strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Relu", ["s"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "fc.weight"], ["logits"], "fc"),
    ]
    return tiny.build(nodes, {"stem.weight": normal(6, 3, 3, 3), "fc.weight": normal(6, 4, scale=1.0)})


def pooled() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["input", "stem.weight"], ["s"], "stem"),
        node("AveragePool", ["s"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "fc.weight"], ["logits"], "fc"),
    ]
    return tiny.build(nodes, {"stem.weight": normal(6, 3, 3, 3), "fc.weight": normal(54, 4)})


FAULTS: dict[str, tuple[str, Callable[[], onnx.ModelProto], tuple[str, ...], str]] = {
    "BatchNormalization left": ("DecomposeBatchNormalization", tiny.conv_net, ("conv1",), "evaluation loss|differ"),
    "frozen BatchNormalization left": ("DecomposeBatchNormalization", tiny.conv_net, ("fc",), "evaluation loss|differ"),
    "auto_pad left": ("ExplicitPads", same_padded, ("stem",), "gradient"),
    "AveragePool left": ("AveragePoolToConv", pooled, ("stem",), "killed its process"),
    "un-sharing left out": ("UnshareVectors", shared_bias, ("second",), "first"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(training: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    forgotten, build, layers, message = FAULTS[fault]
    model = open_model(build())
    _, good = checked(model, selecting(model, *layers), tmp_path)  # no errors
    assert good["outputs"] <= 1e-5
    assert good["gradient"]["error"] <= 0.01
    monkeypatch.setattr(prepare_module, forgotten, Nothing)
    # Missing gradients are rejected before running; here the check itself must find them.
    monkeypatch.setattr("adabet_onnx.training.artifacts.obstacles_to", lambda prepared, backend: None)
    with pytest.raises(CheckError, match=message):
        make_artifacts(model, selecting(model, *layers), tmp_path / "bad", backend="ort")
    assert not (tmp_path / "bad").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts"]


@pytest.mark.slow
def test_a_wrong_rewrite_is_caught(training: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Nothing):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            value = model.graph.initializers["fc.bias"]
            value.const_value = ir.tensor(value.const_value.numpy() + 0.01, name=value.name)
            return ir.passes.PassResult(model, True)

    model = open_model(tiny.conv_net())
    monkeypatch.setattr(prepare_module, "CompleteLayerNormalization", Wrong)
    with pytest.raises(CheckError, match="logits differ"):
        make_artifacts(model, selecting(model, "conv2"), tmp_path / "bad", backend="ort")


@pytest.mark.parametrize("frozen", ["embedded", "checkpoint"])
def test_good_artifacts_pass(training: None, tmp_path: Path, frozen: str) -> None:
    model = open_model(tiny.conv_net(softmax=True))
    _, found = checked(model, selecting(model, "bn1", "conv2", "fc"), tmp_path, frozen=frozen)
    assert found["changed"] == 5
    assert max(found["outputs"], found["loss"], found["after_step"]) <= 1e-5


@pytest.mark.parametrize(("bias", "layers"), [(True, "hidden"), (False, "hidden"), (False, "first"), (True, "out")])
def test_layer_norms_that_share_a_scale(training: None, tmp_path: Path, bias: bool, layers: str) -> None:
    """Without all outputs, a bias and a scale of its own, a LayerNormalization has no gradient.

    (onnxruntime itself merges equal constant vectors of up to 8 elements: then the error says that there is no
    gradient.)
    """
    norm = ["norm.weight", "norm.bias"] if bias else ["norm.weight"]
    nodes = [
        node("MatMul", ["input", "hidden.weight"], ["h"], "hidden"),
        node("LayerNormalization", ["h", *norm], ["n1"], "first", axis=-1),
        node("Tanh", ["n1"], ["t"], "tanh"),
        node("LayerNormalization", ["t", *norm], ["n2"], "second", axis=-1),
        node("MatMul", ["n2", "out.weight"], ["logits"], "out"),
    ]
    values = {"hidden.weight": normal(6, 12), "norm.weight": 1 + normal(12), "out.weight": normal(12, 3)}
    if bias:
        values["norm.bias"] = normal(12)
    proto = tiny.build(nodes, values, input_shape=("N", 6))
    made = prepared(proto, layers)
    model = open_model(proto)
    manifest, _ = checked(model, selecting(model, layers), tmp_path)
    assert manifest.parameters == list(made.trainable)


def test_a_model_of_integer_tokens(training: None, tmp_path: Path) -> None:
    tensors = {"tokens.weight": normal(11, 5, scale=1.0), "fc.weight": normal(5, 3, scale=1.0)}
    nodes = [
        node("Gather", ["tokens.weight", "ids"], ["e"], "embed"),
        node("ReduceMean", ["e"], ["m"], "mean", axes=[1], keepdims=0),
        node("Gemm", ["m", "fc.weight"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 6])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = open_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    manifest, _ = checked(model, selecting(model, "tokens", "fc"), tmp_path)
    assert manifest.parameters == ["tokens.weight", "fc.weight"]
