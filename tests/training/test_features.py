"""The frozen part is computed once: bit-identical wherever it is stored, and damaged files are never used."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_inputs import limited_files
from conftest import HELPERS
from models import deep, inputs, shared_layers, tiny
from onnx import helper
from PIL import Image

from adabet_onnx import Choices, DataError, Settings, Trainer, UsageError, make_artifacts, open_model, select
from adabet_onnx.cli.main import main
from adabet_onnx.data.fingerprint import content_hash
from adabet_onnx.data.source import open_data
from adabet_onnx.portable import memory
from adabet_onnx.portable.session import PortableSession
from adabet_onnx.training import feature_store, features
from adabet_onnx.training.feature_store import Field, open_store, write_store
from adabet_onnx.training.history import LAST, History
from adabet_onnx.training.manifest import load_manifest

SAMPLES, BATCH = 44, 4  # an epoch of ten steps, four samples held out


@dataclasses.dataclass(frozen=True)
class Net:
    """A model, the layers to train, and how.

    Attributes:
        model: makes it.
        layers: what is trained.
        choices: of the artifacts, by name.
        below: exclusive upper bound of integers.
        frozen: whether any part is frozen.
    """

    model: Callable[[], onnx.ModelProto]
    layers: tuple[str, ...]
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    below: int = 7
    frozen: bool = True


def scanned() -> onnx.ModelProto:
    """A recurrent network written out as a Scan over the time of (N, T, C)."""
    body = helper.make_graph(
        [
            tiny.node("MatMul", ["state", "w"], ["m"]),
            tiny.node("Add", ["m", "step"], ["a"]),
            tiny.node("Tanh", ["a"], ["after"]),
            tiny.node("Identity", ["after"], ["each"]),
        ],
        "body",
        [onnx.ValueInfoProto(name=name) for name in ("state", "step")],
        [onnx.ValueInfoProto(name=name) for name in ("after", "each")],
    )
    nodes = [
        tiny.node("MatMul", ["input", "inner.weight"], ["h"], "/inner"),
        tiny.node("ReduceMean", ["h"], ["start"], axes=[1], keepdims=0),
        tiny.node("Scan", ["start", "h"], ["last", "all"], "/scan", body=body, num_scan_inputs=1, scan_input_axes=[1]),
        tiny.node("Relu", ["last"], ["r"]),
        tiny.node("Gemm", ["r", "fc.weight", "fc.bias"], ["logits"], "/fc"),
    ]
    values = {
        "inner.weight": tiny.normal(3, 16),
        "w": 0.1 * tiny.normal(16, 16),
        "fc.weight": tiny.normal(16, 2),
        "fc.bias": tiny.normal(2),
    }
    return tiny.build(nodes, values, input_shape=["N", 5, 3])


NETS = {
    "residual": Net(lambda: deep.residual(2, width=8, size=8), ("blocks.1.conv2", "fc")),
    "residual, early": Net(lambda: deep.residual(2, width=8, size=8), ("blocks.0.conv2",)),
    "siamese": Net(shared_layers.siamese, ("out",)),
    "siamese LSTM": Net(shared_layers.siamese_lstm, ("fc",)),
    "attention": Net(lambda: tiny.attention("four axes"), ("fc",)),
    "time-major": Net(tiny.recurrent, ("rnn", "fc")),
    "tokens": Net(lambda: inputs.embedded(7, 5), ("fc",)),
    "scan": Net(scanned, ("fc",)),
    "repeated block": Net(lambda: tiny.mlp(), ("out",)),
    "several inputs": Net(lambda: inputs.named(left=(3, 4), right=(5,)), ("fc",)),
    "all layers": Net(tiny.conv_net, ("*",), frozen=False),
    "batch statistics": Net(tiny.conv_net, ("conv2", "bn2", "fc"), {"batch_norm": "batch"}),
}


def dataset(model: Any, samples: int = SAMPLES, below: int = 7) -> dict[str, np.ndarray]:
    """Random numbers for each input, and labels."""
    rng = np.random.default_rng(1)
    found = {}
    for spec in model.inputs:
        shape = (samples, *spec.shape[1:])
        floats = spec.dtype == "float32"
        values = rng.standard_normal(shape) if floats else rng.integers(0, below, shape)
        found[spec.name] = values.astype(spec.dtype)
    return found | {"labels" if "y" in found else "y": rng.integers(0, 2, samples)}


def given(arrays: dict[str, np.ndarray]) -> Any:
    """The data as `fit` takes it: x alone if there is one input."""
    if len(arrays) > 2:
        return arrays
    first, labels = arrays.values()
    return first, labels


def parameters(folder: Path) -> dict[str, np.ndarray]:
    """All trained values and the optimizer's state."""
    manifest = load_manifest(folder)
    return manifest.read_checkpoint(folder / LAST, "adabet_onnx")[0]


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether all bits are equal."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def stores(folder: Path) -> list[Path]:
    """Feature files anywhere in a folder, complete or not."""
    return sorted(path for path in folder.rglob("*") if ".features" in path.name)


