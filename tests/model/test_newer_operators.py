"""Operators of opsets 23 to 25, rewritten with older ones: values and gradients against torch, and rejections."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models.newer import FEATURES, POSITIONS, WIDTH, Case, text
from models.tiny import normal, run

from adabet_onnx import Choices, ModelError, make_artifacts, open_model
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")
X = normal(5, POSITIONS, WIDTH, scale=1.0)
X[0, :, 0] = -1.0  # if a mask is computed from it, this sample sees nothing
LABELS = np.array([0, 2, 1, 1, 0])

CASES = {
    "plain": Case(),
    "of three axes": Case(axes=3),
    "grouped": Case(heads=4, few=2),
    "grouped of three axes": Case(axes=3, heads=4, few=1),
    "causal": Case(attributes=(("is_causal", 1),)),
    "causal, fewer queries": Case(queries=4, attributes=(("is_causal", 1),)),
    "causal, fewer keys": Case(axes=3, keys=4, attributes=(("is_causal", 1),)),
    "scale": Case(attributes=(("scale", 0.9),)),
    "softcap": Case(attributes=(("softcap", 0.7), ("is_causal", 1)), mask="bool"),
    "mask of bools": Case(mask="bool"),
    "mask of floats": Case(axes=3, mask="float"),
    "mask of floats, causal": Case(mask="float", attributes=(("is_causal", 1),)),
    "mask of bools that hides all": Case(mask="seen", attributes=(("is_causal", 1),)),
    "mask of floats that hides all": Case(mask="bias"),
    "mask of floats that hides all, causal": Case(mask="bias", attributes=(("is_causal", 1),)),
    "opset 24": Case(opset=24, heads=4, attributes=(("is_causal", 1),)),
    "window": Case(opset=25, attributes=(("left_window_size", 2), ("right_window_size", 1))),
    "window, causal": Case(opset=25, attributes=(("left_window_size", 1), ("is_causal", 1))),
}


def step(proto, tmp_path, names) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gradients of cross-entropy by name, and logits, of a training step."""
    model = open_model(proto)
    layers = [layer for layer in model.layers if any(p.name in names for p in layer.parameters)]
    selection = Selection(model.sha256, "layers", tuple(layer.name for layer in layers), tuple(names))
    made = make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    session = made.session(made.initial, threads=1)
    _, logits = session.gradients({"input": X}, LABELS)
    return {name: session.gradient(name) for name in names}, logits


