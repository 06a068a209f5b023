"""The settings with which a device trains by default, and what the commands say about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import command_of
from models import tiny

from adabet_onnx import Choices, Packing, Settings, Trainer, UsageError, make_artifacts, make_device, make_menu, select
from adabet_onnx.device.description import load_device
from adabet_onnx.sizes import size_text

PLAIN = Packing(scoring=None)
pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture
def command(monkeypatch, capfd):
    return command_of(monkeypatch, capfd)


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny.mlp().SerializeToString())
    return path


def trained(folder: Path, model: Path, settings: Settings, choices: Choices | None = None) -> Path:
    """Artifacts for the head, trained for an epoch."""
    make_artifacts(model, select(model, strategy="head"), folder, choices=choices, check=False)
    trainer, rng = Trainer(folder), np.random.default_rng(0)
    inputs = rng.standard_normal((48, 10)).astype(np.float32)
    trainer.fit((inputs, rng.integers(0, 3, 48)), settings=settings)
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_without_a_training_the_rate_is_the_usual_one_and_a_note_says_so(tmp_path, model, optimizer):
    usual = {"adamw": 0.001, "sgd": 0.01}[optimizer]
    made = make_menu(model, tmp_path / "menu", entries=1, choices=Choices(optimizer=optimizer), packing=PLAIN)
    assert made["training"] == {"learning_rate": usual, "batch_size": 32, "epochs": 5, "seed": 0}
    [note] = made["notes"]
    assert f"the learning rate {usual:g} is the usual one of {optimizer}" in note
    assert "`learning_rate`" in note


def test_given_settings_are_in_the_package(tmp_path, model):
    packing = Packing(scoring=None, learning_rate=np.float32(0.5), batch_size=np.int64(4), epochs=7)
    made = make_menu(model, tmp_path / "menu", entries=1, packing=packing)
    assert made["training"] == {"learning_rate": 0.5, "batch_size": 4, "epochs": 7, "seed": 0}
    assert made["notes"] == []
    start = load_device(tmp_path / "menu").training
    assert (start.learning_rate, start.batch_size, start.epochs) == (0.5, 4, 7)


def test_the_choices_of_a_menu_share_a_rate_and_a_note_says_so(tmp_path, model):
    """A rate that suits a few parameters can be far too high for many."""
    for rate in (None, 0.03):
        packing = Packing(scoring=None, learning_rate=rate)
        made = make_menu(model, tmp_path / "menu", entries=3, packing=packing, check=False)
        assert len(made["entries"]) == 3
        largest = max(made["entries"], key=lambda entry: entry["trained"])
        assert len(made["notes"]) == (2 if rate is None else 1)
        assert "all choices train with this learning rate" in made["notes"][-1]
        assert f"too high for {largest['name']}, which trains {largest['trained']:,} values" in made["notes"][-1]


def test_given_settings_come_before_those_of_the_training(tmp_path, model):
    settings = Settings(epochs=1, learning_rate=0.02, batch_size=16)
    folder = trained(tmp_path / "artifacts", model, settings)
    made = make_device(folder, tmp_path / "device", packing=PLAIN)
    assert made["training"] == {"learning_rate": 0.02, "batch_size": 16, "epochs": 5, "seed": 0}
    assert made["notes"] == []
    packing = Packing(scoring=None, learning_rate=0.5, batch_size=4)
    made = make_device(folder, tmp_path / "device", packing=packing)
    assert made["training"] == {"learning_rate": 0.5, "batch_size": 4, "epochs": 5, "seed": 0}
    assert made["notes"] == []


def test_a_note_says_that_the_rate_was_found_for_larger_updates(tmp_path, model):
    """Micro-batches keep the memory limit of the training; devices update after each of them."""
    settings = Settings(epochs=1, learning_rate=0.02, batch_size=8, accumulate=4)
    folder = trained(tmp_path / "artifacts", model, settings)
    made = make_device(folder, tmp_path / "device", packing=PLAIN)
    assert made["training"] == {"learning_rate": 0.02, "batch_size": 8, "epochs": 5, "seed": 0}
    [note] = made["notes"]
    assert "0.02 is that of a training with updates of 32 samples (4 batches of 8, accumulated); a device does" in note
    assert "updates after each batch of 8. `batch_size=32` makes" in note
    needs = dict(map(tuple, made["entries"][0]["memory"]))
    assert f"{size_text(needs[32])} instead of {size_text(needs[8])}" in note
    whole = Packing(scoring=None, batch_size=32)
    made = make_device(folder, tmp_path / "device", packing=whole)
    assert (made["training"]["batch_size"], made["notes"]) == (32, [])
    other = Packing(scoring=None, batch_size=8, learning_rate=0.01)
    assert make_device(folder, tmp_path / "device", packing=other)["notes"] == []


def test_a_note_says_so_for_another_batch_size_too(tmp_path, model):
    folder = trained(tmp_path / "artifacts", model, Settings(epochs=1, learning_rate=0.02))
    [note] = make_device(folder, tmp_path / "device", packing=Packing(scoring=None, batch_size=4))["notes"]
    assert "updates of 32 samples; a device does not accumulate and updates after each batch of 4" in note


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0}, "must be above 0, not 0"),
        ({"learning_rate": float("nan")}, "must be above 0, not nan"),
        ({"learning_rate": "auto"}, "`learning_rate` must be a number or None, not 'auto'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, not 0"),
        ({"epochs": 0}, "`epochs` must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Packing(**given)


def test_the_commands_take_and_show_them(tmp_path, model, command):
    out = ["-o", tmp_path / "device", "--no-scoring"]
    said = command("menu", model, *out, "--entries", 1).out
    assert "training: learning rate 0.001, batch size 32, 5 epochs, unless the device's program chooses others" in said
    assert "note: the learning rate 0.001 is the usual one of adamw" in said
    assert "pass it as --lr" in said
    said = command("menu", model, *out, "--entries", 1, "--lr", 0.03, "--batch-size", 8, "--epochs", 1).out
    assert "training: learning rate 0.03, batch size 8, 1 epoch, unless" in said
    assert "usual one" not in said
    artifacts = trained(tmp_path / "artifacts", model, Settings(epochs=1, learning_rate=0.02))
    assert "training: learning rate 0.02, batch size 32, 5 epochs" in command("device", artifacts, *out).out
    made = command("device", artifacts, *out, "--lr", 0.5, "--epochs", 2, "--batch-size", 3, "--json").out
    assert json.loads(made)["training"] == {"learning_rate": 0.5, "batch_size": 3, "epochs": 2, "seed": 0}
    assert "give a number, such as --lr 0.03" in command("device", artifacts, *out, "--lr", "auto", code=2).err
    assert "--epochs must be at least 1" in command("device", artifacts, *out, "--epochs", 0, code=2).err