def alike(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics without their times."""
    return [{**row, "seconds": 0} for row in rows]


HOW = {
    "off": Settings(features="off"),
    "memory": Settings(features="memory"),
    "disk": Settings(features="disk"),
    "kept": Settings(keep_features=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", NETS)
def test_twenty_steps_give_equal_bits_wherever_features_are(name, optimizer, tmp_path):
    net = NETS[name]
    model = open_model(net.model())
    folder = tmp_path / "artifacts"
    choices = Choices(**net.choices, optimizer=optimizer)
    make_artifacts(model, select(model, layers=net.layers), folder, backend="portable", check=False, choices=choices)
    data = given(dataset(model, below=net.below))
    found, rows, said = {}, {}, {}
    for how, settings in HOW.items():
        trainer = Trainer(folder, threads=1)
        rows[how] = alike(trainer.fit(data, epochs=2, batch_size=BATCH, settings=settings))
        found[how], said[how] = parameters(folder), trainer.features
        assert bool(stores(folder)) == (how == "kept" and net.frozen), "a file stays only where that was asked for"
    for how in HOW:
        assert same(found["off"], found[how]), how
        assert rows["off"] == rows[how]
        assert (said[how] is None) == (how == "off" or not net.frozen), said[how]
    assert load_manifest(folder).frozen == net.frozen
    initial = load_manifest(folder).read_checkpoint(load_manifest(folder).initial, "adabet_onnx")[0]
    assert not same(initial, found["off"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Artifacts that train the last convolution and the classifier, and data for them."""
    folder = tmp_path_factory.mktemp("features")
    model = open_model(deep.residual(2, width=8, size=8, classes=4))
    make_artifacts(model, select(model, layers=["blocks.1.conv2", "fc"]), folder / "a", backend="portable", check=False)
    arrays = dataset(model, 150)
    np.savez(folder / "data.npz", x=arrays["input"], y=arrays["y"])
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    shutil.copytree(trained / "a", tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def data(trained) -> Path:
    return trained / "data.npz"


SHORT = {"epochs": 2, "batch_size": 8}


class Counting:
    """Counts runs of the frozen graph."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.samples: list[int] = []
        real = PortableSession.features

        def counted(session: PortableSession, feeds: Any) -> Any:
            self.samples.append(len(next(iter(feeds.values()))))
            return real(session, feeds)

        patch.setattr(PortableSession, "features", counted)


def test_the_frozen_graph_runs_once_over_the_data_and_always_on_as_many_samples(folder, data, monkeypatch):
    monkeypatch.setattr(memory, "_LEAST", 1)
    monkeypatch.setattr(memory, "_MOST", 3 * load_manifest(folder).predicted_bytes("predicted_frozen_bytes", 1))
    runs = Counting(monkeypatch)
    Trainer(folder).fit(data, **SHORT)
    micro = json.loads(load_manifest(folder).read_checkpoint(folder / LAST, "adabet_onnx")[1])["micro_batch"]
    assert 1 <= micro <= 3
    assert set(runs.samples) == {micro}
    assert len(runs.samples) == -(-150 // micro)
    runs.samples.clear()
    Trainer(folder).fit(data, **SHORT, settings=Settings(features="off"))
    assert set(runs.samples) == {micro}
    assert len(runs.samples) > 2 * 135 // micro


def test_gathered_gradients_take_features_too(folder, data):
    found = []
    for how in ("off", "memory", "disk"):
        Trainer(folder).fit(data, epochs=2, batch_size=4, settings=Settings(features=how, accumulate=3))
        found.append(parameters(folder))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


class StopAfter:
    """A progress callback that interrupts as Ctrl-C does."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, what: str, done: int, total: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("before", "after"), [("disk", "disk"), ("memory", "off"), ("off", "disk"), ("disk", "auto")])
def test_a_resumed_training_gives_equal_bits_across_stores(folder, data, before, after, monkeypatch):
    whole = Trainer(folder).fit(data, epochs=3, batch_size=8, learning_rate=0.001)
    expected = parameters(folder)
    calls = 40 if before == "off" else 60  # in the second or third epoch of 17 steps
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder).fit(
            data,
            epochs=3,
            batch_size=8,
            learning_rate=0.001,
            settings=Settings(features=before),
            progress=StopAfter(calls),
        )
    assert bool(stores(folder)) == (before == "disk"), "an interrupted training leaves its file to be resumed with"
    runs = Counting(monkeypatch)
    monkeypatch.setattr(memory, "_MOST", 1)  # a new training would compute fewer at a time
    monkeypatch.setattr(memory, "_LEAST", 1)
    settings = dataclasses.replace(Trainer(folder).interrupted, features=after)
    rows = Trainer(folder).fit(data, settings=settings, resume=True)
    assert alike(rows) == alike(whole)
    assert same(expected, parameters(folder))
    if before == "disk":
        assert not runs.samples, "the file was there"
    else:
        assert set(runs.samples) == {8}, "the micro-batch is that of the start"
    assert not stores(folder)


def test_features_of_another_number_of_threads_are_not_read(folder, data, monkeypatch):
    """ONNX Runtime may then sum in another order."""
    with pytest.raises(KeyboardInterrupt):
        Trainer(folder, threads=1).fit(data, **SHORT, settings=Settings(features="disk"), progress=StopAfter(40))
    (left,) = stores(folder)
    runs = Counting(monkeypatch)
    Trainer(folder, threads=2).fit(data, resume=True, settings=Settings(keep_features=True, **SHORT))
    assert len(runs.samples) == -(-150 // 8), "all of them, once"
    (kept,) = stores(folder)
    assert kept != left
    runs.samples.clear()
    Trainer(folder, threads=2).fit(data, **SHORT)
    assert not runs.samples


def test_a_training_is_not_resumed_when_any_sample_differs(folder, data):
    with np.load(data) as stored:
        x, y = stored["x"].copy(), stored["y"]
    Trainer(folder).fit(data, **SHORT, settings=Settings(schedule="constant"))
    x[77, 0, 3, 3] += 1e-3  # one number of one sample, which no 16 samples would show
    longer = {"epochs": 3, "resume": True}
    with pytest.raises(DataError, match="its labels are the same, but some of its samples differ"):
        Trainer(folder).fit((x, y), **longer)
    x[77] = np.load(data)["x"][77]
    assert len(Trainer(folder).fit((x, y), **longer)) == 4, "arrays or a file: the same samples"


def test_a_checkpoint_of_an_earlier_release_tells_of_a_few_samples_alone(folder, data, monkeypatch):
    begin = History.begin

    def forgetting(history: History, *arguments: Any) -> None:
        del history.about["content"]
        begin(history, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(History, "begin", forgetting)
        Trainer(folder).fit(data, **SHORT, settings=Settings(schedule="constant"))
    told = json.loads(load_manifest(folder).read_checkpoint(folder / LAST, "adabet_onnx")[1])
    assert "content" not in told
    assert "samples" in told
    assert len(Trainer(folder).fit(data, epochs=3, resume=True)) == 4


def test_what_is_finished_is_not_computed_again(folder, data, monkeypatch):
    Trainer(folder).fit(data, **SHORT)
    runs = Counting(monkeypatch)
    Trainer(folder).fit(data, resume=True)
    assert not runs.samples


def test_a_kept_file_serves_the_next_training_with_the_same_data_alone(folder, data, monkeypatch):
    keep = Settings(keep_features=True)
    Trainer(folder).fit(data, **SHORT, settings=keep)
    (kept,) = stores(folder)
    runs = Counting(monkeypatch)
    trainer = Trainer(folder)
    trainer.fit(data, epochs=1, batch_size=8, learning_rate=0.1, settings=keep)
    assert not runs.samples
    assert "from an earlier training" in trainer.features
    with np.load(data) as stored:
        x, y = stored["x"].copy(), stored["y"]
    x[77, 0, 3, 3] += 1e-3  # one number of one sample, which no 16 samples would show
    Trainer(folder).fit((x, y), **SHORT, settings=keep)
    assert runs.samples
    (other,) = stores(folder)
    assert other != kept, "a file of other data is of no use, and goes"
    runs.samples.clear()
    Trainer(folder).fit((x, 1 - y), **SHORT)
    assert not runs.samples, "labels play no part in what is frozen"
    assert not stores(folder), "nor does it stay where that was not asked for"


def test_little_memory_means_a_file_and_no_room_means_a_line(folder, data, monkeypatch):
    trainer = Trainer(folder)
    trainer.fit(data, **SHORT, settings=Settings(features_memory="1GB"))
    assert "in memory" in trainer.features
    expected = parameters(folder)
    trainer.fit(data, **SHORT, settings=Settings(features_memory="10KB"))
    assert "on disk, computed once" in trainer.features
    assert same(expected, parameters(folder))
    trainer.fit(data, **SHORT, settings=Settings(features="memory", features_memory="10KB"))
    assert "`features_memory` is 10 KB" in trainer.features
    assert "\n" not in trainer.features
    assert same(expected, parameters(folder))

    class Full:
        free = 90_000_000

    monkeypatch.setattr(features.psutil, "disk_usage", lambda _: Full)
    trainer.fit(data, **SHORT, settings=Settings(features="disk"))
    assert "90 MB are free" in trainer.features
    assert same(expected, parameters(folder))
    assert not stores(folder)


@pytest.mark.parametrize("reserved", [True, False], ids=["said at once", "said while writing"])
def test_a_full_disk_costs_a_line_and_time_alone(folder, data, reserved, monkeypatch):
    if not reserved:
        monkeypatch.setattr(feature_store, "_reserve", lambda *_: None)
    Trainer(folder).fit(data, **SHORT)
    expected = parameters(folder)
    trainer = Trainer(folder)
    with limited_files(60_000):  # checkpoints are smaller
        trainer.fit(data, **SHORT, settings=Settings(features="disk"))
    assert "too large" in trainer.features
    assert "\n" not in trainer.features
    assert same(expected, parameters(folder))
    assert not stores(folder)


def test_a_training_that_fails_leaves_no_file(folder, data, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PortableSession, "save", full)
    with pytest.raises(Exception, match="No space left"):
        Trainer(folder).fit(data, **SHORT, settings=Settings(features="disk", keep_features=False))
    assert not stores(folder)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"features": "everywhere"}, "auto, memory, disk, off"),
        ({"features_memory": "much"}, "features_memory must be a size"),
        ({"features": "off", "keep_features": True}, "there is no file"),
        ({"features": "disk", "features_memory": "1GB"}, "has no effect"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


def test_the_ort_backend_says_that_it_keeps_none(training, data, tmp_path):
    model = open_model(deep.residual(2, width=8, size=8, classes=4))
    make_artifacts(model, select(model, layers=["fc"]), tmp_path / "ort", backend="ort", check=False)
    trainer = Trainer(tmp_path / "ort")
    trainer.fit(data, **SHORT)
    assert trainer.features is None
    trainer.fit(data, **SHORT, settings=Settings(features="disk"))
    assert "ort backend" in trainer.features


def test_the_command_line_says_where_features_are(folder, data, capsys, monkeypatch):
    def said(*options: str) -> str:
        command = ["adabet-onnx", "train", str(folder), str(data), "--epochs", "1", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr().out

    assert "features: 150 samples of" in said("--features", "memory")
    assert f"in {folder / 'training'}" in said("--keep-features")
    assert "\nfeatures: " not in said("--features", "off")
    assert "because --features-memory is 1 KB: every step" in said("--features", "memory", "--features-memory", "1KB")
    assert (
        "of features cannot be kept, because --features-memory"
        in json.loads(said("--features", "memory", "--features-memory", "1KB", "--json"))["features"]
    )


# The file itself.

FIELDS = (Field("a", "float32", (3, 2)), Field("mask", "bool", (5,)), Field("ids", "int64", ()))
KEY = "0123456789abcdef" * 4


def arrays(samples: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((samples, 3, 2)).astype(np.float32),
        "mask": rng.random((samples, 5)) > 0.5,
        "ids": rng.integers(0, 99, samples),
    }


def chunks(of: dict[str, np.ndarray], size: int = 3) -> list[dict[str, np.ndarray]]:
    return [{name: array[start : start + size] for name, array in of.items()} for start in range(0, 7, size)]


@pytest.fixture
def stored(tmp_path) -> Path:
    path = tmp_path / "x.features"
    write_store(path, KEY, FIELDS, 7, chunks(arrays()))
    return path


def test_a_file_gives_back_what_was_written(stored):
    opened = open_store(stored, KEY, FIELDS, 7)
    assert opened is not None
    for name, array in arrays().items():
        assert opened.features[name].dtype == array.dtype
        assert np.array_equal(opened.features[name], array)
    assert np.array_equal(opened.features.at(np.array([6, 0]))["ids"], arrays()["ids"][[6, 0]])
    opened.close(remove=False)
    assert stored.is_file()
    open_store(stored, KEY, FIELDS, 7).close(remove=True)
    assert not stored.exists()


def test_every_flipped_bit_is_seen(stored):
    whole = stored.read_bytes()
    rng = random.Random(0)
    header = int.from_bytes(whole[8:16], "little") + 48
    places = [*range(0, header, 7), *(rng.randrange(len(whole)) for _ in range(300)), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        stored.write_bytes(damaged)
        assert open_store(stored, KEY, FIELDS, 7) is None, place
    stored.write_bytes(whole)
    assert open_store(stored, KEY, FIELDS, 7) is not None


def test_a_file_that_is_cut_or_longer_or_of_something_else_is_not_read(stored):
    whole = stored.read_bytes()
    for length in (0, 1, 8, 47, 48, 100, 4096, len(whole) // 2, len(whole) - 1):
        stored.write_bytes(whole[:length])
        assert open_store(stored, KEY, FIELDS, 7) is None
    stored.write_bytes(whole + b"\0")
    assert open_store(stored, KEY, FIELDS, 7) is None
    stored.write_bytes(whole)
    assert open_store(stored, "f" * 64, FIELDS, 7) is None
    assert open_store(stored, KEY, FIELDS, 6) is None
    assert open_store(stored, KEY, FIELDS[::-1], 7) is None
    assert open_store(stored, KEY, (dataclasses.replace(FIELDS[0], dtype="int32"), *FIELDS[1:]), 7) is None
    assert open_store(stored, KEY, (dataclasses.replace(FIELDS[0], shape=(2, 3)), *FIELDS[1:]), 7) is None
    assert open_store(stored, KEY, FIELDS, 7) is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="not on Windows")
def test_no_link_is_followed_and_nothing_but_a_file_opened(stored, tmp_path):
    link = tmp_path / "link.features"
    link.symlink_to(stored)
    assert open_store(link, KEY, FIELDS, 7) is None
    os.mkfifo(tmp_path / "pipe.features")
    assert open_store(tmp_path / "pipe.features", KEY, FIELDS, 7) is None
    assert open_store(tmp_path, KEY, FIELDS, 7) is None
    assert open_store(tmp_path / "nowhere.features", KEY, FIELDS, 7) is None
    write_store(link, KEY, FIELDS, 7, chunks(arrays()))
    assert not link.is_symlink(), "a link is replaced, not written through"


def test_a_damaged_file_is_made_again(folder, data, monkeypatch):
    Trainer(folder).fit(data, **SHORT, settings=Settings(keep_features=True))
    expected = parameters(folder)
    (kept,) = stores(folder)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:])
    runs = Counting(monkeypatch)
    Trainer(folder).fit(data, **SHORT, settings=Settings(keep_features=True))
    assert runs.samples
    assert same(expected, parameters(folder))
    assert kept.read_bytes() == whole


def test_the_content_of_pictures_and_arrays_counts(tmp_path):
    model = open_model(tiny.conv_net())
    for name, shade in (("p", 10), ("p", 200), ("q", 90)):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / "train" / name / f"{shade}.png")
    first = open_data(tmp_path, model).train
    before = content_hash(first)
    assert content_hash(open_data(tmp_path, model).train) == before
    assert content_hash(first.subset([1, 0, 2])) != before
    Image.new("RGB", (8, 8), (11, 0, 0)).save(tmp_path / "train" / "p" / "10.png")
    assert content_hash(first) != before
    x = np.zeros((5, 3, 8, 8), np.float32)
    plain = content_hash(open_data(x, model).train)
    x[4, 2, 7, 7] = 1
    assert content_hash(open_data(x, model).train) != plain


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="not on Windows")
def test_kill_9_at_any_moment_costs_time_alone(tmp_path):
    kills = HELPERS / "kills.py"
    command = [sys.executable, str(kills), "8", "1", str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    assert found["kills"] >= 8
    assert found["other"] == 0, "parameters are those of a training that was left alone"
    assert found["left"] == 0
