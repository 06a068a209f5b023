"""Half precision and double: the opened model is float32 and computes the same as the file, except for rounding."""

from __future__ import annotations

import numpy as np
import pytest
from models import tiny
from models.number_formats import TYPES, converted
from models.tiny import node, normal
from onnx import TensorProto, numpy_helper

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.model.passes.single_precision import SinglePrecision
from adabet_onnx.scoring.options import Scoring

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("build", [tiny.conv_net, tiny.mlp])
def test_weights_become_float32(kind, build, rng):
    model, expected = open_model(converted(build(), kind)), open_model(build())
    assert model.inputs == expected.inputs
    assert [layer.parameters for layer in model.layers] == [layer.parameters for layer in expected.layers]
    assert any(f"{kind} was converted to float32" in note for note in model.notes)
    x = rng.standard_normal((3, *expected.inputs[0].shape[1:])).astype(np.float32)
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(build(), x)) < TYPES[kind][2]


def test_the_note_says_how_far_the_original_is():
    (note,) = open_model(converted(tiny.conv_net(), "float16")).notes
    share = float(note.split("differ by ")[1].split()[0])
    assert 0 < share < 0.01


def test_both_graphs_give_the_same(rng):
    import onnx_ir as ir

    proto = converted(tiny.conv_net(), "float16")
    model = ir.from_proto(proto)
    assert SinglePrecision()(model).modified
    x = rng.standard_normal((3, 3, 8, 8)).astype(np.float32)
    assert tiny.difference(tiny.run(model, x), tiny.run(proto, x.astype(np.float16)).astype(np.float32)) < 0.01
    assert not SinglePrecision()(model).modified


def test_mixed_precision_loses_its_casts(rng):
    """As torch exports autocast: float32 weights, cast where they are used, and cast back."""
    half = TensorProto.FLOAT16
    nodes = [
        node("Cast", ["input"], ["xh"], "/cast", to=half),
        node("Cast", ["fc.weight"], ["wh"], "/cast_weight", to=half),
        node("MatMul", ["xh", "wh"], ["m"], "/fc"),
        node("Cast", ["m"], ["back"], "/back", to=TensorProto.FLOAT),
        node("Constant", [], ["k"], "/k", value=numpy_helper.from_array(np.float16(0.5), "k")),
        node("Cast", ["back"], ["again"], "/again", to=half),
        node("Mul", ["again", "k"], ["scaled"], "/scale"),
        node("Cast", ["scaled"], ["logits"], "/last", to=TensorProto.FLOAT),
    ]
    proto = tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6))
    model = open_model(proto)
    assert [item.op_type for item in model.graph.graph] == ["MatMul", "Mul"]
    assert [layer.name for layer in model.layers] == ["fc"]
    x = rng.standard_normal((4, 6)).astype(np.float32)
    assert tiny.difference(tiny.run(model.proto(), x), tiny.run(proto, x)) < 0.01


def test_integers_cast_to_half_stay_casts(rng):
    nodes = [
        node("Cast", ["fc.weight"], ["w"], "/cast", to=TensorProto.FLOAT16),
        node("Cast", ["input"], ["xi"], "/int", to=TensorProto.INT32),
        node("Cast", ["xi"], ["xh"], "/half", to=TensorProto.FLOAT16),
        node("MatMul", ["xh", "w"], ["m"], "/fc"),
        node("Cast", ["m"], ["logits"], "/last", to=TensorProto.FLOAT),
    ]
    proto = tiny.build(nodes, {"fc.weight": normal(6, 3)}, input_shape=("N", 6))
    x = (10 * rng.standard_normal((4, 6))).astype(np.float32)
    assert tiny.difference(tiny.run(open_model(proto).proto(), x), tiny.run(proto, x)) < 0.01


def test_what_float32_cannot_hold_is_its_largest_number():
    nodes = [node("Gemm", ["input", "w"], ["g"], "/fc"), node("Max", ["g", "least"], ["logits"], "/max")]
    proto = tiny.build(nodes, {"w": normal(6, 3), "least": np.full(3, -1.0, np.float32)}, input_shape=("N", 6))
    proto = converted(proto, "double")
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([-1e300, -np.inf, 0.0]), "least"))
    found = open_model(proto).graph.graph.initializers["least"].const_value.numpy()
    np.testing.assert_array_equal(found, np.array([-np.finfo(np.float32).max, -np.inf, 0], np.float32))


def test_a_double_in_a_formula_is_left():
    nodes = [
        node("Gemm", ["input", "w"], ["g"], "/fc"),
        node("Cast", ["g"], ["d"], "/double", to=TensorProto.DOUBLE),
        node("Mul", ["d", "k"], ["m"], "/scale"),
        node("Cast", ["m"], ["logits"], "/single", to=TensorProto.FLOAT),
    ]
    proto = tiny.build(nodes, {"w": normal(6, 3), "k": np.float64(2)}, input_shape=("N", 6))
    assert open_model(proto).notes == ()


def test_a_half_model_is_scored_and_trained(tmp_path, rng):
    model = open_model(converted(tiny.conv_net(), "float16"))
    x, y = rng.standard_normal((40, 3, 8, 8)).astype(np.float32), np.arange(40) % 4
    selection = select(score(model, (x, y), preset="none", scoring=Scoring(samples=32, subsets=2)), rho=0.4)
    make_artifacts(model, selection, tmp_path / "artifacts", backend="portable")


def test_inputs_in_half_precision_with_a_fixed_batch():
    proto = converted(tiny.conv_net(batch=1), "float16")
    model = open_model(proto)
    assert (model.inputs[0].dtype, model.inputs[0].shape) == ("float32", ("N", 3, 8, 8))
    assert len(model.notes) == 2
