"""Commands that messages name keep the options that were given, so that following one does not lose another."""

from __future__ import annotations

import re
import shlex

import numpy as np
import onnx
import pytest
from command_line import command_of
from models.settings import INT64, two_rates, value
from models.tiny import assemble, node, normal, run

from adabet_onnx import ModelError, open_model
from adabet_onnx.model.given import given_options, with_given


def two_open_dims() -> onnx.ModelProto:
    """x (N, h, w) and a count; two outputs of which neither is called logits."""
    nodes = [
        node("ReduceMean", ["x"], ["m"], "/mean", axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["m", "one"], ["u"], "/column"),
        node("Cast", ["count"], ["c"], "/cast", to=1),
        node("Mul", ["u", "c"], ["s"], "/scale"),
        node("MatMul", ["s", "a.weight"], ["first"], "/a"),
        node("MatMul", ["s", "b.weight"], ["second"], "/b"),
    ]
    tensors = {"one": np.array([1]), "a.weight": normal(1, 3), "b.weight": normal(1, 4)}
    inputs = [value("x", ["N", "h", "w"]), value("count", [], INT64)]
    return assemble(nodes, tensors, inputs, [value("first", ["N", 3]), value("second", ["N", 4])])


@pytest.mark.usefixtures("checked_here")
def test_messages_lead_to_the_end(tmp_path, monkeypatch, capfd, rng):
    """Each message's command is typed as it stands, until the file is written."""
    command, path = command_of(monkeypatch, capfd), tmp_path / "model.onnx"
    onnx.save(two_open_dims(), path)
    answers = {"NAME": "second", "count=VALUE": "count=3", "h=SIZE": "h=2", "w=SIZE": "w=5"}
    words: list[str] = ["inspect", str(path)]
    for _ in range(5):
        done = command(*words, code=1)
        told = re.search(r"adabet-onnx (import .+?)(?: \(other|, or in)", done.err)
        assert told is not None, done.err
        words = [answers.get(word, word) for word in shlex.split(told[1])]
        words[words.index("-o") + 1] = str(tmp_path / "done.onnx")
        if all(f"{word}" in words for word in ("second", "count=3", "h=2", "w=5")):
            break
    command(*words)
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    expected = x.mean((1, 2))[:, None] * 3 @ normal(1, 4)
    np.testing.assert_allclose(
        run(onnx.load(tmp_path / "done.onnx"), x, output="second"), expected, rtol=1e-4, atol=1e-6
    )


def test_a_binding_stays_in_the_command(tmp_path):
    with pytest.raises(ModelError, match=r"-o fixed\.onnx --logits first --input count=3 --dim h=SIZE"):
        open_model(two_open_dims(), logits="first", bind={"count": 3})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "adabet-onnx import m.onnx -o a.onnx --dim w=SIZE, or",
            "adabet-onnx import m.onnx -o a.onnx --logits y --dim h=2 --dim w=SIZE, or",
        ),
        (
            "adabet-onnx import m.onnx -o a.onnx --logits NAME",
            "adabet-onnx import m.onnx -o a.onnx --dim h=2 --logits NAME",
        ),
        ("adabet-onnx score m.onnx -o a.json", "adabet-onnx score m.onnx -o a.json"),
    ],
)
def test_only_imports_change(text, expected):
    assert with_given(text, given_options("y", {"h": 2}, None)) == expected


def test_nothing_given_changes_nothing():
    assert with_given("adabet-onnx import m.onnx -o a.onnx --dim w=SIZE", given_options(None, None, None)).endswith(
        "a.onnx --dim w=SIZE"
    )
    assert open_model(two_rates(), bind={"sr": 8000}).bound == {"sr": 8000}
