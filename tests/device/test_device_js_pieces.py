"""The pieces of samples/web/core: random numbers, hashes, files and pictures according to the format; module types."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from conftest import ROOT
from device_js import MODULES, Random, check_types, compiled, job, read_safetensors, shuffle
from PIL import Image

from adabet_onnx.data.preprocess import Arithmetic

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("compiled"))


def test_the_pieces_are_those_of_the_format(core, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    rules = [
        (Arithmetic(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), False, 1, 3),
        (Arithmetic(1 / 127.5, (1.0,), (1.0,)), True, 3, 3),
        (Arithmetic(1 / 255, (0.5,), (0.3,)), False, 1, 1),
    ]
    cases, fed = [], []
    for arithmetic, bgr, axis, channels in rules:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert("RGB" if channels == 3 else "L")
        array = np.asarray(image).reshape(4, 6, channels)[..., :: -1 if bgr else 1]
        array = array if axis == 3 else array.transpose(2, 0, 1)
        fed.append(arithmetic.apply(array[np.newaxis], axis).ravel().tolist())
        rule = {**arithmetic.to_json(), "bgr": bgr, "channel_axis": axis}
        cases.append({"shape": ["N", *array.shape], "rule": rule})
    shuffles, subsets = [(1, 0, 1), (10, 3, 1), (100, 2**32 - 1, 9)], [(10, 4, 0), (64, 32, 5), (5, 5, 1)]
    settings = {"shuffles": shuffles, "subsets": subsets, "file": tmp_path / "file.safetensors"}
    picture = {"pixels": pixels.ravel().tolist(), "width": 6, "height": 4, "cases": cases}
    said = job(core, "units", **settings, **picture)
    assert said["numbers"] == [2049673234, 658261152, 3573920880, 3099447095]
    assert said["shuffles"] == [shuffle(*case) for case in shuffles]
    assert said["subsets"] == [Random(seed, 0).subset(n, m) for n, m, seed in subsets]
    content = bytes(i * 7 & 255 for i in range(1000))
    assert said["here"] == [hashlib.sha256(content[:size]).hexdigest() for size in [*range(140), 1000]]
    assert said["crypto"] == said["here"][-1]
    metadata, tensors = read_safetensors(tmp_path / "file.safetensors")
    assert metadata == said["metadata"] == {"format": "test", "schlüssel": "wert"}
    assert list(tensors) == ["12", 'ä"\u2028', "1"]
    assert {t["name"]: (t["shape"], t["data"]) for t in said["read"]} == {
        name: (list(array.shape), array.ravel().tolist()) for name, array in tensors.items()
    }
    assert said["distances"] == [0, 5, 10, 5, 0, 5, 10, 5, 0]
    for found, expected in itertools.zip_longest(said["fed"], fed):
        np.testing.assert_array_equal(np.float32(found), np.float32(expected))
    assert said["size"]["code"] == "wrong-shape"


def test_the_module_types_of_every_runtime_fit(tmp_path):
    text = 'import {{ open }} from "{core}";\nimport type {{ Ort }} from "{core}";\n{imports}\nexport {{ open }};\n'
    imports = [
        f'import * as {name} from "onnxruntime-{name}";\nexport const of_{name}: Ort = {name};'
        for name in ("node", "web", "common")
        if (MODULES / f"onnxruntime-{name}").is_dir()
    ]
    assert len(imports) == 3
    core = str(ROOT / "samples" / "web" / "core" / "index.js")
    (tmp_path / "types.ts").write_text(text.format(core=core, imports="\n".join(imports)))
    lib = ["ES2022", "DOM"]
    check_types(tmp_path, [str(tmp_path / "types.ts")], rootDir="/", outDir=str(tmp_path / "out"), noEmit=True, lib=lib)
