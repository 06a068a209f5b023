"""Where training is cut into a part that runs once and one that runs in every step; together they change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from conftest import ROOT
from models import cuts, shared_layers, tiny
from onnx import helper
from uncut import Uncut, assert_equal_training

from adabet_onnx import (
    DataError,
    RecordError,
    Trainer,
    TrainingError,
    evaluate,
    export_model,
    make_artifacts,
    open_model,
    predict,
)
from adabet_onnx.cost.graphs import selection_with
from adabet_onnx.cost.overview import overview
from adabet_onnx.files import sha256_of_files
from adabet_onnx.portable.features import Features
from adabet_onnx.portable.per_sample import places
from adabet_onnx.portable.sample_layout import Kind, SampleLayout
from adabet_onnx.portable.shapes import annotate
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.manifest import load_manifest
from adabet_onnx.training.samples import sample_feeds

pytestmark = pytest.mark.usefixtures("checked_here")

node = helper.make_node
VERSION_1 = ROOT / "tests" / "folders" / "version1"


def selected(model: Any, *layers: str, channels: dict[str, list[int]] | None = None) -> Any:
    """These layers."""
    parameters = [parameter.name for layer in model.layers if layer.name in layers for parameter in layer.parameters]
    return selection_with(model, parameters, layers, channels)


def trained_from_features(
    proto: onnx.ModelProto,
    layers: tuple[str, ...],
    folder: Path,
    *,
    steps: int = 20,
    dims: dict[str, int] | None = None,
    channels: dict[str, list[int]] | None = None,
    **choices: Any,
) -> list[tuple[str, list[int]]]:
    """Train with and without the cut, compare every bit, and return name and shape of the values at the cut."""
    model = open_model(proto, dims=dims)
    selection, chosen = selected(model, *layers, channels=channels), Choices(**choices)
    manifest = make_artifacts(model, selection, folder, backend="portable", choices=chosen)
    feeds = sample_feeds(manifest, 6)
    assert_equal_training(Uncut(model, selection, chosen), manifest, feeds, steps)
    return [(entry["name"], entry["shape"][1:]) for entry in manifest.content["boundary"]]


def operators(folder: Path, name: str) -> list[str]:
    return [n.op_type for n in onnx.load(folder / f"{name}.onnx", load_external_data=False).graph.node]


CUTS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...], list[tuple[str, list[int]]]]] = {
    "residual": (cuts.residual, ("c", "fc"), [("r", [4, 8, 8]), ("s", [4, 8, 8])]),
    "head": (cuts.residual, ("fc",), [("f", [4])]),
    "first layer": (cuts.residual, ("a",), [("input/kept", [3, 8, 8])]),
    "tied embedding, trained": (cuts.tied, ("/embedding",), [("ids/kept", [5]), ("column", [5, 1])]),
    "tied embedding, frozen": (cuts.tied, ("b",), [("column", [5, 1]), ("masked", [5, 16])]),
    "read twice": (cuts.read_twice, ("c",), [("extra/kept", [2]), ("f", [4])]),
    "time first": (cuts.time_major, ("two",), [("h/kept", [6, 4])]),
    "merged rows": (cuts.merged_rows, ("b",), [("t/kept", [6, 8])]),
    "merged rows, time first": (lambda: cuts.merged_rows(time_first=True), ("b",), [("t/kept", [6, 8])]),
    "normalisation": (cuts.normalised, ("c.bn", "fc"), [("c.c", [4, 8, 8])]),
    "siamese": (shared_layers.siamese, ("/fc",), [("e", [6])]),
    "siamese, from its branches on": (shared_layers.siamese, ("/h_a",), [("a/t", [8]), ("b/t", [8])]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
def test_steps_from_features_equal_those_of_the_uncut_graph(name, tmp_path):
    make, layers, expected = CUTS[name]
    assert trained_from_features(make(), layers, tmp_path / "a") == expected


def test_a_dynamic_length(tmp_path):
    """The graph computes positions from it: they are computed again, not stored."""
    kept = trained_from_features(cuts.any_length(), ("b",), tmp_path / "a", dims={"length": 12})
    assert kept == [("s", [6, 12])]
    kept = trained_from_features(cuts.any_length(), ("/positions",), tmp_path / "b", dims={"length": 12})
    assert kept == [("a", [6, 12])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [
        {"loss": "mse"},
        {"loss": "l1"},
        {"loss": "bce-with-logits"},
        {"label_smoothing": 0.1},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adamw-torch", "clip_norm": 1.0},
        {"recompute": True},
        {"batch_norm": "batch"},
        {"profile": "webgpu"},
    ],
    ids=str,
)
def test_whatever_is_computed_in_a_step(choices, tmp_path):
    kept = trained_from_features(cuts.normalised(), ("c", "c.bn", "fc"), tmp_path / "a", steps=5, **choices)
    # What is computed again may begin before the activation, of which the tail then needs no more than its input.
    assert kept == [("b.n" if choices.get("recompute") else "b.r", [4, 8, 8])]


def test_statistics_of_a_batch_are_not_frozen(tmp_path):
    """A normalisation by the batch is in the tail, with all after it; a frozen one before it is not."""
    kept = trained_from_features(cuts.normalised(), ("b.bn",), tmp_path / "a", steps=5, batch_norm="batch")
    assert kept == [("b.c", [4, 8, 8])]
    assert "BatchNormalization" in operators(tmp_path / "a", "step")
    assert "BatchNormalization" not in operators(tmp_path / "a", "frozen")


def test_some_channels(tmp_path):
    kept = trained_from_features(cuts.residual(), ("c",), tmp_path / "a", steps=5, channels={"c": [1, 3]})
    assert kept == [("r", [4, 8, 8]), ("s", [4, 8, 8])]


def test_the_frozen_part_is_in_no_step(tmp_path):
    trained_from_features(cuts.residual(), ("c", "fc"), tmp_path / "a", steps=1)
    assert operators(tmp_path / "a", "frozen") == ["Conv", "Relu", "Conv", "Relu"]
    assert operators(tmp_path / "a", "eval").count("Conv") == 1
    for name in ("step", "grads"):
        inputs = [value.name for value in onnx.load(tmp_path / "a" / f"{name}.onnx").graph.input]
        assert inputs[:3] == ["r", "s", "labels"]


# Where samples lie in a value


def placed(nodes: list[onnx.NodeProto], *, shape: tuple[int | str, ...] = ("N", 3, 4), **values: np.ndarray) -> Any:
    """The axis of samples in the last node's first output, and its shape."""
    opset = [helper.make_opsetid("", 17)]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in values.items()]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))]
    given.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 4]))
    made = [onnx.ValueInfoProto(name=nodes[-1].output[0])]
    model = ir.from_proto(
        helper.make_model(helper.make_graph(nodes, "g", given, made, tensors), opset_imports=opset, ir_version=8)
    )
    annotate(model)
    return places(model, ["x"])[model.graph.outputs[0]], model


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def branch(name: str, *nodes: onnx.NodeProto, inputs: tuple[str, ...] = (), gives: tuple[str, ...] = ("o",)) -> Any:
    """A graph inside a node."""
    made = [onnx.ValueInfoProto(name=each) for each in inputs], [onnx.ValueInfoProto(name=each) for each in gives]
    return helper.make_graph(list(nodes), name, *made)


