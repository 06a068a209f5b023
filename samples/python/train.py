"""Train a device package with numpy and onnxruntime alone: python train.py DEVICE DATA.npz [SELECTED.bin]

DATA.npz has x, ready for the model, and y. The loss of each of 20 steps is printed; the trained values are written.
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
    """device.json, after every file was held against its size and SHA-256."""
    device = json.loads((folder / "device.json").read_text(encoding="utf-8"))
    if (device.get("format"), device.get("version")) != ("adabet-onnx/device", 1):
        sys.exit(f"{folder}: expected adabet-onnx/device 1, found {device.get('format')} {device.get('version')}")
    personal = {entry["selected"] for entry in device["entries"]}  # written anew for a personal model
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
    """The order of the samples in an epoch, the same in every language."""
    state, order = (seed + epoch * 0x6C078965) & MASK, list(range(n))
    for i in range(n - 1, 0, -1):
        state = z = (state + 0x9E3779B9) & MASK
        z = ((z ^ z >> 16) * 0x85EBCA6B) & MASK
        z = ((z ^ z >> 13) * 0xC2B2AE35) & MASK
        other = (z ^ z >> 16) * (i + 1) >> 32
        order[i], order[other] = order[other], order[i]
    return order


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph, on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(graph: onnxruntime.InferenceSession, outputs: list, feeds: dict) -> list:
    """Run a graph; of `feeds`, it gets the inputs that it has."""
    return graph.run(outputs, {item.name: feeds[item.name] for item in graph.get_inputs()})


def kept(folder: Path, device: dict, entry: dict, inputs: dict) -> dict:
    """What training begins with: the frozen part has run once for each sample."""
    found = {item["name"]: inputs[item["input"]] for item in entry["boundary"] if item["input"] is not None}
    names = [item["name"] for item in entry["boundary"] if item["input"] is None]
    if names:
        graph, count = session(folder / entry["frozen"]), len(inputs[device["inputs"][0]["name"]])
        rows = [run(graph, names, {name: x[i : i + 1] for name, x in inputs.items()}) for i in range(count)]
        found |= {name: np.concatenate(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return found


def train(folder: Path, data: dict, selected: Path) -> None:
    """The loop."""
    device = opened(folder)
    entry, how = device["entries"][0], device["training"]
    names, tensors = entry["names"], entry["tensors"]
    features = kept(folder, device, entry, {device["inputs"][0]["name"]: data["x"]})
    stored = (folder / entry["state"]).read_bytes()
    values = {}
    for t in tensors:  # the optimizer's begin with zeros
        data_of = bytes(t["bytes"]) if t["kind"] == "optimizer" else stored[t["offset"] :][: t["bytes"]]
        values[t["input"]] = np.frombuffer(data_of, "<f4").reshape(t["shape"])
    graph, step, epoch = session(folder / entry["step"]), 0, 0
    while step < STEPS:
        epoch += 1
        order = shuffled(len(data["y"]), how["seed"], epoch)
        for start in range(0, min(len(order), (STEPS - step) * how["batch_size"]), how["batch_size"]):
            step += 1
            batch = order[start : start + how["batch_size"]]
            feeds = {**{name: array[batch] for name, array in features.items()}, names["labels"]: data["y"][batch]}
            feeds |= {names["learning_rate"]: np.array(how["learning_rate"], np.float32), **values}
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
