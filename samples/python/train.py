"""Train a device package with only numpy and onnxruntime: python train.py DEVICE DATA.npz [SELECTED.bin]

DATA.npz has x, preprocessed for the model, and y. Prints the loss of each of 20 steps and writes the trained values.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime

STEPS, MASK = 20, 0xFFFFFFFF


def opened(folder: Path) -> dict:
    """Read device.json and check the size and SHA-256 of every file."""
    device = json.loads((folder / "device.json").read_text(encoding="utf-8"))
    if (device.get("format"), device.get("version")) != ("adabet-onnx/device", 1):
        sys.exit(f"{folder}: expected adabet-onnx/device 1, found {device.get('format')} {device.get('version')}")
    personal = {entry["selected"] for entry in device["entries"]}  # rewritten for a personal model
    for file in device["files"]:
        path = folder / Path(file["name"]).name
        data = path.read_bytes() if path.is_file() else b""
        if len(data) != file["bytes"]:
            sys.exit(f"{path}: expected {file['bytes']} bytes, found {len(data)}")
        digest = hashlib.sha256(data).hexdigest()
        if file["name"] not in personal and digest != file["sha256"]:
            sys.exit(f"{path}: expected the SHA-256 {file['sha256']}, found {digest}")
    return device


def shuffled(n: int, seed: int, epoch: int) -> list:
    """Return the order of the samples in an epoch, identical in every language."""
    state, order = (seed + epoch * 0x6C078965) & MASK, list(range(n))
    for i in range(n - 1, 0, -1):
        state = z = (state + 0x9E3779B9) & MASK
        z = ((z ^ z >> 16) * 0x85EBCA6B) & MASK
        z = ((z ^ z >> 13) * 0xC2B2AE35) & MASK
        other = (z ^ z >> 16) * (i + 1) >> 32
        order[i], order[other] = order[other], order[i]
    return order


def session(path: Path) -> onnxruntime.InferenceSession:
    """Create a session on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, outputs: list, feeds: dict) -> list:
    """Run a graph with those `feeds` that are its inputs."""
    return graph.run(outputs, {item.name: feeds[item.name] for item in graph.get_inputs()})


def frozen_features(folder: Path, device: dict, entry: dict, inputs: dict) -> dict:
    """Return the inputs of training steps, for which the frozen part runs once for each sample."""
    features = {item["name"]: inputs[item["input"]] for item in entry["boundary"] if item["input"] is not None}
    names = [item["name"] for item in entry["boundary"] if item["input"] is None]
    if names:
        graph, count = session(folder / entry["frozen"]), len(inputs[device["inputs"][0]["name"]])
        rows = [run(graph, names, {name: x[i : i + 1] for name, x in inputs.items()}) for i in range(count)]
        features |= {name: np.concatenate(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return features


def train(folder: Path, data: dict, selected: Path) -> None:
    """Run the training loop and write the trained values."""
    device = opened(folder)
    entry, settings = device["entries"][0], device["training"]
    names, tensors = entry["names"], entry["tensors"]
    features = frozen_features(folder, device, entry, {device["inputs"][0]["name"]: data["x"]})
    stored = (folder / entry["state"]).read_bytes()
    values = {}
    for t in tensors:  # the optimizer's state starts with zeros
        data_of = bytes(t["bytes"]) if t["kind"] == "optimizer" else stored[t["offset"] :][: t["bytes"]]
        values[t["input"]] = np.frombuffer(data_of, "<f4").reshape(t["shape"])
    graph, step, epoch = session(folder / entry["step"]), 0, 0
    while step < STEPS:
        epoch += 1
        order = shuffled(len(data["y"]), settings["seed"], epoch)
        for start in range(0, min(len(order), (STEPS - step) * settings["batch_size"]), settings["batch_size"]):
            step += 1
            batch = order[start : start + settings["batch_size"]]
            feeds = {**{name: array[batch] for name, array in features.items()}, names["labels"]: data["y"][batch]}
            feeds |= {names["learning_rate"]: np.array(settings["learning_rate"], np.float32), **values}
            feeds |= {names["step"]: np.array(step, np.int64)}
            loss, *new = run(graph, [names["loss"], *(t["output"] for t in tensors)], feeds)
            if not np.isfinite(loss):
                sys.exit(f"the loss of step {step} is {loss}")
            values = {t["input"]: value for t, value in zip(tensors, new, strict=True)}
            print(float(loss))
    content = bytearray(entry["selected_bytes"])
    for t in tensors:
        if t["kind"] != "optimizer":
            content[t["offset"] : t["offset"] + t["bytes"]] = values[t["input"]].astype("<f4").tobytes()
    part = selected.with_name(selected.name + ".part")
    part.write_bytes(content)
    os.replace(part, selected)


if __name__ == "__main__":
    train(Path(sys.argv[1]), dict(np.load(sys.argv[2])), Path((sys.argv[3:] or ["selected.bin"])[0]))