def scan(*nodes: onnx.NodeProto, gives: tuple[str, ...] = ("s1", "o"), **attributes: Any) -> list[onnx.NodeProto]:
    """A Scan over the time of x, from a state that is the mean over it: s and i make s1 and o."""
    body = branch("body", *nodes, inputs=("s", "i"), gives=gives)
    attributes = {"num_scan_inputs": 1, "scan_input_axes": [1]} | attributes
    return [
        node("ReduceMean", ["x"], ["start"], axes=[1], keepdims=0),
        node("Scan", ["start", "x"], ["last", "all"], body=body, **attributes),
    ]


TURN = (node("Add", ["s", "i"], ["a"]), node("Tanh", ["a"], ["s1"]), node("MatMul", ["s1", "c"], ["o"]))
PER_SAMPLE: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], SampleLayout]] = {
    "elementwise": ([node("Add", ["x", "c"], ["y"])], {"c": tiny.normal(4)}, SampleLayout(0)),
    "transposed": ([node("Transpose", ["x"], ["y"], perm=[2, 1, 0])], {}, SampleLayout(2)),
    "softmax of its own": ([node("Softmax", ["x"], ["y"], axis=-1)], {}, SampleLayout(0)),
    "rows": ([node("Reshape", ["x", "s"], ["y"])], {"s": ints(-1, 4)}, SampleLayout(0, 1, 3)),
    "time-major rows": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("Reshape", ["t", "s"], ["y"])],
        {"s": ints(-1, 4)},
        SampleLayout(0, 3, 1),
    ),
    "rows apart again": (
        [node("Reshape", ["x", "s"], ["r"]), node("Relu", ["r"], ["a"]), node("Reshape", ["a", "t"], ["y"])],
        {"s": ints(-1, 4), "t": ints(-1, 3, 4)},
        SampleLayout(0),
    ),
    "product": ([node("MatMul", ["x", "c"], ["y"])], {"c": tiny.normal(4, 5)}, SampleLayout(0)),
    "product with itself": (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["y"])],
        {},
        SampleLayout(0),
    ),
    "joined by its own axis": ([node("Concat", ["x", "x"], ["y"], axis=1)], {}, SampleLayout(0)),
    "joined by the batch": ([node("Concat", ["x", "x"], ["y"], axis=0)], {}, SampleLayout(0, 2, 1)),
    "joined and apart": (
        [node("Concat", ["x", "x"], ["j"], axis=0), node("Split", ["j"], ["y", "z"], axis=0)],
        {},
        SampleLayout(0),
    ),
    "a token for each": (
        [
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Concat", ["n", "s"], ["shape"], axis=0),
            node("Expand", ["c", "shape"], ["e"]),
            node("Concat", ["e", "x"], ["y"], axis=1),
        ],
        {"s": ints(1, 4), "c": tiny.normal(1, 1, 4)},
        SampleLayout(0),
    ),
    "scaled by a width": (
        [
            node("Shape", ["x"], ["n"]),
            node("Gather", ["n", "last"], ["width"]),
            node("Cast", ["width"], ["f"], to=1),
            node("Div", ["x", "f"], ["y"]),
        ],
        {"last": ints(2)},
        SampleLayout(0),
    ),
    "a part that is all of the batch": (
        [node("Slice", ["x", "a", "b", "i", "s"], ["y"])],
        {"a": ints(0, 1), "b": ints(2**31 - 1, 3), "i": ints(0, 1), "s": ints(1, 1)},
        SampleLayout(0),
    ),
    "einsum": ([node("Einsum", ["x", "c"], ["y"], equation="ntc,cd->tnd")], {"c": tiny.normal(4, 5)}, SampleLayout(1)),
    "mean of its own": ([node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)], {}, SampleLayout(0)),
    "mean and variance of its own": (
        [node("MeanVarianceNormalization", ["x"], ["y"], axes=[1, 2])],
        {},
        SampleLayout(0),
    ),
    "turned around in time": (
        [
            node("ReduceSum", ["x", "a"], ["s"], keepdims=0),
            node("Sign", ["s"], ["t"]),
            node("Mul", ["t", "t"], ["u"]),
            node("Cast", ["u"], ["one"], to=7),
            node("Add", ["one", "one"], ["two"]),
            node("ReverseSequence", ["x", "two"], ["y"], time_axis=1, batch_axis=0),
        ],
        {"a": ints(1, 2)},
        SampleLayout(0),
    ),
    "the same places of all kept": (
        [node("Compress", ["x", "c"], ["y"], axis=2)],
        {"c": np.array([True, False, True, False])},
        SampleLayout(0),
    ),
    "put into the same places of all": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("Gather", ["t", "i"], ["u"], axis=0),
            node("ScatterND", ["t", "j", "u"], ["y"]),
        ],
        {"i": ints(2, 0), "j": ints(0, 1).reshape(2, 1)},
        SampleLayout(1),
    ),
    "scanned, step by step": (
        [*scan(*TURN), node("Identity", ["all"], ["y"])],
        {"c": tiny.normal(4, 5)},
        SampleLayout(1),
    ),
    "scanned, with the batch first": (
        [*scan(*TURN, scan_output_axes=[1]), node("Identity", ["all"], ["y"])],
        {"c": tiny.normal(4, 5)},
        SampleLayout(0),
    ),
    "scanned to the end": (
        [*scan(*TURN), node("Identity", ["last"], ["y"])],
        {"c": tiny.normal(4, 5)},
        SampleLayout(0),
    ),
    "recurrent": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("GRU", ["t", "c", "r"], ["y"], hidden_size=2)],
        {"c": tiny.normal(1, 6, 4), "r": tiny.normal(1, 6, 2)},
        SampleLayout(2),
    ),
}


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_where_samples_lie(name, rng):
    """And that they lie there: a value of one sample alone is that sample's part of a value of a batch."""
    nodes, values, expected = PER_SAMPLE[name]
    found, model = placed(nodes, **values)
    assert found == expected
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = rng.standard_normal((5, 3, 4)).astype(np.float32)
    assert "w" in [value.name for value in session.get_inputs()]
    together, *alone = (
        session.run(None, {"x": part, "w": np.eye(4, dtype=np.float32)})[0] for part in (x, *x[:, None])
    )
    for i, array in enumerate(alone):
        apart = [
            part.reshape(*part.shape[: found.axis], found.before, -1, found.after, *part.shape[found.axis + 1 :])
            for part in (together, array)
        ]
        np.testing.assert_allclose(
            np.take(apart[0], i, found.axis + 1), np.take(apart[1], 0, found.axis + 1), rtol=1e-5, atol=1e-6
        )


