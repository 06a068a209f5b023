"""Mistakes of users and senders, for the programs of the samples in every language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from device_programs import DeviceProgram
from device_rules import description
from safetensors.numpy import load_file, save_file

COMMON: Mapping[str, str] = {  # the messages of samples/c, as patterns; other languages differ in a few
    "a sample cut": "wrong shape: data: 'input' has .* expected a multiple of that",
    "few samples": "too few: there are 7 samples; scoring needs at least 8$",
    "a label": "wrong label: data: label 7 is 10; expected 0 to 9",
    "labels": "wrong shape: .* labels for 299 samples, but 300 samples",
    "no labels": "usage: data: the array for 'labels' is missing",
    "no batch": "usage: a batch size of 0 and 5 epochs; expected at least 1",
    "NaN": "not finite: the loss is -?nan in step 1: use a learning rate",
    "NaN scored": "not finite: the activation of layer 'stem.conv' is not finite",
    "a rate": "not finite: the loss is .* in step 2: .* below",
    "memory": "no memory: .* trained in 1000 bytes .*: the smallest needs",
    "an entry": "usage: there is no entry 'no'; the package has 'layers'",
    "another model": "wrong model: .*: 'model_sha256' is 0+; expected 5321",
    "cut short": "wrong file: .*cut: '.*' has no valid dtype, shape",
    "damaged": "wrong hash: .*damaged: its data has the SHA-256",
}


def wrong_deltas(program: DeviceProgram, folder: Path) -> None:
    """Files that are not a delta for the package."""
    whole = program.place("delta").read_bytes()
    tensors = load_file(program.place("delta"))
    metadata = {"format": "adabet-onnx/delta", "version": "1", "entry": "layers", "sha256": ""}
    save_file(tensors, folder / "other", metadata | {"model_sha256": "0" * 64})
    metadata["model_sha256"] = description(program.package)["model_sha256"]
    save_file(tensors, folder / "unknown", metadata | {"entry": "none"})
    save_file(tensors, folder / "unsigned", metadata)
    (folder / "cut").write_bytes(whole[:-1])
    (folder / "header").write_bytes(whole[:100])
    damaged = bytearray(whole)
    damaged[-9] ^= 1
    (folder / "damaged").write_bytes(damaged)


def mistakes(program: DeviceProgram, folder: Path) -> dict[str, tuple[str, dict[str, object]]]:
    """Command and options of each mistake; the program must have been trained, and its files come into the folder."""
    x, y = program.place("x"), program.place("y")
    (folder / "short").write_bytes(x.read_bytes()[:-4])
    (folder / "few").write_bytes(x.read_bytes()[: 7 * 1024])
    labels = np.fromfile(y, "<i8")
    labels[7] = 10
    labels.tofile(folder / "labels")
    labels[:-1].tofile(folder / "fewer")
    np.full(300 * 256, np.nan, "<f4").tofile(folder / "nan")
    wrong_deltas(program, folder)
    return {
        "a sample cut": ("score", {"x": folder / "short"}),
        "few samples": ("score", {"x": folder / "few"}),
        "a label": ("fit", {"x": x, "y": folder / "labels"}),
        "labels": ("fit", {"x": x, "y": folder / "fewer"}),
        "no labels": ("fit", {"x": x}),
        "no batch": ("fit", {"x": x, "y": y, "batch": 0}),
        "NaN": ("fit", {"x": folder / "nan", "y": y}),
        "NaN scored": ("score", {"x": folder / "nan"}),
        "a rate": ("fit", {"x": x, "y": y, "rate": "1e30"}),
        "memory": ("score", {"x": x, "memory": 1000}),
        "an entry": ("fit", {"x": x, "y": y, "entry": "no"}),
        "another model": ("save", {"from": folder / "other"}),
        "another entry": ("save", {"from": folder / "unknown"}),
        "no hash": ("save", {"from": folder / "unsigned"}),
        "cut short": ("save", {"from": folder / "cut"}),
        "cut shorter": ("save", {"from": folder / "header"}),
        "damaged": ("save", {"from": folder / "damaged"}),
        "nothing": ("save", {"from": folder / "none"}),
        "a folder": ("save", {"from": folder}),
        "nowhere": ("save", {"from": program.place("delta"), "delta": "/nowhere/d"}),
        "an option": ("save", {"form": 1}),
        "no runtime": ("show", {"onnxruntime": "/nowhere.so"}),
    }
