"""From Keras and SavedModels: batch normalisations and variable names are kept, and the README's chain."""

from __future__ import annotations

import json
import os
import subprocess

import numpy as np
import onnx
import pytest
from converter_runs import CONVERTERS, MANY, TIMEOUT, convert, need_keras, operators, run_chain, values

from adabet_onnx import open_model

MAKE = """
import keras, numpy as np
from keras import layers as L
keras.utils.set_random_seed(0)
start = keras.Input((16, 16, 3))
x = L.Conv2D(8, 3, strides=2, padding="same", name="stem")(start)
for i in range(2):
    y = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
    y = L.ReLU()(L.BatchNormalization(name=f"conv_bn{i}")(y))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depth{i}")(y)
    y = L.ReLU(6)(L.BatchNormalization(scale=False, name=f"depth_bn{i}")(y))
    y = L.SeparableConv2D(8, 3, padding="same", name=f"separable{i}")(y)
    x = L.add([x, L.BatchNormalization(center=False, name=f"separable_bn{i}")(y)])
x = L.GlobalAveragePooling2D()(x)
x = L.BatchNormalization(name="dense_bn")(L.Dense(16, name="dense")(x))
x = L.Dense(4, activation="softmax", name="head")(L.Dropout(0.5)(x))
model = keras.Model(start, x)
for layer in model.layers:  # statistics as after training; equal scales and biases stay equal
    if isinstance(layer, L.BatchNormalization):
        layer.moving_mean.assign(np.random.normal(0, 0.1, layer.moving_mean.shape))
        layer.moving_variance.assign(np.random.uniform(0.5, 1.5, layer.moving_mean.shape))
model.save("model.keras")
model.save("model.h5")
model.export("exported", verbose=False)
"""


@pytest.fixture(scope="module")
def python():
    return need_keras()


@pytest.fixture(scope="module")
def folder(python, tmp_path_factory):
    """A model in every form, and all but .keras converted."""
    folder = tmp_path_factory.mktemp("keras")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([python, "-c", MAKE], cwd=folder, check=True, capture_output=True, timeout=TIMEOUT, env=environment)
    many = [[name, "-o", f"{name}.onnx"] for name in ("model.h5", "exported")]
    command = [python, "-c", MANY, CONVERTERS, "from_keras", json.dumps(many)]
    subprocess.run(command, cwd=folder, check=True, timeout=TIMEOUT, env=environment)
    return folder


def test_chain(python, folder, rng):
    x = rng.integers(0, 256, (96, 16, 16, 3), np.uint8)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 4, 96))
    run_chain(python, "Keras", folder)
    check(folder / "model.onnx")


@pytest.mark.parametrize("name", ["model.h5", "exported"])
def test_other_forms(folder, name):
    check(folder / f"{name}.onnx")


def check(path):
    """Everything that there is to choose from is there, under its name."""
    assert operators(path).count("BatchNormalization") == 7
    assert operators(path).count("Transpose") <= 2  # of the images alone
    layers = [layer.name for layer in open_model(path).layers]
    for index in range(2):
        assert {f"conv{index}", f"conv_bn{index}", f"depth{index}", f"depth_bn{index}"} <= set(layers)
    assert {"stem", "dense", "dense_bn", "head"} <= set(layers)
    named = set(values(onnx.load(path)))
    assert {"conv0/kernel", "conv_bn0/gamma", "conv_bn1/beta", "dense_bn/moving_variance"} <= named


def test_what_is_refused(python, tmp_path):
    assert "neither a .keras" in convert(python, "from_keras", "none.keras", "-o", "m.onnx", cwd=tmp_path, expect=2)
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04nonsense")
    said = convert(python, "from_keras", "broken.keras", "-o", "m.onnx", cwd=tmp_path, expect=1)
    assert "broken.keras cannot be loaded" in said
    assert not list(tmp_path.glob("*.onnx"))