MIXED: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "softmax over the batch": ([node("Softmax", ["x"], ["y"], axis=0)], {}),
    "mean over the batch": ([node("ReduceMean", ["x"], ["y"], axes=[0])], {}),
    "less the mean": ([node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])], {}),
    "mean and variance of all": ([node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2])], {}),
    "turned around along the batch": (
        [node("ReverseSequence", ["x", "n"], ["y"], time_axis=0, batch_axis=1)],
        {"n": ints(2, 2, 2)},
    ),
    "one sample of all": ([node("Gather", ["x", "i"], ["g"], axis=0), node("Add", ["x", "g"], ["y"])], {"i": ints(0)}),
    "the batch turned around": (
        [node("Slice", ["x", "a", "b", "i", "s"], ["y"])],
        {"a": ints(-1), "b": ints(-(2**31)), "i": ints(0), "s": ints(-1)},
    ),
    "the first samples": ([node("Slice", ["x", "a", "b"], ["y"])], {"a": ints(0), "b": ints(2**20)}),
    "all but the first sample": ([node("Slice", ["x", "a", "b"], ["y"])], {"a": ints(1), "b": ints(2**31 - 1)}),
    "sums along the batch": ([node("CumSum", ["x", "i"], ["y"])], {"i": np.array(0, np.int64)}),
    "a step for each sample": (
        [node("GRU", ["x", "c", "r"], ["y"], hidden_size=2)],
        {"c": tiny.normal(1, 6, 4), "r": tiny.normal(1, 6, 2)},
    ),
    "by the batch size": (
        [
            node("Shape", ["x"], ["n"], start=0, end=1),
            node("Cast", ["n"], ["f"], to=1),
            node("Div", ["x", "f"], ["y"]),
        ],
        {},
    ),
    "trained": ([node("MatMul", ["x", "w"], ["y"])], {}),
    "by chance": ([node("RandomNormalLike", ["x"], ["r"]), node("Add", ["x", "r"], ["y"])], {}),
    "samples as channels": (
        [node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), node("InstanceNormalization", ["t", "c", "c"], ["y"])],
        {"c": np.ones(1, np.float32)},
    ),
    "samples left out": ([node("Compress", ["x", "c"], ["y"], axis=0)], {"c": np.array([True, False])}),
    "places left out of all in a row": ([node("Compress", ["x", "c"], ["y"])], {"c": np.array([True, False])}),
    "put into the first samples": (
        [node("Gather", ["x", "i"], ["u"], axis=0), node("ScatterND", ["x", "j", "u"], ["y"])],
        {"i": ints(0), "j": ints(0).reshape(1, 1)},
    ),
    "put into places that samples say": (
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            node("Cast", ["t"], ["k"], to=7),
            node("Slice", ["k", "a", "b", "i"], ["j"]),
            node("ScatterND", ["t", "j", "u"], ["y"]),
        ],
        {"a": ints(0), "b": ints(1), "i": ints(2), "u": tiny.normal(4)},
    ),
    "scanned along the batch": (
        [
            node(
                "Scan",
                ["z", "x"],
                ["last", "y"],
                body=branch("body", *TURN, inputs=("s", "i"), gives=("s1", "o")),
                num_scan_inputs=1,
            )
        ],
        {"c": tiny.normal(4, 5), "z": tiny.normal(3, 4)},
    ),
    "scanned with a mean over the batch inside": (
        [
            *scan(
                node("ReduceMean", ["i"], ["m"], axes=[0]), node("Add", ["s", "m"], ["s1"]), node("Tanh", ["s1"], ["o"])
            ),
            node("Identity", ["all"], ["y"]),
        ],
        {},
    ),
    "scanned with what is trained": (
        [*scan(*TURN[:2], node("MatMul", ["s1", "w"], ["o"])), node("Identity", ["all"], ["y"])],
        {},
    ),
    "scanned with what has samples outside": (
        [
            node("ReduceMax", ["x"], ["c0"], axes=[0, 1], keepdims=0),
            *scan(*TURN[:2], node("Mul", ["s1", "c0"], ["o"])),
            node("Identity", ["all"], ["y"]),
        ],
        {},
    ),
    "a branch that the samples choose": (
        [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Greater", ["m", "c"], ["b"]),
            node(
                "If",
                ["b"],
                ["y"],
                then_branch=branch("then", node("Relu", ["x"], ["o"])),
                else_branch=branch("else", node("Neg", ["x"], ["o"])),
            ),
        ],
        {"c": np.array(1, np.float32)},
    ),
    "quantised by the largest of all": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {},
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_is_not_computed_for_each_sample_is_not_frozen(name):
    nodes, values = MIXED[name]
    assert placed(nodes, **values)[0] is Kind.TAIL


