"""New heads if the head is not simply the last Gemm or Conv: how it is detected, and what happens to the rest."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import heads, tiny
from models.tiny import node, normal
from onnx import numpy_helper
from torch.nn import functional

from adabet_onnx import ModelError, UsageError, open_model
from adabet_onnx.model.head import new_head
from adabet_onnx.model.open import Model
from adabet_onnx.trainability.decisions import decisions
from adabet_onnx.trainability.preflight import check_model

NEW = 3


def values(model: Model | onnx.ModelProto) -> dict[str, np.ndarray]:
    proto = model.proto() if isinstance(model, Model) else model
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in proto.graph.initializer}


def logits(model: Model, x: np.ndarray) -> np.ndarray:
    return tiny.run(model.graph, x, output=model.logits)


def only_the_head_differs(made: Model, model: Model, *others: str) -> None:
    assert made.head is not None
    own = {parameter.name for parameter in made.head.parameters} | set(others)
    old, new = values(model), values(made)
    for name, array in old.items():
        if array.dtype == np.float32 and array.size > 1 and name not in own and name in new:
            np.testing.assert_array_equal(new[name], array, err_msg=name)


# --- weights behind a Reshape of constants ---------------------------------------------------------------------


def test_a_weight_behind_a_reshape_as_in_mnist_8() -> None:
    model = open_model(heads.cntk())
    made = new_head(model, NEW)
    x = normal(5, 1, 8, 8, scale=1)
    features = tiny.run(model.graph, x, output="features")
    assert made.head is not None
    weight, bias = (values(made)[parameter.name] for parameter in made.head.parameters)
    assert weight.shape == (heads.FEATURES * 4, NEW)
    np.testing.assert_allclose(logits(made, x), features @ weight + bias, rtol=1e-5, atol=1e-6)
    only_the_head_differs(made, model)


@pytest.mark.parametrize("steps", [["Reshape"], ["Unsqueeze", "Squeeze"], ["Transpose", "Reshape"]], ids="-".join)
def test_a_weight_behind_changes_of_shape(steps: list[str]) -> None:
    made_of = {
        "Reshape": lambda a, b: node("Reshape", [a, "shape"], [b], f"n{b}"),
        "Unsqueeze": lambda a, b: node("Unsqueeze", [a, "axes"], [b], f"n{b}"),
        "Squeeze": lambda a, b: node("Squeeze", [a, "axes"], [b], f"n{b}"),
        "Transpose": lambda a, b: node("Transpose", [a], [b], f"n{b}", perm=[1, 0]),
    }
    names = ["w", *(f"w{i}" for i in range(len(steps)))]
    nodes = [made_of[step](names[i], names[i + 1]) for i, step in enumerate(steps)]
    nodes += [node("MatMul", ["input", names[-1]], ["logits"], "fc")]
    start = normal(6, 4) if steps[0] == "Unsqueeze" else normal(2, 12)
    given = {"w": start, "shape": np.array([6, 4]), "axes": np.array([0])}
    model = open_model(tiny.build(nodes, given, input_shape=("N", 6)))
    made = new_head(model, NEW)
    x = normal(5, 6, scale=1)
    weight = values(made)["w"]
    assert weight.shape == (6, NEW)
    np.testing.assert_allclose(logits(made, x), x @ weight, rtol=1e-5)


def test_a_weight_behind_a_reshape_that_another_node_uses_too() -> None:
    nodes = [
        node("Reshape", ["w", "shape"], ["r"], "r"),
        node("MatMul", ["input", "w"], ["b"], "body"),
        node("MatMul", ["b", "r"], ["logits"], "fc"),
    ]
    model = open_model(tiny.build(nodes, {"w": normal(6, 12), "shape": np.array([12, 6])}, input_shape=("N", 6)))
    made = new_head(model, NEW)
    assert made.head is not None
    x = normal(5, 6, scale=1)
    weight = values(made)[made.head.parameters[0].name]
    np.testing.assert_array_equal(values(made)["w"], normal(6, 12))
    np.testing.assert_allclose(logits(made, x), x @ normal(6, 12) @ weight, rtol=1e-5, atol=1e-6)


# --- embeddings, and a head on the outputs -----------------------------------------------------------------------

ENDINGS = ("LpNormalization", "torch", "tensorflow")


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_embedding_is_said_to_be_one(ending: str) -> None:
    model = open_model(heads.embedding(ending))
    x = normal(5, 5, scale=1)
    np.testing.assert_allclose(np.linalg.norm(logits(model, x), axis=1), 1, rtol=1e-5)
    assert any("embedding" in str(decision) and decision.about == "logits" for decision in decisions(model))
    made = new_head(model, NEW)
    assert any("embedding" in note and "`append=True`" in note for note in made.notes)
    assert made.layers[-1].name == "embedding"
    refused = check_model(model).refused["portable"]
    assert refused is not None
    assert "new_head" in refused
    assert check_model(made).refused["portable"] is None
    assert check_model(model, loss="mse").refused["portable"] is None


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_classifier_on_an_embedding(ending: str) -> None:
    model = open_model(heads.embedding(ending))
    made = new_head(model, NEW, append=True)
    assert made.new_head
    assert made.head is not None
    assert made.head.name == "new_head"
    x = normal(5, 5, scale=1)
    weight, bias = values(made)["new_head.weight"], values(made)["new_head.bias"]
    assert weight.shape == (NEW, 6)
    np.testing.assert_allclose(logits(made, x), logits(model, x) @ weight.T + bias, rtol=1e-5, atol=1e-6)
    only_the_head_differs(made, model)
    found = check_model(made)
    assert found.refused["portable"] is None
    assert not found.untrainable


@pytest.mark.parametrize(
    ("shape", "axis"), [(("N", 4), 1), (("N", 5, 4), 2), (("N", 4, 5, 5), 1), (("N", 4, 2, 3, 5), 1)], ids=str
)
def test_a_head_on_outputs_of_any_rank(shape: tuple[str | int, ...], axis: int) -> None:
    extents = [4 if i == axis else 1 for i in range(1, len(shape))]
    nodes = [node("Mul", ["input", "scale"], ["s"], "s"), node("Relu", ["s"], ["r"], "r")]
    nodes += [node("Mul", ["r", "scale2"], ["logits"], "t")]
    proto = tiny.build(
        nodes,
        {"scale": normal(*extents), "scale2": normal(*extents, scale=1)},
        input_shape=shape,
        output_shape=shape,
    )
    model = open_model(proto)
    made = new_head(model, NEW, append=True)
    x = normal(2, *(int(extent) for extent in shape[1:]), scale=1)
    weight = values(made)["new_head.weight"].reshape(NEW, 4) if axis == 1 else values(made)["new_head.weight"].T
    expected = np.moveaxis(np.moveaxis(logits(model, x), axis, -1) @ weight.T, -1, axis)
    np.testing.assert_allclose(logits(made, x), expected, rtol=1e-5, atol=1e-6)


def test_a_head_on_outputs_is_the_remedy_where_the_head_cannot_be_replaced() -> None:
    nodes = [node("Gemm", ["input", "w"], ["m"], "fc"), node("Add", ["m", "input"], ["logits"], "residual")]
    model = open_model(tiny.build(nodes, {"w": normal(6, 6)}, input_shape=("N", 6), output_shape=("N", 6)))
    with pytest.raises(ModelError, match=r"repeats the old number.*`append=True`"):
        new_head(model, NEW)
    made = new_head(model, NEW, append=True)
    assert logits(made, normal(5, 6)).shape == (5, NEW)


def test_a_head_on_one_number_without_an_axis_is_refused() -> None:
    nodes = [node("Gemm", ["input", "w"], ["m"], "fc"), node("Squeeze", ["m", "one"], ["logits"], "squeeze")]
    given = {"w": normal(6, 1), "one": np.array([1])}
    model = open_model(tiny.build(nodes, given, input_shape=("N", 6), output_shape=("N",)))
    with pytest.raises(ModelError, match=r"\(N, C\).*has \(N,\).*logits=\'NAME\'"):
        new_head(model, NEW, append=True)
    named = open_model(tiny.build(nodes, given, input_shape=("N", 6), output_shape=("N",)), logits="m")
    assert logits(new_head(named, NEW, append=True), normal(5, 6)).shape == (5, NEW)


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="`append=True`"):
        new_head(open_model(heads.embedding("torch")), NEW, keep_tail=True, append=True)


# --- graphs in which shape inference fails -----------------------------------------------------------------------


def test_what_inference_does_not_find_is_measured() -> None:
    model = open_model(heads.expanded(node("Identity", ["fc"], ["logits"], "end")))
    made = new_head(model, NEW)
    x = normal(5, 6, scale=1)
    hidden = np.maximum(x @ normal(6, heads.FEATURES, scale=1) + normal(heads.FEATURES), 0)
    np.testing.assert_allclose(logits(made, x), hidden @ values(made)["fc.weight"], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_in_a_run_is_refused() -> None:
    ending = [node("MatMul", ["r", "residual"], ["old"], "old"), node("Mul", ["fc", "old"], ["logits"], "end")]
    model = open_model(heads.expanded(*ending), logits="logits")
    with pytest.raises(ModelError, match="`append=True`"):
        new_head(model, NEW)
    assert logits(new_head(model, NEW, append=True), normal(5, 6)).shape == (5, NEW)


@pytest.mark.slow
def test_a_bert_classifier(tmp_path: Path) -> None:
    """Mean pooling over the attention mask, whose shape cannot be inferred."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        attn_implementation="eager",
    )

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.classifier = torch.nn.Linear(16, 7)

        def forward(self, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=ids, attention_mask=attention).last_hidden_state
            mask = attention.unsqueeze(-1).to(hidden.dtype)
            return self.classifier((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9))

    network = Classifier().eval()
    ids = torch.randint(0, 50, (2, 8))
    attention = torch.ones_like(ids)
    attention[1, 5:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (ids, attention),
            str(tmp_path / "bert.onnx"),
            input_names=["ids", "attention"],
            output_names=["logits"],
            dynamo=False,
            dynamic_axes={"ids": {0: "batch"}, "attention": {0: "batch"}},
        )
    made = new_head(open_model(tmp_path / "bert.onnx"), NEW)
    assert made.head is not None
    weight, bias = (values(made)[parameter.name] for parameter in made.head.parameters)
    weight = weight if weight.shape[0] == NEW else weight.T
    with torch.no_grad():
        network.classifier = torch.nn.Linear(16, NEW)
        network.classifier.weight.copy_(torch.from_numpy(weight))
        network.classifier.bias.copy_(torch.from_numpy(bias))
        expected = network(ids, attention).numpy()
    found = tiny.run(made.graph, ids.numpy(), attention.numpy(), output=made.logits)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- ConvTranspose ----------------------------------------------------------------------------------------------

