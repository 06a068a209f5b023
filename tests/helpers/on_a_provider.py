"""Run by tests/runtime/test_provider.py with the OpenVINO build of onnxruntime: results on CPU and provider, as JSON.

Usage: python on_a_provider.py MODEL DATA FOLDER
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from adabet_onnx import (
    ProviderWarning,
    Runtime,
    Scoring,
    Settings,
    Trainer,
    evaluate,
    make_artifacts,
    predict,
    score,
    select,
)

OPENVINO = Runtime(threads=1, provider="openvino", provider_options={"device_type": "CPU"})


def declined() -> onnx.ModelProto:
    """A model of which OpenVINO supports only the end: it has no Det."""
    random = np.random.default_rng(0)
    weights = {"conv.weight": (4, 3, 3, 3), "fc.weight": (4, 3), "fc.bias": (3,)}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Det", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "fc.weight", "fc.bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "declined",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])],
        [
            onnx.numpy_helper.from_array(0.1 * random.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def told(model: str | onnx.ModelProto, x: np.ndarray) -> list[str]:
    """The messages about where its nodes run, in two predictions."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(2):
            predict(model, x, threads=OPENVINO)
    return [str(each.message) for each in found if each.category is ProviderWarning]


def main(model: str, data: str, folder: Path) -> None:
    scores = {
        name: score(model, data, scoring=Scoring(samples=32, subset_size=16, subsets=32), threads=threads)
        for name, threads in (("cpu", 1), ("provider", OPENVINO))
    }
    manifest = make_artifacts(model, select(scores["provider"], strategy="last", rho=0.3), folder)
    sessions = [manifest.session(manifest.initial, threads=threads) for threads in (1, OPENVINO)]
    x = np.load(data)["x_train"][:8].astype(np.float32) / 255
    shape = [-1, *(int(extent) for extent in manifest.input_details[0]["shape"][1:])]
    given = {manifest.feed_names[0][0]: x.reshape(shape)}
    features = [session.features(given) for session in sessions]
    used = {name: held.get_providers() for name, held in sessions[1]._sessions.items()}
    sessions[1].step(features[1], np.zeros(8, np.int64), 1e-3)
    used |= {name: held.get_providers() for name, held in sessions[1]._sessions.items()}
    rows = {}
    for name, threads in (("cpu", 1), ("provider", OPENVINO)):
        rows[name] = Trainer(folder, threads=threads).fit(data, settings=Settings(epochs=2))
    print(
        json.dumps(
            {
                "scores": {name: [layer.b1_hat for layer in found.layers] for name, found in scores.items()},
                "computed": [entry["name"] for entry in manifest.content["boundary"] if entry["input"] is None],
                "apart": {name: float(np.abs(features[0][name] - features[1][name]).max()) for name in features[0]},
                "largest": max(float(np.abs(features[0][name]).max()) for name in features[0]),
                "used": used,
                "taken": told(model, np.load(data)["x_train"][:8]),
                "declined": told(declined(), np.zeros((8, 3, 8, 8), np.float32)),
                "losses": {name: [row["eval_loss"] for row in found] for name, found in rows.items()},
                "accuracy": [evaluate(folder, data, threads=threads)["accuracy"] for threads in (1, OPENVINO)],
                "logits": [
                    [row["logits"] for row in predict(folder, data, threads=threads)[:4]] for threads in (1, OPENVINO)
                ],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
