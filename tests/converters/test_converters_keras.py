"""From Keras and SavedModels: batch normalisations and variable names are kept, and the README's chain."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from converter_runs import convert, need_keras, operators, run, run_chain, values
from converter_sources import KERAS
from models import tiny

from adabet_onnx import open_model

pytestmark = pytest.mark.usefixtures("checked_here")

# A trained model as Keras 2 saved it: the optimizer's moments are slots of an object that Keras 3 does not have, so
# that TensorFlow itself cannot load it.
OLD_KERAS = """
import numpy as np, tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
old = tf.Module()
old.kernel = tf.Variable(tf.random.stateless_normal((6, 4), (1, 2)), name="head/kernel")
old.bias = tf.Variable([0.1, 0.2, 0.3, 0.4], name="head/bias")
old.optimizer = tf.Module()
old.optimizer.moment = tf.Variable(tf.ones((6, 4)), name="head/kernel/m")
call = tf.function(lambda x: x @ old.kernel + old.bias)
signature = call.get_concrete_function(tf.TensorSpec((None, 6), name="x"))
tf.saved_model.save(old, "old", signatures=signature)
saved = SavedModel()
saved.ParseFromString(open("old/saved_model.pb", "rb").read())
nodes = saved.meta_graphs[0].object_graph_def.nodes
of = {child.local_name: child.node_id for child in nodes[0].children}
optimizer = nodes[of["optimizer"]]
moment = optimizer.children[0].node_id
optimizer.slot_variables.add(original_variable_node_id=of["kernel"], slot_name="m", slot_variable_node_id=moment)
del optimizer.children[:]
open("old/saved_model.pb", "wb").write(saved.SerializeToString())
try:
    tf.saved_model.load("old")
except AttributeError as error:
    assert "'_UserObject' object has no attribute 'add_slot'" in str(error), error
else:
    raise SystemExit("TensorFlow loads it, so the test tests nothing")
x = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6)
np.savez("old.npz", x=x, expected=x @ old.kernel.numpy() + old.bias.numpy())
"""


@pytest.fixture(scope="module")
def python():
    return need_keras()


@pytest.fixture(scope="module")
def converted(python, tmp_path_factory):
    """A model in every form, all except .keras converted, with the messages."""
    folder = tmp_path_factory.mktemp("keras")
    run(python, "-c", KERAS + OLD_KERAS, cwd=folder)
    (folder / "broken.keras").write_bytes(b"PK\x03\x04nonsense")
    names = ("model.h5", "exported", "old", "broken.keras", "none.keras")
    found = convert(python, "from_keras", *([name, "-o", f"{name}.onnx"] for name in names), cwd=folder)
    return folder, dict(zip(names, found, strict=True))


def test_chain(python, converted, rng):
    folder, _ = converted
    x = rng.integers(0, 256, (96, 16, 16, 3), np.uint8)
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 4, 96))
    run_chain(python, "Keras", folder)
    check(folder / "model.onnx")


@pytest.mark.parametrize("name", ["model.h5", "exported"])
def test_other_forms(converted, name):
    folder, found = converted
    assert found[name][0] == 0, found[name]
    check(folder / f"{name}.onnx")


def test_a_saved_model_with_the_slots_of_an_old_optimizer(converted):
    folder, found = converted
    assert found["old"][0] == 0, found["old"]
    data = np.load(folder / "old.npz")
    proto = onnx.load(folder / "old.onnx")
    assert {"head/kernel", "head/bias"} <= set(values(proto))
    assert not any("/m" in name for name in values(proto)), "the moments are no part of the model"
    np.testing.assert_allclose(tiny.run(proto, data["x"]), data["expected"], atol=1e-6)
    assert sorted(path.name for path in (folder / "old").iterdir())[-2:] == ["saved_model.pb", "variables"]


def check(path):
    """All choices exist, under their names."""
    assert operators(path).count("BatchNormalization") == 7
    assert operators(path).count("Transpose") <= 2  # of the images alone
    layers = [layer.name for layer in open_model(path).layers]
    for index in range(2):
        assert {f"conv{index}", f"conv_bn{index}", f"depth{index}", f"depth_bn{index}"} <= set(layers)
    assert {"stem", "dense", "dense_bn", "head"} <= set(layers)
    named = set(values(onnx.load(path)))
    assert {"conv0/kernel", "conv_bn0/gamma", "conv_bn1/beta", "dense_bn/moving_variance"} <= named


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("none.keras", 2, "neither a .keras"), ("broken.keras", 1, "broken.keras cannot be loaded")],
)
def test_what_is_refused(converted, name, code, message):
    folder, found = converted
    assert found[name][0] == code, found[name]
    assert message in found[name][1]
    assert not (folder / f"{name}.onnx").exists()
