"""A step writes into memory that it does not read: two alternating sets of values."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
from models import tiny

from adabet_onnx import Choices, make_artifacts, open_model, select
from adabet_onnx.errors import TrainingError

STEPS, RATE = 5, 0.05


@pytest.fixture
def made(tmp_path):
    model = open_model(tiny.conv_net())
    selection = select(model, layers=["conv2", "bn2", "fc"])
    choices = Choices(optimizer="adamw", batch_norm="batch")
    return make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=choices, check=False)


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    return {"input": rng.standard_normal((6, 3, 8, 8)).astype(np.float32)}, rng.integers(0, 4, 6)


def all_values(session):
    return {name: session.parameter(name) for name in session._values}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(found[name].tobytes() == expected[name].tobytes() for name in found)


def test_steps_give_the_bits_of_the_graph_run_by_hand(made, batch):
    session = made.session(made.initial, threads=1)
    entries = [*made.content["parameters"], *made.content["state"]]
    given = dict(session.features(batch[0]))
    values = {entry["name"]: session.parameter(entry["name"]) for entry in entries}
    graph = onnxruntime.InferenceSession(str(made.file("step")), providers=["CPUExecutionProvider"])
    for number in range(1, STEPS + 1):
        feeds = given | {entry["input"]: values[entry["name"]] for entry in entries}
        feeds |= {made.content["labels"]: batch[1], made.content["learning_rate"]: np.array(RATE, np.float32)}
        feeds[made.content["step"]] = np.array(number)
        loss, *new = graph.run([made.content["loss"], *(entry["output"] for entry in entries)], feeds)
        values = dict(zip(values, new, strict=True))
        assert session.step(*batch, RATE)[0] == float(loss)
    assert same(all_values(session), values)


def test_no_buffer_is_read_and_written_at_once(made, batch):
    session = made.session(made.initial, threads=1)
    seen = []
    for _ in range(STEPS):
        session.step(*batch, RATE)
        current, other = ({n: v.data_ptr() for n, v in s.items()} for s in (session._values, session._spare))
        assert not set(current.values()) & set(other.values())
        seen.append(current)
    assert seen[0] == seen[2] == seen[4] != seen[1]  # and none is made anew
    assert seen[1] == seen[3]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_loss_that_is_not_finite_changes_nothing(before, made, batch):
    session, straight = made.session(made.initial, threads=1), made.session(made.initial, threads=1)
    for _ in range(before):
        assert session.step(*batch, RATE)[0] == straight.step(*batch, RATE)[0]
    kept = all_values(session)
    bad = {"input": np.full_like(batch[0]["input"], np.nan)}
    for _ in range(2):
        assert math.isnan(session.step(bad, batch[1], RATE)[0])
        assert same(all_values(session), kept)
    assert session.step(*batch, RATE)[0] == straight.step(*batch, RATE)[0]
    assert same(all_values(session), all_values(straight))


def test_what_a_value_was_set_to_stays_the_callers(made, batch):
    session = made.session(made.initial, threads=1)
    array = np.full((4, 8), 0.5, np.float32)
    session.set_parameter("fc.weight", array)
    for _ in range(4):
        session.step(*batch, RATE)
    assert (array == 0.5).all()
    assert (session.parameter("fc.weight") != 0.5).any()


def test_steps_and_gathered_gradients_in_turn(made, batch, tmp_path):
    """With a checkpoint between them; the values equal those of separate sessions."""
    session = made.session(made.initial, threads=1)
    for number in range(4):
        following = made.session(made.initial if number == 0 else tmp_path / f"{number - 1}.ckpt", threads=1)
        for one in (session, following):
            if number % 2:
                one.gradients(*batch)
                one.update(RATE)
            else:
                one.step(*batch, RATE)
        assert same(all_values(session), all_values(following))
        session.save(tmp_path / f"{number}.ckpt")


def test_a_step_that_fails_changes_nothing(made, batch):
    session = made.session(made.initial, threads=1)
    session.step(*batch, RATE)
    kept = all_values(session)
    with pytest.raises(TrainingError, match="a training step failed"):
        session.step(batch[0], batch[1].astype(np.float32), RATE)
    assert same(all_values(session), kept)
