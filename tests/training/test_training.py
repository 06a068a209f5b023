"""The training loop, resuming, evaluation, export, and the cost of an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from conftest import PROCESSES, ROOT
from models import tiny

from adabet_onnx import (
    DataError,
    Trainer,
    TrainingError,
    UsageError,
    export_model,
    make_artifacts,
    open_model,
    score,
    select,
)
from adabet_onnx.data.preprocess import NONE, Arithmetic
from adabet_onnx.data.source import open_data
from adabet_onnx.selection.options import Choosing
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.evaluation import evaluate, open_trained
from adabet_onnx.training.history import LAST
from adabet_onnx.training.settings import Settings


def toy_data(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of four classes, by the bright quadrant."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = 0.5 * rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[label % 3, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 2
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    x_train, y_train = toy_data(200, 0)
    x_test, y_test = toy_data(80, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(params=["portable", "ort"])
def folder(request, tmp_path, data):
    if request.param == "ort":
        request.getfixturevalue("training")
    model = open_model(tiny.conv_net(softmax=True))
    selection = select(score(model, data), rho=0.4, choosing=Choosing(head="always"))
    make_artifacts(model, selection, tmp_path / "artifacts", backend=request.param, check=False)
    return tmp_path / "artifacts"


def final_parameters(folder):
    trainer = Trainer(folder)
    session = trainer.manifest.session(folder / LAST)
    return {name: session.parameter(name) for name in trainer.manifest.parameters}


def test_training_learns_and_writes_metrics(folder, data):
    rows = Trainer(folder).fit(data, epochs=6, learning_rate=1e-2)
    assert [row["epoch"] for row in rows] == list(range(7))
    assert rows[0]["train_loss"] is None
    assert rows[-1]["train_loss"] < 0.75 * rows[1]["train_loss"]
    assert rows[-1]["eval_accuracy"] > rows[0]["eval_accuracy"] + 0.2
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert written == rows
    keys = {"epoch", "train_loss", "eval_loss", "eval_accuracy", "learning_rate", "seconds"}
    assert all(set(row) == keys for row in rows)


def test_cosine_and_linear_fall_to_zero_and_constant_stays(folder, data):
    rates = {}
    for schedule in ("constant", "linear", "cosine"):
        rows = Trainer(folder).fit(
            data, epochs=3, learning_rate=1e-2, batch_size=60, settings=Settings(schedule=schedule)
        )
        rates[schedule] = [row["learning_rate"] for row in rows[1:]]
    steps = 9  # 3 epochs of 180 samples by 60
    assert rates["constant"] == [1e-2] * 3
    assert rates["linear"] == pytest.approx([1e-2 * (1 - step / steps) for step in (2, 5, 8)])
    cosine = [5e-3 * (1 + np.cos(np.pi * step / steps)) for step in (2, 5, 8)]
    assert rates["cosine"] == pytest.approx(cosine)


def test_same_seed_same_result(folder, data):
    first = Trainer(folder).fit(data, epochs=2)
    values = final_parameters(folder)
    again = Trainer(folder).fit(data, epochs=2)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in first]
    assert all(np.array_equal(values[name], value) for name, value in final_parameters(folder).items())
    other = Trainer(folder).fit(data, epochs=2, settings=Settings(seed=1))
    assert other[1]["train_loss"] != first[1]["train_loss"]


class _StopAfter:
    """A progress callback that interrupts as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, what: str, done: int, total: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_resume_is_exact(folder, data):
    whole = Trainer(folder).fit(data, epochs=4)
    expected = final_parameters(folder)
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(data, epochs=4, progress=_StopAfter(15))  # in the third of 4 epochs of 6 steps
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in kept] == [0, 1, 2]
    rows = Trainer(folder).fit(data, resume=True)
    for row, like in zip(rows, whole, strict=True):
        assert {**row, "seconds": 0} == {**like, "seconds": 0}
    assert all(np.array_equal(expected[name], value) for name, value in final_parameters(folder).items())
    assert Trainer(folder).fit(data, resume=True) == rows  # finished: nothing more to do


@pytest.mark.slow
def test_kill_9_loses_at_most_one_epoch(folder, data):
    command = [sys.executable, "-m", "adabet_onnx", "train", str(folder), str(data), "--epochs", "400"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 3):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    seen = [json.loads(line) for line in metrics.read_text().splitlines()]
    trainer = Trainer(folder)
    state = json.loads(trainer.manifest.session(folder / LAST).property("adabet_onnx"))
    assert len(state["metrics"]) >= len(seen)
    assert [row["train_loss"] for row in state["metrics"][: len(seen)]] == [row["train_loss"] for row in seen]
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(data, resume=True, progress=_StopAfter(8))
    assert len(metrics.read_text().splitlines()) == len(state["metrics"]) + 1


def test_resuming_with_other_settings_or_data_is_refused(folder, data):
    Trainer(folder).fit(data, epochs=2)
    with pytest.raises(UsageError, match="`batch_size` 32, not 16"):
        Trainer(folder).fit(data, batch_size=16, resume=True)
    with pytest.raises(UsageError, match="constant"):
        Trainer(folder).fit(data, epochs=4, resume=True)
    with pytest.raises(DataError, match="labels"):
        Trainer(folder).fit(toy_data(200, 5), resume=True)


def test_a_constant_schedule_resumes_for_more_epochs(folder, data):
    whole = Trainer(folder).fit(data, epochs=3, settings=Settings(schedule="constant"))
    Trainer(folder).fit(data, epochs=1, settings=Settings(schedule="constant"))
    rows = Trainer(folder).fit(data, epochs=3, resume=True)
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in whole]