def in_torch(function, weights, names) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The same by torch, in float64."""
    import torch

    tensors = {name: torch.from_numpy(array.astype(np.float64)) for name, array in weights.items()}
    for name in names:
        tensors[name].requires_grad_()
    logits = function(torch.from_numpy(X).double(), tensors)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)).backward()
    return {name: tensors[name].grad.numpy() for name in names}, logits.detach().numpy()


def agree(proto, function, weights, names, tmp_path) -> None:
    found, logits = step(proto, tmp_path, names)
    wanted, expected = in_torch(function, weights, names)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run(open_model(proto).proto(), X), expected, rtol=1e-4, atol=1e-5)
    for name in names:
        size = np.abs(wanted[name]).max()
        assert size > 1e-4
        assert np.abs(found[name] - wanted[name]).max() <= 1e-4 * size, name


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_attention_equals_torch(name, tmp_path, torch_oracle):
    case = CASES[name]
    agree(case.model(), case.in_torch, case.weights, ("q.weight", "k.weight", "v.weight"), tmp_path)


def test_a_cap_and_a_mask_are_pointed_out():
    """The check against onnxruntime would blame the rewrite: 1.23 applies the two in the other order."""
    notes = [any("caps its scores before" in note for note in open_model(CASES[name].model()).notes) for name in CASES]
    assert [name for name, found in zip(CASES, notes, strict=True) if found] == ["softcap"]


def test_attention_equals_that_of_torch_itself(torch_oracle):
    """The tests' own formula, against torch's function."""
    import torch

    case = Case(heads=4, few=2, attributes=(("is_causal", 1),))
    weights = {name: torch.from_numpy(array.astype(np.float64)) for name, array in case.weights.items()}
    x = torch.from_numpy(X).double()
    q, k, v = ((x @ weights[f"{n}.weight"]).reshape(5, POSITIONS, -1, FEATURES).transpose(1, 2) for n in "qkv")
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    wanted = y.transpose(1, 2).reshape(5, POSITIONS, -1).mean(1) @ weights["fc.weight"] + weights["fc.bias"]
    np.testing.assert_allclose(case.in_torch(x, weights), wanted, rtol=1e-9)


ROTARY = [
    (axes, interleaved, part, positions)
    for axes, interleaved, part, positions in (
        (3, 0, 0, True),
        (3, 1, 0, True),
        (4, 0, 0, False),
        (4, 1, 4, True),
        (4, 0, 4, True),
        (3, 1, 4, False),
        (4, 0, 6, False),
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "interleaved", "part", "positions"), ROTARY)
def test_rotary_embedding_equals_complex_numbers(axes, interleaved, part, positions, tmp_path, torch_oracle):
    """Against a product with e^(i angle)."""
    import torch

    heads, features, turned = 2, 6, part or 6
    angles = normal(POSITIONS + 3, turned // 2, scale=2.0)
    ids = (np.arange(POSITIONS) + 2) % POSITIONS if positions else np.arange(POSITIONS)
    weights = {
        "q.weight": normal(WIDTH, heads * features),
        "fc.weight": normal(heads * features, 3),
        "fc.bias": normal(3),
    }
    stored = {
        "cos": np.cos(angles) if positions else np.cos(angles[None, :POSITIONS]),
        "sin": np.sin(angles) if positions else np.sin(angles[None, :POSITIONS]),
    }
    if positions:
        stored["ids"] = ids[None].astype(np.int64)
    attributes = f"interleaved = {interleaved}, rotary_embedding_dim = {part}" + f", num_heads = {heads}" * (axes == 3)
    node = f"RotaryEmbedding<{attributes}>"
    last = ", ids" if positions else ""
    body = f"""q = MatMul(input, "q.weight")
        shape = Constant<value_ints = [0, 0, {heads}, {features}]>()  back = Constant<value_ints = [0, 0, -1]>()
        s = Reshape(q, shape)  t = Transpose<perm = [0, 2, 1, 3]>(s)  r = {node}(t, cos, sin{last})
        u = Transpose<perm = [0, 2, 1, 3]>(r)  w = Reshape(u, back)  y = Mul(w, w)"""
    if axes == 3:
        body = f'q = MatMul(input, "q.weight")  w = {node}(q, cos, sin{last})  y = Mul(w, w)'

    def function(x, tensors):
        q = (x @ tensors["q.weight"]).reshape(5, POSITIONS, heads, features)
        head, rest = q[..., :turned], q[..., turned:]
        pairs = head.unflatten(-1, (-1, 2)) if interleaved else head.unflatten(-1, (2, -1)).transpose(-1, -2)
        turn = torch.polar(torch.ones(()).double(), torch.from_numpy(angles[ids]).double())[None, :, None]
        made = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        made = made.flatten(-2) if interleaved else made.transpose(-1, -2).flatten(-2)
        y = torch.cat([made, rest], -1).flatten(-2) ** 2
        return y.mean(1) @ tensors["fc.weight"] + tensors["fc.bias"]

    proto = text(body, weights | stored, opset=23)
    agree(proto, function, weights, ("q.weight",), tmp_path)


@pytest.mark.parametrize("axis", [-1, 2, 1])
def test_rms_normalization_equals_torch(axis, tmp_path, torch_oracle):
    import torch

    shape = (WIDTH,) if axis != 1 else (POSITIONS, WIDTH)
    weights = {"q.weight": normal(WIDTH, WIDTH), "n.weight": 1 + normal(*shape), "fc.weight": normal(WIDTH, 3)}
    weights["fc.bias"] = normal(3)
    body = f"""q = MatMul(input, "q.weight")
        y = RMSNormalization<axis = {axis}, epsilon = 0.01>(q, "n.weight")"""

    def function(x, tensors):
        y = torch.nn.functional.rms_norm(x @ tensors["q.weight"], shape, tensors["n.weight"], eps=0.01)
        return y.mean(1) @ tensors["fc.weight"] + tensors["fc.bias"]

    names = ("q.weight", "n.weight") if axis != 1 else ("q.weight",)
    agree(text(body, weights, opset=23), function, weights, names, tmp_path)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swish_equals_torch(alpha, tmp_path, torch_oracle):
    weights = {"q.weight": normal(WIDTH, 4), "fc.weight": normal(4, 3), "fc.bias": normal(3)}

    def function(x, tensors):
        q = x @ tensors["q.weight"]
        return (q * (alpha * q).sigmoid()).mean(1) @ tensors["fc.weight"] + tensors["fc.bias"]

    body = f'q = MatMul(input, "q.weight")  y = Swish<alpha = {alpha}>(q)'
    agree(text(body, weights, opset=24), function, weights, ("q.weight",), tmp_path)


# --- what is refused, and what opens ---------------------------------------------------------------------------


def attention(inputs: str, attributes: str = "", opset: int = 24) -> onnx.ModelProto:
    weights = {"q.weight": normal(WIDTH, 4), "fc.weight": normal(4, 3), "fc.bias": normal(3)}
    weights["cache"] = np.zeros((1, 1, 2, 4), np.float32)
    weights["many"] = np.array([POSITIONS], np.int64)
    weights["short"] = np.ones((POSITIONS, 2), bool)
    weights = {name: array for name, array in weights.items() if name in inputs or "." in name}
    body = f"""q = MatMul(input, "q.weight")
        y = Attention<q_num_heads = 1, kv_num_heads = 1{attributes}>(q, q, q, {inputs})"""
    return text(body, weights, opset=opset)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (", cache, cache", r"reads past_key, .*Export the model without a cache .*use_cache=False"),
        (", , , many", r"reads nonpad_kv_seqlen, .*Export the model without a cache"),
        ("short", r"has a mask of 2 keys, but there are 7 keys, .*with a mask of all keys"),
    ],
)
def test_what_attention_takes_that_is_not_supported_is_named(inputs, why):
    proto = attention(inputs)
    with pytest.raises(ModelError, match=r"node '/Attention_1' \(Attention\) " + why):
        open_model(proto)
    assert open_model(attention("")).layers  # what the message says to do


def test_a_newer_operator_that_is_not_known_is_named():
    weights = {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3), "update": np.zeros((1, 1, WIDTH), np.float32)}
    proto = text("y = TensorScatter<axis = 1>(input, input)", weights, opset=24)
    with pytest.raises(ModelError, match=r"\(TensorScatter\) is an unsupported operator of opset 24.*21"):
        open_model(proto)


@pytest.mark.parametrize(("opset", "ir_version"), [(22, 10), (23, 11), (24, 12), (25, 13)])
def test_newer_opsets_and_ir_versions_open(opset, ir_version):
    weights = {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3)}
    proto = text("y = HardSwish(input)", weights, opset=opset, ir_version=ir_version)
    model = open_model(proto)
    assert model.graph.opset_imports[""] == 21
    assert model.graph.ir_version == 10
    wanted = np.mean(X * np.clip(X / 6 + 0.5, 0, 1), 1) @ weights["fc.weight"] + weights["fc.bias"]
    np.testing.assert_allclose(run(model.proto(), X), wanted, rtol=1e-5, atol=1e-6)


def test_an_onnx_that_is_too_old_is_to_be_updated(monkeypatch):
    proto = text("y = HardSwish(input)", {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3)}, opset=25)
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 23)
    with pytest.raises(ModelError, match=r"has opset 25 .* supports up to opset 23 .*pip install --upgrade onnx"):
        open_model(proto)


@pytest.mark.parametrize("where", ["import", "nodes", "both", "also in a branch"])
def test_ai_onnx_written_out_is_the_same_domain(where):
    weights = {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3)}
    body = "y = Relu(input)"
    if where == "also in a branch":
        body = """m = ReduceMax<keepdims = 0>(input)  none = Constant<value_float = -9.0>()  flag = Greater(m, none)
            y = If(flag) <then_branch = yes () => (float[N, 7, 6] p) { p = Relu(input) },
                          else_branch = no () => (float[N, 7, 6] q) { q = Neg(input) }>"""
    proto = text(body, weights, opset=18, ir_version=8)
    if where != "nodes":
        proto.opset_import[0].domain = "ai.onnx"
    if where != "import":
        for item in (*proto.graph.node, *(n for o in proto.graph.node for a in o.attribute for n in a.g.node)):
            item.domain = "ai.onnx"
    model = open_model(proto)
    assert {node.domain for node in model.graph.graph.all_nodes()} == {""}
    assert list(model.graph.opset_imports) == [""]
    wanted = np.maximum(X, 0).mean(1) @ weights["fc.weight"] + weights["fc.bias"]
    np.testing.assert_allclose(run(model.proto(), X), wanted, rtol=1e-5, atol=1e-6)


def test_one_domain_at_two_opsets_is_refused():
    proto = text("y = Relu(input)", {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3)}, opset=18, ir_version=8)
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 19))
    with pytest.raises(ModelError, match=r"at opsets 18 and 19.*expected is one opset"):
        open_model(proto)


def test_nodes_of_both_spellings_with_one_import_open():
    """Onnx itself treats '' and 'ai.onnx' as the same domain."""
    proto = text("y = Relu(input)", {"fc.weight": normal(WIDTH, 3), "fc.bias": normal(3)}, opset=18, ir_version=8)
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 18))
    assert [layer.name for layer in open_model(proto).layers] == ["fc"]
