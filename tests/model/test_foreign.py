"""Valid files that are not networks, or changed after export: read if that is exact, else rejected with the reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import fused
from models.tiny import build, node, normal, run
from onnx import helper

from adabet_onnx import ModelError, check_model, open_model

pytestmark = pytest.mark.usefixtures("checked_here")
X = normal(4, 5, 6, scale=1.0)
IMAGES = normal(4, 3, 8, 8, scale=1.0)


def domains(model) -> set[str]:
    return {item.domain for item in model.graph.graph.all_nodes()}


def optimised(proto, folder, level: str, **entries: str):
    """The path of the file that onnxruntime writes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    path = folder / "optimised.onnx"
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return path


# --- optimised by ONNX Runtime -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fused.CASES)
def test_a_fused_operator_is_taken_apart(name):
    proto = fused.model(name)
    model = open_model(proto)
    assert domains(model) == {""}
    np.testing.assert_allclose(run(model.proto(), X), run(proto, X), rtol=1e-5, atol=1e-5)
    assert any("optimised by ONNX Runtime" in note and proto.graph.node[-3].op_type in note for note in model.notes)
    assert all(layer.portable.trainable for layer in check_model(model).layers)


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_a_file_that_onnxruntime_optimised_opens(level, tmp_path):
    proto = fused.network()
    path = optimised(proto, tmp_path, level)
    kinds = {item.op_type for item in onnx.load(path).graph.node if item.domain == "com.microsoft"}
    assert (kinds >= {"FusedConv", "FusedGemm"}) == (level == "ORT_ENABLE_EXTENDED")
    model = open_model(path)
    assert domains(model) == {""}
    np.testing.assert_allclose(run(model.proto(), IMAGES), run(proto, IMAGES), rtol=1e-5, atol=1e-5)
    assert [len(layer.parameters) for layer in model.layers] == [2, 1, 1, 1, 2, 2, 2]
    assert [layer.name for layer in model.layers][:4] == ["c1", "c2", "c3", "c4"]


def foreign(op_type: str, domain: str, inputs=("input",), **attributes) -> onnx.ModelProto:
    """A node of some domain, and a head."""
    proto = build(
        [
            node("Flatten", ["input"], ["a"], "/flat"),
            node("Relu", ["a"], ["b"], "/x"),
            node("MatMul", ["b", "w"], ["logits"], "/fc"),
        ],
        {"w": normal(192, 3)},
    )
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    proto.graph.node[1].CopyFrom(helper.make_node(op_type, ["a"], ["b"], "/x", domain=domain, **attributes))
    return proto


@pytest.mark.parametrize(
    ("op_type", "domain", "what", "remedy"),
    [
        (
            "Conv",
            "com.microsoft.nchwc",
            "blocked channel layout.*ORT_ENABLE_ALL",
            "again at ORT_ENABLE_EXTENDED at most",
        ),
        ("QOrderedMatMul", "com.microsoft", "a quantised operator", "the float32 model.*QuantizeLinear"),
        ("Attention", "com.microsoft", r"fused operator", "Give the originally exported model"),
        ("FeatureVectorizer", "ai.onnx.ml", "has no gradient", "Apply it outside"),
        ("Mine", "my.own", "not a standard ONNX operator", "with standard operators only"),
    ],
)
def test_what_cannot_be_taken_apart_is_told_apart(op_type, domain, what, remedy):
    with pytest.raises(ModelError, match=f"node '/x'.*{op_type}.*{what}.*{remedy}"):
        open_model(foreign(op_type, domain))


def test_statistics_of_a_fused_normalisation_are_refused():
    proto = fused.model("SkipLayerNormalization")
    proto.graph.node[2].output.extend(["mean"])
    proto.graph.output.append(helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, ["N", 5, 1]))
    proto.graph.node[3].input[0] = "mean_wide"
    proto.graph.node.insert(3, helper.make_node("Add", ["mean", "f"], ["mean_wide"], "/use"))
    with pytest.raises(ModelError, match=r"'/fused' \(SkipLayerNormalization\) outputs its statistics"):
        open_model(proto, logits="logits")


def test_an_ort_file_leads_to_its_onnx_file(tmp_path):
    path = optimised(fused.network(), tmp_path, "ORT_ENABLE_BASIC", save_model_format="ORT")
    with pytest.raises(
        ModelError, match=r"an ORT-format model \(\.ort\).*converted from an \.onnx file.*give that file"
    ):
        open_model(path)


# --- classical models ----------------------------------------------------------------------------------------------


def classical_operator_message(op_type: str, **attributes) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 2])]
    made = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 1])]
    only = helper.make_node(op_type, ["input"], ["y"], "/model", domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph([only], "net", given, made)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def trees(count: int) -> onnx.ModelProto:
    """A model of so many trees with one decision and two leaves each."""
    return classical_operator_message(
        "TreeEnsembleRegressor",
        n_targets=1,
        nodes_treeids=np.repeat(np.arange(count), 3).tolist(),
        nodes_nodeids=[0, 1, 2] * count,
        nodes_featureids=[0, 0, 0] * count,
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * count,
        nodes_values=[0.5, 0.0, 0.0] * count,
        nodes_truenodeids=[1, 0, 0] * count,
        nodes_falsenodeids=[2, 0, 0] * count,
        target_treeids=np.repeat(np.arange(count), 2).tolist(),
        target_nodeids=[1, 2] * count,
        target_ids=[0, 0] * count,
        target_weights=[1.0, -1.0] * count,
    )


@pytest.mark.parametrize("count", [1, 40_000])
def test_a_tree_ensemble_is_called_one_however_large(count):
    proto = trees(count)
    points = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(run(proto, points), [[count], [-count]])  # it is valid
    with pytest.raises(ModelError) as caught:
        open_model(proto)
    message = str(caught.value)
    assert "node '/model' (TreeEnsembleRegressor): this is a tree ensemble" in message
    assert "no layers and no gradient" in message
    assert "Fit it again in its original library" in message
    assert "valid" not in message


def test_a_support_vector_machine_is_called_one():
    with pytest.raises(ModelError, match=r"\(SVMRegressor\): this is a support vector machine.*Fit it again"):
        open_model(classical_operator_message("SVMRegressor"))


def test_text_is_told():
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 20]>
        net (string[N, 1] words) => (float[N, 1] y) {
            b = RegexFullMatch<pattern = "a.*">(words)  y = Cast<to = 1>(b) }"""
    )
    with pytest.raises(ModelError, match=r"input 'words' is text, .*operators: RegexFullMatch, Cast\)"):
        open_model(proto)
