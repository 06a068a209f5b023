"""Unusable logits: the message names an earlier value that is usable, and training works with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import earlier, shaped, tiny
from models.tiny import normal

from adabet_onnx import ModelError, open_model
from adabet_onnx.cli.translate import translate
from adabet_onnx.data.preprocess import NONE
from adabet_onnx.data.source import open_data
from adabet_onnx.model.alternative_logits import find_alternative
from adabet_onnx.model.call_arguments import complete_calls_in_errors, opening_arguments
from adabet_onnx.model.head import new_head
from adabet_onnx.model.open import Model
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.preflight import check_model
from adabet_onnx.training.artifacts import make_artifacts
from adabet_onnx.training.logits import compute_logits

CASES: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[int, ...]]] = {
    "merged": (earlier.merged_after_the_head, (earlier.STEPS, earlier.FEATURES)),
    "mean": (earlier.mean_of_the_batch, (earlier.FEATURES,)),
    "If of the batch": (lambda: earlier.if_on_the_result("batch"), (earlier.FEATURES,)),
    "If of the input": (lambda: earlier.if_on_the_result("input"), (earlier.FEATURES,)),
}


def everything(model: Model) -> Selection:
    names = [parameter.name for layer in model.layers for parameter in layer.parameters]
    return Selection(model.sha256, "layers", tuple(layer.name for layer in model.layers), tuple(names))


def told(message: str) -> str:
    """The value that a message recommends as logits."""
    found = re.search(r"`(?:new_head\()?open_model\(\S+, logits='(.+?)'\)", message)
    assert found is not None, message
    return found[1]


def reason(model: Model) -> str:
    check = check_model(model)
    assert len(check.untrainable) == len(check.layers)
    return next(iter(check.untrainable.values()))


@pytest.mark.parametrize("case", CASES)
def test_the_value_that_would_do_is_named_and_does(case: str, tmp_path: Path, checked_here: None) -> None:
    make, sample = CASES[case]
    model = open_model(make())
    name = told(reason(model))
    assert name == "scores"
    with pytest.raises(ModelError, match="logits='scores'"):
        make_artifacts(model, everything(model), tmp_path / "no")
    assert not (tmp_path / "no").exists()
    remedied = open_model(make(), logits=name)
    assert not check_model(remedied).untrainable
    x = normal(4, *sample, scale=1)
    found = compute_logits(remedied, open_data((x, None), remedied).train, NONE)
    hidden = np.maximum(x @ tensor(make(), "a.weight") + tensor(make(), "a.bias"), 0)
    np.testing.assert_allclose(found, hidden @ tensor(make(), "b.weight") + tensor(make(), "b.bias"), atol=1e-5)
    make_artifacts(remedied, everything(remedied), tmp_path / "yes", backend="portable")


def tensor(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(entry) for entry in proto.graph.initializer if entry.name == name)


def test_a_value_before_the_head_is_named_with_a_new_head_on_it(tmp_path: Path, checked_here: None) -> None:
    message = reason(open_model(earlier.merged_before_the_head()))
    assert re.search(r"before the head 'b'.*`new_head\(open_model\(\w+, logits='f'\), C, append=True\)`", message)
    model = new_head(open_model(earlier.merged_before_the_head(), logits=told(message)), 4, append=True)
    x = normal(2, earlier.STEPS, earlier.FEATURES)
    assert tiny.run(model.graph, x).shape == (2, earlier.STEPS, 4)
    make_artifacts(model, everything(model), tmp_path / "a", backend="portable")


def test_a_fixed_batch_that_is_merged_is_refused_with_the_value() -> None:
    with pytest.raises(ModelError, match=r"no axis is the batch alone") as raised:
        open_model(earlier.merged_after_the_head(batch=1))
    assert told(str(raised.value)) == "scores"
    model = open_model(earlier.merged_after_the_head(batch=1), logits="scores")
    assert not check_model(model).untrainable


def test_a_value_that_no_layer_makes_is_not_named() -> None:
    """Before the rows there is only the transposed input."""
    model = open_model(shaped.time_major(merged=True))
    assert find_alternative(model.graph, model.logits) is None
    assert "No layer output before them has" in reason(model)


# --- remedies that are followed with what was given before -------------------------------------------------------


def run_command(message: str, file: Path, **sizes: str) -> dict[str, str]:
    """The options of the command in a message, by option name."""
    said = translate(message)
    found = re.search(rf"adabet-onnx import {re.escape(str(file))} -o \S+((?: --\w+ \S+?)+)(?:[;).,]|\s|$)", said)
    assert found is not None, message
    words = found[1].replace("SIZE", sizes.get("size", "SIZE")).split()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_remedies_repeat_the_options_that_were_given(tmp_path: Path) -> None:
    proto = earlier.merged_after_the_head(1)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    file = tmp_path / "m.onnx"
    onnx.save(proto, file)
    with pytest.raises(ModelError) as first:
        open_model(file)
    options = run_command(str(first.value), file, size=str(earlier.STEPS))
    assert options == {"--dim": f"steps={earlier.STEPS}"}
    with pytest.raises(ModelError) as second:
        open_model(file, dims={"steps": earlier.STEPS})
    both = run_command(str(second.value), file)
    assert both == {"--dim": f"steps={earlier.STEPS}", "--logits": "scores"}
    with pytest.raises(ModelError) as third:  # the other way round
        open_model(file, logits="scores")
    assert run_command(str(third.value), file) == {"--logits": "scores", "--dim": "steps=SIZE"}
    model = open_model(file, logits=both["--logits"], dims={"steps": earlier.STEPS})
    assert not check_model(model).untrainable
    assert [value.name for value in model.graph.graph.outputs] == ["scores"]
    assert [note for note in model.notes if "dropped; what" in note] == [
        "output 'logits' had no axis for the batch alone and was dropped; what remains is 'scores'"
    ]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`open_model('m', dims={'t': SIZE})`, or x", "('m', dims={'t': SIZE}, bind={'sr': 16000})`, or x"),
        ("(`open_model('m', logits='NAME')`; b)", "('m', logits='NAME', dims={'t': 3}, bind={'sr': 16000})`; b)"),
        ("`open_model('m', bind={'sr': VALUE})`.", "('m', dims={'t': 3}, bind={'sr': VALUE})`."),
    ],
)
def test_arguments_are_put_where_they_are_missing(message: str, expected: str) -> None:
    with (
        pytest.raises(ModelError) as raised,
        complete_calls_in_errors(opening_arguments(None, {"t": 3}, {"sr": 16000})),
    ):
        raise ModelError(message)
    assert str(raised.value).endswith(expected)
