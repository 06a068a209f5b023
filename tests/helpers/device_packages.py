"""Small handwritten device packages for tests of readers; only the scoring graph can be run.

Written according to docs/device-package.md, independently of the package's own writer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

MODEL = "ab" * 32
GRAPHS = ("frozen.onnx", "step.onnx", "eval.onnx", "predict.onnx", "device.onnx", "probes.onnx")
LAYERS = ("conv", "fc")
FEATURES, SIZE, SAMPLES, POINTS, SUBSETS, SEED = 6, 4, 24, 16, 8, 7


def scoring_graph() -> onnx.ModelProto:
    """Two layers: x W, and tanh of it times V."""
    rng = np.random.default_rng(0)
    values = {
        "w": rng.standard_normal((FEATURES, SIZE)).astype(np.float32),
        "v": rng.standard_normal((SIZE, SIZE)).astype(np.float32),
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["one"]),
        onnx.helper.make_node("Tanh", ["one"], ["between"]),
        onnx.helper.make_node("MatMul", ["between", "v"], ["two"]),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "probes",
        [info("x", onnx.TensorProto.FLOAT, ["N", FEATURES])],
        [info(name, onnx.TensorProto.FLOAT, ["N", SIZE]) for name in ("one", "two")],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def tensor(name: str, kind: str, shape: list[int], offset: int) -> dict[str, Any]:
    size = 4 * int(np.prod(shape))
    return {
        "name": name,
        "kind": kind,
        "input": f"{name}/in",
        "output": f"{name}/out",
        "dtype": "float32",
        "shape": shape,
        "offset": offset,
        "bytes": size,
    }


def description() -> dict[str, Any]:
    """One entry: a weight of which two channels are trained, a bias, a statistic and the optimizer's tensors."""
    tensors = [
        {**tensor("fc.weight", "parameter", [2, 4], 0), "channels": {"axis": 0, "indices": [0, 3]}},
        tensor("fc.bias", "parameter", [5], 64),
        tensor("bn.mean", "statistic", [3], 128),
        tensor("fc.weight/m", "optimizer", [2, 4], 192),
    ]
    entry = {
        "name": "last",
        "layers": ["fc"],
        "trained": 13,
        "frozen": "frozen.onnx",
        "step": "step.onnx",
        "evaluation": "eval.onnx",
        "prediction": "predict.onnx",
        "state": "state.bin",
        "model": "device.onnx",
        "selected": "selected.bin",
        "selected_bytes": 192,
        "boundary": [
            {"name": "kept", "dtype": "float32", "shape": ["N", 4], "bytes": 16, "input": None},
            {"name": "x2", "dtype": "float32", "shape": ["N", 6], "bytes": 24, "input": "x"},
        ],
        "names": {"labels": "labels", "learning_rate": "rate", "step": "number", "loss": "loss", "logits": "logits"},
        "logits_shape": ["N", 3],
        "class_axis": 1,
        "tensors": tensors,
        "memory": [[1, 1000], [8, 4001], [32, 15000]],
        "multiply_adds": {"frozen": 24, "step": 48},
    }
    scoring = {
        "file": "probes.onnx",
        "samples": SAMPLES,
        "points": POINTS,
        "subsets": SUBSETS,
        "seed": SEED,
        "layers": [
            {"name": name, "output": output, "numbers": SIZE, "size": size}
            for name, output, size in zip(LAYERS, ("one", "two"), (SIZE, 4 * SIZE), strict=True)
        ],
    }
    return {
        "format": "adabet-onnx/device",
        "version": 1,
        "model": "digits",
        "model_sha256": MODEL,
        "opset": 17,
        "ir_version": 8,
        "oldest_onnxruntime": "1.17",
        "profile": None,
        "forward_batch": None,
        "loss": "cross-entropy",
        "files": [],
        "weights": "weights.bin",
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", FEATURES]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 3], "role": "logits"}],
        "labels": {"dtype": "int64", "shape": ["N"], "classes": 3, "ignore": -100},
        "class_names": ["ant", "bee", "cat"],
        "preprocessing": {
            "scale": 0.5,
            "mean": [0.1],
            "std": [1, 2.5],
            "channel_axis": 1,
            "data": "float",
            "bgr": False,
        },
        "training": {"learning_rate": 0.001, "batch_size": 8, "epochs": 5, "seed": 0},
        "scoring": scoring,
        "entries": [entry],
        "something new": {"that": "no reader knows"},
    }


def write_package(folder: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    """Write a package, after applying ``change`` to its description."""
    folder.mkdir(exist_ok=True)
    state = np.zeros(192, np.uint8)
    rng = np.random.default_rng(1)
    for offset, size in ((0, 32), (64, 20), (128, 12)):
        numbers = rng.standard_normal(size // 4).astype("<f4")
        state[offset : offset + size] = np.frombuffer(numbers.tobytes(), np.uint8)
    contents = {name: rng.bytes(50) for name in GRAPHS} | {"weights.bin": rng.bytes(2048)}
    contents |= {"state.bin": state.tobytes(), "selected.bin": state.tobytes()}
    contents["probes.onnx"] = scoring_graph().SerializeToString()
    content = description()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        content["files"].append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    change(content)
    (folder / "device.json").write_text(json.dumps(content))
    return folder
