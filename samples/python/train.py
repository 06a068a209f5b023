"""Train artifacts with numpy and onnxruntime alone: python train.py FOLDER DATA.npz (x and y, ready for the model)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
data = np.load(sys.argv[2])
x, y = data["x"], data["y"]  # as the model takes it: float32, preprocessed; int64
frozen, session = (
    onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    for name in ("frozen.onnx", "step.onnx")
)
kept = [b["name"] for b in manifest["boundary"]]  # what no training changes is computed once, for all epochs
features = dict(zip(kept, frozen.run(kept, {manifest["inputs"][0]: x}), strict=True))
stored = (folder / "state.bin").read_bytes()
tensors = manifest["parameters"] + manifest["state"]
values = {
    t["input"]: np.frombuffer(stored, "<f4", int(np.prod(t["shape"])), t["offset"]).reshape(t["shape"]) for t in tensors
}
outputs = [manifest["loss"], *(t["output"] for t in tensors)]
for step in range(1, 1 + len(x) // 8):
    batch = slice(8 * (step - 1), 8 * step)
    feeds = {**{name: array[batch] for name, array in features.items()}, manifest["labels"]: y[batch], **values}
    feeds |= {manifest["learning_rate"]: np.array(1e-3, np.float32), manifest["step"]: np.array(step, np.int64)}
    loss, *new = session.run(outputs, feeds)
    values = {t["input"]: value for t, value in zip(tensors, new, strict=True)}
    print(float(loss))