# Files


def big(kind: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """A model of some megabytes, and the layers to train."""
    if kind == "dense":
        nodes, values, last = [], {}, "input"
        for i in range(3):
            nodes += [node("Gemm", [last, f"w{i}"], [f"h{i}"], f"/{i}"), node("Relu", [f"h{i}"], [f"r{i}"])]
            values[f"w{i}"], last = tiny.normal(600, 600) + np.float32(i), f"r{i}"
        nodes.append(node("Gemm", [last, "fc.weight"], ["logits"], "/fc"))
        return tiny.build(nodes, values | {"fc.weight": tiny.normal(600, 5)}, input_shape=["N", 600]), ("/1",)
    nodes, values, last = [], {}, "input"
    for i, (inputs, outputs) in enumerate(((3, 256), (256, 256), (256, 256))):
        nodes += [
            node("Conv", [last, f"{i}.weight"], [f"{i}.c"], f"/{i}", pads=[1] * 4),
            node("BatchNormalization", [f"{i}.c", *(f"{i}.bn.{k}" for k in "wbmv")], [f"{i}.n"], f"/{i}/bn"),
            node("Relu", [f"{i}.n"], [f"{i}.r"], f"/{i}/relu"),
        ]
        values[f"{i}.weight"] = tiny.normal(outputs, inputs, 3, 3) + np.float32(i)
        values |= {f"{i}.bn.{k}": (np.abs(tiny.normal(outputs)) + 1).astype(np.float32) for k in "wbmv"}
        last = f"{i}.r"
    nodes += [node("GlobalAveragePool", [last], ["g"]), node("Flatten", ["g"], ["f"])]
    nodes.append(node("Gemm", ["f", "fc.weight"], ["logits"], "/fc"))
    proto = tiny.build(nodes, values | {"fc.weight": tiny.normal(256, 5)})
    return proto, {"convolutions, first": ("0",), "convolutions, middle": ("1",), "convolutions, head": ("fc",)}[kind]


@pytest.mark.parametrize("kind", ["dense", "convolutions, first", "convolutions, middle", "convolutions, head"])
def test_a_folder_is_hardly_larger_than_the_model(kind, tmp_path):
    proto, layers = big(kind)
    model = open_model(proto)
    manifest = make_artifacts(model, selected(model, *layers), tmp_path / "a", backend="portable", check=False)
    taken = sum(path.stat().st_size for path in manifest.folder.iterdir())
    trained = 4 * manifest.trainable_count
    assert taken <= 1.1 * proto.ByteSize() + 3 * trained + 1e6
    assert taken > proto.ByteSize()


def test_weights_are_where_the_runtime_can_map_them(tmp_path):
    model = open_model(big("convolutions, middle")[0])
    manifest = make_artifacts(model, selected(model, "fc"), tmp_path / "a", backend="portable", check=False)
    placed_at: dict[str, set[str]] = {}
    for path in tmp_path.glob("a/*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if not entries:
                assert len(tensor.raw_data) < 1024
                continue
            assert entries["location"] == "weights.bin"
            assert int(entries["offset"]) % (4096 if int(entries["length"]) >= 1 << 16 else 64) == 0
            placed_at.setdefault(entries["offset"], set()).add(path.name)
    assert any({"frozen.onnx", "model.onnx"} <= names for names in placed_at.values())
    assert manifest.file("weights").stat().st_size > 1 << 20


# Sessions


@pytest.fixture
def made(tmp_path):
    """Artifacts of the last convolution and the head, and inputs for them."""
    model = open_model(big("convolutions, middle")[0])
    manifest = make_artifacts(model, selected(model, "fc"), tmp_path / "a", backend="portable", check=False)
    return manifest, sample_feeds(manifest, 4)


def test_features_are_arrays_with_the_samples_first(made):
    manifest, feeds = made
    features = manifest.session(manifest.initial).features(feeds)
    (name,) = features
    assert (features.samples, features[name].dtype, features[name].shape) == (4, np.float32, (4, 256))
    assert features.at(np.array([2, 0]))[name].tolist() == features[name][[2, 0]].tolist()
    assert manifest.session(manifest.initial).features(features) is features


def test_features_of_other_artifacts_and_too_few_labels_are_refused(made):
    manifest, feeds = made
    session, labels = manifest.session(manifest.initial), np.zeros(4, np.int64)
    with pytest.raises(TrainingError, match=r"start from a value 'f', but what is fed has only \['g'\]"):
        session.step(Features({"g": np.zeros((4, 256), np.float32)}), labels, 1e-3)
    with pytest.raises(TrainingError, match=r"name an input 'input', but what is fed has only \['image'\]"):
        session.features({"image": feeds["input"]})
    with pytest.raises(DataError, match="has 4 samples"):
        session.step(session.features(feeds), labels[:3], 1e-3)


def test_the_ort_backend_has_features_too(tmp_path):
    model = open_model(tiny.conv_net())
    manifest = make_artifacts(model, selected(model, model.head.name), tmp_path / "a", backend="ort", check=False)
    feeds = sample_feeds(manifest, 4)
    session = manifest.session(manifest.initial)
    features = session.features(feeds)
    assert list(features) == ["input"]
    labels = np.zeros(4, np.int64)
    assert session.evaluate(features, labels)[0] == session.evaluate(feeds, labels)[0]


# Hostile and damaged folders


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def renew(content: dict[str, Any], folder: Path) -> None:
    content["sha256"] = {what: sha256_of_files([folder / name]) for what, name in content["files"].items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["boundary"][0].update(shape=["N", 255]), r"takes 1020"),
        (lambda c: c["boundary"][0].update(shape=[4, 256]), r"'shape' must be 'N' followed by"),
        (lambda c: c["boundary"][0].update(shape=["N", -1]), r"'shape' must be 'N' followed by"),
        (lambda c: c["boundary"][0].update(dtype="object"), r"'dtype' is 'object'"),
        (lambda c: c["boundary"][0].update(bytes=True), r"'bytes'"),
        (lambda c: c["boundary"][0].update(input="other"), r"'input' is 'other', which is not one of the inputs"),
        (lambda c: c["boundary"].append(c["boundary"][0]), r"twice"),
        (lambda c: c.pop("boundary"), r"'boundary' is missing"),
        (lambda c: c["files"].pop("frozen"), r"'frozen' is missing"),
        (lambda c: c["files"].update(weights="../weights.bin"), r"not in the folder"),
        (lambda c: c.update(version=3), r"version 3"),
    ],
)
def test_a_manifest_with_another_boundary_is_refused(made, change, words):
    manifest, _ = made
    changed(manifest.folder, change)
    with pytest.raises(RecordError, match=words):
        load_manifest(manifest.folder)


