"""Calls in messages keep the arguments that were given, so that following one message does not undo another."""

from __future__ import annotations

import re
import shlex

import numpy as np
import onnx
import pytest
from command_line import command_of
from models.settings import two_open_dims, two_rates
from models.tiny import normal, run

from adabet_onnx import ModelError, open_model
from adabet_onnx.model.call_arguments import complete_calls, opening_arguments


@pytest.mark.usefixtures("checked_here")
def test_messages_lead_to_the_end(tmp_path, monkeypatch, capfd, rng):
    """Each message's command is run unchanged, until the file is written."""
    command, path = command_of(monkeypatch, capfd), tmp_path / "model.onnx"
    onnx.save(two_open_dims(), path)
    answers = {"NAME": "second", "count=VALUE": "count=3", "h=SIZE": "h=2", "w=SIZE": "w=5"}
    words: list[str] = ["inspect", str(path)]
    for _ in range(5):
        done = command(*words, code=1)
        told = re.search(r"adabet-onnx (import [^()]+?)\)?\.$", done.err.strip())
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
    with pytest.raises(
        ModelError,
        match=r"`open_model\(model, logits=\'first\', dims=\{\'h\': SIZE, \'w\': SIZE\}, bind=\{\'count\': 3\}\)`",
    ):
        open_model(two_open_dims(), logits="first", bind={"count": 3})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Do `open_model('m.onnx', dims={'w': SIZE})`, or",
            "Do `open_model('m.onnx', logits='y', dims={'h': 2, 'w': SIZE})`, or",
        ),
        (
            "(`open_model('m.onnx', logits='NAME')`; b)",
            "(`open_model('m.onnx', logits='NAME', dims={'h': 2})`; b)",
        ),
        (
            "`new_head(open_model(model, bind={'a': 1}), N)` `append=True`",
            "`new_head(open_model(model, logits='y', dims={'h': 2}, bind={'a': 1}), N)` `append=True`",
        ),
        ("`score('m.onnx', data)`", "`score('m.onnx', data)`"),
        ("'a`b' and 'open_model()'", "'a`b' and 'open_model()'"),
    ],
)
def test_only_what_opens_a_model_changes(text, expected):
    assert complete_calls(text, opening_arguments("y", {"h": 2}, None)) == expected


def test_nothing_given_changes_nothing():
    text = "`open_model('m.onnx',dims={'w':SIZE})`"
    assert complete_calls(text, opening_arguments(None, None, None)) == text
    assert open_model(two_rates(), bind={"sr": 8000}).bound == {"sr": 8000}
