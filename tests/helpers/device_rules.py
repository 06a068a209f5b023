"""The rules of docs/device-package.md in Python with onnxruntime, to compare the samples with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from adabet_onnx.scoring.betti import betti_numbers

_MASK = (1 << 32) - 1


class Random:
    """The random numbers of the format."""

    def __init__(self, seed: int, stream: int) -> None:
        self.state = (seed + stream * 0x6C078965) & _MASK

    def next(self) -> int:
        self.state = z = (self.state + 0x9E3779B9) & _MASK
        z ^= z >> 16
        z = z * 0x85EBCA6B & _MASK
        z ^= z >> 13
        z = z * 0xC2B2AE35 & _MASK
        return z ^ z >> 16

    def below(self, n: int) -> int:
        return self.next() * n >> 32

    def subset(self, n: int, m: int) -> list[int]:
        a = list(range(n))
        for i in range(m):
            j = i + self.below(n - i)
            a[i], a[j] = a[j], a[i]
        return sorted(a[:m])


def shuffled(n: int, seed: int, stream: int) -> list[int]:
    """The order of an epoch."""
    random, a = Random(seed, stream), list(range(n))
    for i in range(n - 1, 0, -1):
        j = random.below(i + 1)
        a[i], a[j] = a[j], a[i]
    return a


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_graph(path: Path | onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a graph, from those of the feeds that it has."""
    graph = session(path) if isinstance(path, Path) else path
    given = {value.name: feeds[value.name] for value in graph.get_inputs()}
    names = [value.name for value in graph.get_outputs()]
    return dict(zip(names, graph.run(names, given), strict=True))


def description(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((package / "device.json").read_text())
    return found


def features(package: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    """The inputs of training steps, computed one sample at a time, as the format specifies."""
    content = description(package)
    entry, name = content["entries"][0], content["inputs"][0]["name"]
    found = {kept["name"]: x for kept in entry["boundary"] if kept["input"] is not None}
    if entry["frozen"] is not None:
        graph = session(package / entry["frozen"])
        rows = [run_graph(graph, {name: x[i : i + 1]}) for i in range(len(x))]
        found |= {output: np.concatenate([row[output] for row in rows]) for output in rows[0]}
    return found


def stored(entry: Mapping[str, Any], data: bytes, kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Tensors by name, from the bytes of a file laid out as the state; zeros for the optimizer."""
    found = {}
    for tensor in entry["tensors"]:
        if tensor["kind"] in kinds:
            array = np.zeros(tensor["shape"], np.float32)
            if tensor["kind"] != "optimizer":
                array = np.frombuffer(data, "<f4", tensor["bytes"] // 4, tensor["offset"]).reshape(tensor["shape"])
            found[tensor["name"]] = array
    return found


def losses(package: Path, x: np.ndarray, y: np.ndarray, *, batch: int, seed: int, rate: float) -> Iterator[float]:
    """The losses of training by the format's rules, epoch after epoch."""
    entry = description(package)["entries"][0]
    kept, graph, names = features(package, x), session(package / entry["step"]), entry["names"]
    start = stored(entry, (package / entry["state"]).read_bytes(), ("parameter", "statistic", "optimizer"))
    values = {tensor["input"]: start[tensor["name"]] for tensor in entry["tensors"]}
    step = epoch = 0
    while True:
        epoch += 1
        order = shuffled(len(x), seed, epoch)
        for first in range(0, len(x), batch):
            rows, step = order[first : first + batch], step + 1
            feeds = {**{name: array[rows] for name, array in kept.items()}, names["labels"]: y[rows], **values}
            feeds |= {names["learning_rate"]: np.float32(rate), names["step"]: np.int64(step)}
            made = run_graph(graph, {name: np.asarray(value) for name, value in feeds.items()})
            values = {tensor["input"]: made[tensor["output"]] for tensor in entry["tensors"]}
            yield float(made[names["loss"]])


def scores(package: Path, x: np.ndarray) -> dict[str, float]:
    """The score of each layer, by the format's rules."""
    content = description(package)
    scoring = content["scoring"]
    graph = session(package / scoring["file"])
    samples = x[: scoring["samples"]]
    rows = [run_graph(graph, {content["inputs"][0]["name"]: samples[i : i + 1]}) for i in range(len(samples))]
    points, random = min(scoring["points"], len(samples)), Random(scoring["seed"], 0)
    count = 1 if points == len(samples) else scoring["subsets"]
    subsets = [np.array(random.subset(len(samples), points)) for _ in range(count)]
    found = {}
    for layer in scoring["layers"]:
        numbers = np.stack([row[layer["output"]].ravel() for row in rows]).astype(np.float64)
        assert numbers.shape[1] == layer["numbers"]
        distance = np.sqrt(((numbers[:, np.newaxis] - numbers) ** 2).sum(-1))
        found[layer["name"]] = float(np.mean(betti_numbers(distance, subsets))) / (points * layer["size"])
    return found