def test_weights_that_are_cut_short_changed_or_elsewhere_are_refused(made):
    manifest, feeds = made
    weights, whole = manifest.file("weights"), manifest.file("weights").read_bytes()
    for wrong in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        weights.write_bytes(wrong)
        with pytest.raises(RecordError, match=r"weights.bin was changed or cut short"):
            load_manifest(manifest.folder)
    changed(manifest.folder, lambda content: renew(content, manifest.folder))
    with pytest.raises(RecordError, match=r"weights.bin has 0 bytes: it was cut short"):
        load_manifest(manifest.folder).session(manifest.initial).features(feeds)
    weights.unlink()
    with pytest.raises(RecordError, match=r"'weights.bin' as weights, but it is not in the folder"):
        load_manifest(manifest.folder)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "state.bin", ""])
def test_a_graph_that_reads_another_file_is_refused(made, location, tmp_path):
    manifest, feeds = made
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 22))
    path = manifest.file("frozen")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    changed(manifest.folder, lambda content: renew(content, manifest.folder))
    with pytest.raises(RecordError, match=r"expected is 'weights.bin'. Make the artifacts again"):
        load_manifest(manifest.folder).session(manifest.initial).features(feeds)


def test_weights_that_are_a_link_out_of_the_folder_are_refused(made, tmp_path):
    manifest, feeds = made
    manifest.file("weights").rename(tmp_path / "elsewhere.bin")
    manifest.file("weights").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(RecordError, match=r"weights.bin is a link to .*read from the folder alone"):
        load_manifest(manifest.folder).session(manifest.initial).features(feeds)