BILINEAR = np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]).astype(np.float32)


def dense(channels: int) -> np.ndarray:
    weight = np.zeros((channels, channels, 4, 4), np.float32)
    weight[range(channels), range(channels)] = BILINEAR
    return weight


KERNELS = {
    "fixed, a group each": (np.repeat(BILINEAR[None, None], 5, 0), 5, BILINEAR),
    "fixed, in one group": (dense(5), 1, BILINEAR),
    "learned": (normal(5, 5, 4, 4), 1, BILINEAR),
    "learned, a group each": (normal(5, 1, 4, 4), 5, BILINEAR),
    "one channel": (normal(1, 1, 2, 2), 1, normal(1, 1, 2, 2)[0, 0]),
    "learned, 2 x 2": (normal(5, 5, 2, 2), 1, np.ones((2, 2), np.float32)),
}


@pytest.mark.parametrize("case", KERNELS)
def test_the_classifier_before_an_enlarging_conv_transpose_is_the_head(case: str) -> None:
    kernel, groups, expected = KERNELS[case]
    model = open_model(heads.segmentation(kernel, groups))
    assert model.head is not None
    assert model.head.name == "score"
    assert any("up, which enlarges" in decision.because for decision in decisions(model) if decision.about == "head")
    made = new_head(model, NEW)
    assert made.head is not None
    assert made.head.name == "score"
    assert made.new_head
    x = normal(2, 3, 6, 6, scale=1)
    score = torch.from_numpy(tiny.run(made.graph, x, output="score"))
    pads = (kernel.shape[-1] - 2) // 2
    each = torch.from_numpy(np.repeat(expected[None, None], NEW, 0))
    enlarged = functional.conv_transpose2d(score, each, stride=2, padding=pads, groups=NEW)
    np.testing.assert_allclose(logits(made, x), enlarged.numpy(), rtol=1e-5, atol=1e-5)
    only_the_head_differs(made, model, "up.weight", "up.bias")
    assert any("upsamples the new outputs" in note for note in made.notes)


