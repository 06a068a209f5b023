"""What tests/test_provider.py runs where onnxruntime has OpenVINO: the same on the CPU and on the provider, as JSON.

Usage: python on_a_provider.py MODEL DATA FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from adabet_onnx import Runtime, Scoring, Settings, Trainer, evaluate, make_artifacts, predict, score, select

OPENVINO = Runtime(threads=1, provider="openvino", provider_options={"device_type": "CPU"})


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