# Folders of version 1


def old_data() -> tuple[np.ndarray, np.ndarray]:
    """The training data of the folder of version 1: two of four epochs, in batches of 8."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((48, 3, 8, 8)).astype(np.float32), rng.integers(0, 3, 48)


@pytest.fixture
def old(tmp_path):
    shutil.copytree(VERSION_1, tmp_path / "old")
    return tmp_path / "old"


def test_a_folder_of_version_1_resumes_as_it_went_on(old):
    rows = Trainer(old).fit(old_data(), resume=True)
    losses = [row["train_loss"] for row in rows[1:]]
    assert losses == pytest.approx([1.275862, 1.263518, 1.256317, 1.253475], abs=1e-5)  # of a training in one go


def test_a_folder_of_version_1_trains_evaluates_predicts_and_exports(old, tmp_path):
    x, y = old_data()
    rows = Trainer(old).fit((x, y), epochs=2, learning_rate=1e-2)
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]
    export_model(old, tmp_path / "adapted.onnx")
    np.testing.assert_allclose(
        [row["logits"] for row in predict(old, x[:4])],
        tiny.run(onnx.load(tmp_path / "adapted.onnx"), x[:4]),
        rtol=1e-5,
        atol=1e-6,
    )
    assert evaluate(old, (x, y))["loss"] == pytest.approx(evaluate(tmp_path / "adapted.onnx", (x, y))["loss"])
    session = load_manifest(old).session(load_manifest(old).initial)
    assert session.features({"input": x})["input"] is x


# Where the frozen part ends too early


def notes(layers: tuple[str, ...], folder: Path) -> list[str]:
    """What the manifest says about a training of these layers."""
    model = open_model(cuts.by_indices())
    return make_artifacts(model, selected(model, *layers), folder, backend="portable").notes


def test_a_note_names_the_node_where_the_frozen_part_ends(tmp_path):
    (note,) = notes(("fc",), tmp_path / "a")
    assert note == (
        "the frozen part ends before node '/index' (Add): the values that it makes are not known to be computed for "
        "each sample by itself. So every step computes 1 heavy operator (MatMul) again that no training changes"
    )
    assert notes(("hidden", "fc"), tmp_path / "b") == []  # what is computed again is trained


def test_a_note_on_the_predicted_cost(tmp_path):
    model = open_model(cuts.by_indices())
    (note,) = overview(model, selected(model, "fc"), batch_size=4).notes
    assert note.startswith("the frozen part ends before node '/index' (Add)")