def test_interpolation_is_that_of_torch() -> None:
    made = new_head(open_model(heads.segmentation(normal(5, 5, 4, 4), 1)), NEW)
    x = normal(2, 3, 6, 6, scale=1)
    score = torch.from_numpy(tiny.run(made.graph, x, output="score"))
    expected = functional.interpolate(score, scale_factor=2, mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(logits(made, x)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


def test_enlarged_and_cropped() -> None:
    made = new_head(open_model(heads.segmentation(dense(5), 1, bias=False, crop=True)), NEW)
    assert logits(made, normal(2, 3, 6, 6)).shape == (2, NEW, 8, 8)


def test_a_conv_transpose_that_makes_the_outputs_is_the_head() -> None:
    model = open_model(heads.differentiable_binarisation())
    assert model.head is not None
    assert model.head.name == "map"
    made = new_head(model, NEW)
    x = normal(2, 3, 6, 6, scale=1)
    given = torch.from_numpy(tiny.run(model.graph, x, output="v"))
    weight, bias = torch.from_numpy(values(made)["map.weight"]), values(made)["map.bias"]
    assert weight.shape == (heads.FEATURES, NEW, 2, 2)
    assert bias.shape == (1, NEW, 1, 1)
    expected = functional.conv_transpose2d(given, weight, stride=2)
    np.testing.assert_allclose(logits(made, x), expected.numpy(), rtol=1e-5, atol=1e-5)
    only_the_head_differs(made, model)


# --- fixed steps of a distribution -------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_the_fixed_product_of_a_distribution_is_no_layer(operator: str) -> None:
    model = open_model(heads.distribution(np.arange(16), operator))
    assert [layer.name for layer in model.layers] == ["box"]
    assert model.head is not None
    assert model.head.name == "box"
    [said] = [decision for decision in decisions(model) if decision.about == "fixed steps"]
    assert "dfl" in said.taken_for


def test_a_trained_product_of_a_distribution_is_a_layer() -> None:
    model = open_model(heads.distribution(normal(16)))
    assert [layer.op_type for layer in model.layers] == ["Conv", "Conv"]
    assert not [decision for decision in decisions(model) if decision.about == "fixed steps"]


def test_scores_that_are_summed_and_enlarged_are_pointed_out() -> None:
    """As at the end of FCN-8s: the new outputs are computed from the sum of the old scores."""
    nodes = [
        node("Conv", ["input", "a.weight"], ["a"], "a"),
        node("Conv", ["input", "b.weight"], ["b"], "b"),
        node("Add", ["a", "b"], ["sum"], "sum"),
        node("ConvTranspose", ["sum", "up.weight"], ["logits"], "up", strides=[2, 2]),
    ]
    weights = {"a.weight": normal(5, 3, 1, 1), "b.weight": normal(5, 3, 1, 1), "up.weight": normal(5, 5, 2, 2)}
    model = open_model(tiny.build(nodes, weights, input_shape=("N", 3, 4, 4), output_shape=("N", 5, 8, 8)))
    made = new_head(model, NEW)
    [note] = [note for note in made.notes if "ConvTranspose" in note]
    assert "the head 'up' is a ConvTranspose with 5 input and output channels" in note
    x = normal(2, 3, 4, 4, scale=1)
    summed = torch.tensor(tiny.run(model.graph, x, output="sum"))
    expected = functional.conv_transpose2d(summed, torch.tensor(values(made)["up.weight"]), stride=2)
    np.testing.assert_allclose(logits(made, x), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_sum_of_heads_is_refused_in_one_line_and_the_remedy_works() -> None:
    nodes = [
        node("Gemm", ["input", "a.weight"], ["a"], "a"),
        node("Gemm", ["input", "b.weight"], ["b"], "b"),
        node("Add", ["a", "b"], ["sum"], "sum"),
        node("Div", ["sum", "two"], ["logits"], "mean"),
    ]
    weights = {"a.weight": normal(6, 4), "b.weight": normal(6, 4), "two": np.float32([2])}
    model = open_model(tiny.build(nodes, weights, input_shape=("N", 6), output_shape=("N", 4)))
    with pytest.raises(ModelError, match="`append=True`") as raised:
        new_head(model, NEW)
    assert "\n" not in str(raised.value)
    made = new_head(model, NEW, append=True)
    assert logits(made, normal(2, 6)).shape == (2, NEW)