def test_early_stopping_keeps_the_best_epoch(folder, data):
    rows = Trainer(folder).fit(
        data, epochs=40, learning_rate=0.2, settings=Settings(schedule="constant", patience=3, validation=0.3)
    )
    losses = [row["eval_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert len(rows) - 1 == best + 3 < 40
    export_model(folder, folder.parent / "adapted.onnx")
    trainer = Trainer(folder)
    best_session = trainer.manifest.session(folder / "training/best.ckpt")
    exported = onnx.load(folder.parent / "adapted.onnx")
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    for name in trainer.manifest.parameters:
        np.testing.assert_array_equal(values[name], best_session.parameter(name))


def test_validation_is_split_off_training_data_and_test_data_is_not_looked_at(folder, data):
    x_train, y_train = toy_data(200, 0)
    splits = {"x_train": x_train, "y_train": y_train, "x_test": np.full((3, 3, 8, 8), np.nan, np.float32)}
    rows = Trainer(folder).fit({**splits, "y_test": np.array([-1, 99, 0])}, epochs=1)
    assert rows[1]["eval_accuracy"] * 20 == pytest.approx(round(rows[1]["eval_accuracy"] * 20))
    none = Trainer(folder).fit((x_train, y_train), epochs=1, settings=Settings(validation=0))
    assert none[1]["eval_loss"] is None


def test_early_stopping_without_validation_data_is_refused(folder):
    with pytest.raises(UsageError, match="`validation`"):
        Trainer(folder).fit(toy_data(5, 0), settings=Settings(patience=3))


def test_what_it_was_trained_with_is_exported(folder, data):
    """Class names and preprocessing of the training data take precedence over those of the scored data."""
    x, y = toy_data(60, 3)
    Trainer(folder).fit({"x": x, "y": y, "classes": list("abcd")}, epochs=1, preprocessing=Arithmetic(scale=0.5))
    export_model(folder, folder.parent / "adapted.onnx")
    adapted = open_model(folder.parent / "adapted.onnx")
    assert adapted.metadata("classes") == list("abcd")
    assert adapted.metadata("preprocessing")["scale"] == 0.5


def test_a_loss_that_explodes_is_an_error_and_keeps_the_last_epoch(folder, data):
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        Trainer(folder).fit(data, epochs=20, learning_rate=1e30, settings=Settings(schedule="constant"))
    assert (folder / LAST).is_file()


def test_export_equals_evaluation_and_keeps_the_original_graph(folder, data):
    Trainer(folder).fit(data, epochs=2, learning_rate=1e-2)
    proto = export_model(folder, folder.parent / "adapted.onnx")
    original = tiny.conv_net(softmax=True)
    assert [node.op_type for node in proto.graph.node] == [node.op_type for node in original.graph.node]
    trainer = Trainer(folder)
    names = set(trainer.manifest.parameters)
    old = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    new = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert set(old) == set(new)
    assert {name for name in old if not np.array_equal(old[name], new[name])} == names
    held = open_data(data, trainer._model).test
    from_folder = evaluate(open_trained(folder), held, preprocessing=NONE)
    from_file = evaluate(open_trained(folder.parent / "adapted.onnx"), held, preprocessing=NONE)
    assert from_folder == from_file
    assert from_file != evaluate(open_model(original), held, preprocessing=NONE)


@pytest.mark.slow
def test_adapted_model_can_be_adapted_again(folder, data):
    Trainer(folder).fit(data, epochs=1)
    export_model(folder, folder.parent / "adapted.onnx")
    again = open_model(folder.parent / "adapted.onnx")
    assert again.metadata("adapted")["strategy"] == "adabet"
    selection = select(score(again, data))
    make_artifacts(again, selection, folder.parent / "second")
    Trainer(folder.parent / "second").fit(data, epochs=1)


@pytest.mark.slow
def test_exported_model_runs_on_the_stock_runtime(folder, data, inference_python):
    Trainer(folder).fit(data, epochs=1)
    export_model(folder, folder.parent / "adapted.onnx")
    command = [inference_python, "-m", "adabet_onnx", "evaluate", folder.parent / "adapted.onnx", data, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held = open_data(data, Trainer(folder)._model).test
    here = evaluate(open_trained(folder.parent / "adapted.onnx"), held, preprocessing=NONE)
    there = json.loads(done.stdout)
    assert there["accuracy"] == here["accuracy"]
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-5)


@pytest.mark.slow
def test_ort_format_trains_the_same(training, tmp_path, data):
    model = open_model(tiny.conv_net())
    selection = select(score(model, data), strategy="last", rho=0.4)
    losses = []
    for ort_format in (False, True):
        make_artifacts(model, selection, tmp_path / "artifacts", backend="ort", choices=Choices(ort_format=ort_format))
        losses.append([row["train_loss"] for row in Trainer(tmp_path / "artifacts").fit(data, epochs=2)][1:])
        export_model(tmp_path / "artifacts", tmp_path / "adapted.onnx")
    assert (tmp_path / "artifacts" / "training_model.ort").is_file()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_package_imports_without_torch(training):
    """onnxruntime itself imports torch where it is installed, so it is hidden from the processes that tests start."""
    code = (
        "import sys; from adabet_onnx import training_runtime; training_runtime.load()\n"
        "import onnxruntime.training.api; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["portable", "ort"])
def test_generation_prints_nothing(backend, request, tmp_path, data):
    if backend == "ort":
        request.getfixturevalue("training")
    code = (
        "from models import tiny\nfrom adabet_onnx import *\n"
        f"m = open_model(tiny.conv_net()); make_artifacts(m, select(score(m, {str(data)!r})), {str(tmp_path / 'a')!r}, "
        f"backend={backend!r})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROCESSES), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
