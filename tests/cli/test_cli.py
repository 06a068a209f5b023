"""The command line contract: commands, options, their files and the keys in them, on which scripts rely."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from models import tiny
from PIL import Image

from adabet_onnx import __version__, open_model
from adabet_onnx.cli.main import cli, main
from adabet_onnx.report import doctor as doctor_report
from adabet_onnx.training.metrics import FIGURES

COMMANDS = (
    "artifacts",
    "check",
    "compare",
    "cost",
    "delta apply",
    "delta diff",
    "delta save",
    "delta show",
    "demo",
    "device",
    "doctor",
    "evaluate",
    "export",
    "fleet app",
    "fleet round",
    "fleet simulate",
    "import",
    "inspect",
    "menu",
    "new-head",
    "predict",
    "report",
    "run",
    "score",
    "select",
    "stability",
    "surgery",
    "train",
)
CLASSES = ["ant", "bee", "cat", "dog"]
LAYERS = ["conv1", "bn1", "conv2", "bn2", "fc"]
PROGRESS = re.compile(r"epoch \d+/\d+, loss .*|[^.]+ \.\.\.|.+ \(\d+ of \d+\)")  # what stderr may have
QUICK = "--samples 64 --subset-size 16 --subsets 8"


@dataclass(frozen=True)
class Result:
    """The output and exit code of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def adabet(monkeypatch, capfd) -> Callable[..., Result]:
    """Run the command line in this process; it must succeed unless told otherwise."""

    def run(*arguments: object, code: int = 0) -> Result:
        capfd.readouterr()
        words = [
            str(word)
            for argument in arguments
            for word in (argument.split() if isinstance(argument, str) else [argument])
        ]
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *words])
        with pytest.raises(SystemExit) as left:
            main()
        result = Result(left.value.code, *capfd.readouterr())
        assert result.code == code, result.err
        if code == 0:
            assert [line for line in result.err.splitlines() if not PROGRESS.fullmatch(line)] == []
        return result

    return run


def make_inputs(folder: Path) -> None:
    """model.onnx and data.npz: images whose class is the bright colour channel, or none."""
    proto = tiny.conv_net(seed=3)
    for key, value in (("mean", "[0.5, 0.5, 0.5]"), ("std", "[0.25, 0.25, 0.25]")):
        proto.metadata_props.add(key=key, value=value)
    onnx.save(proto, folder / "model.onnx")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 4
    x = rng.integers(0, 90, (120, 8, 8, 3))
    for index, label in enumerate(y):
        x[index, ..., min(label, 2)] += 120 if label < 3 else 0
    x = x.astype(np.uint8)
    np.savez(folder / "data.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:], classes=CLASSES)
    Image.fromarray(x[0]).save(folder / "photo.png")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture
def here(inputs, tmp_path, monkeypatch) -> Path:
    """An empty working directory with the inputs in it."""
    for name in ("model.onnx", "data.npz", "photo.png"):
        (tmp_path / name).symlink_to(inputs / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """The folder after score, select, artifacts, train, evaluate and export, with their outputs."""
    folder = tmp_path_factory.mktemp("chain")
    make_inputs(folder)
    steps = {
        "score": f"score model.onnx data.npz -o scores.json {QUICK} --plot scores.png",
        "select": "select scores.json -o selection.json --strategy last --rho 0.4",
        "artifacts": "artifacts model.onnx selection.json -o artifacts --optimizer adamw",
        "train": "train artifacts data.npz --epochs 4 --batch-size 16 --lr 0.05 --schedule cosine --seed 0",
        "before": "evaluate model.onnx data.npz --json",
        "evaluate": "evaluate artifacts data.npz --json",
        "export": "export artifacts -o adapted.onnx",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, command in steps.items():
            with (folder / f"{name}.out").open("w+") as out:
                patch.setattr(sys, "stdout", out)
                patch.setattr(sys, "argv", ["adabet-onnx", *command.split()])
                with pytest.raises(SystemExit) as left:
                    main()
                assert left.value.code == 0, name
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- every command ---------------------------------------------------------------------------------------------------


def test_the_commands_are_these():
    assert tuple(sorted(cli.commands)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_quiet(command, adabet):
    text = adabet(*command.split(), "--help").out
    assert f"Usage: adabet-onnx {command}" in text
    assert "Example:" in text
    assert f"  adabet-onnx {command}" in text.split("Example:")[1]
    assert "--quiet" in text
    for option in cli.commands[command].params:
        described = getattr(option, "help", None) or option.param_type_name == "argument" or option.hidden
        assert described, f"{command} {option.name} is not described"


def test_help_lists_every_command_with_a_summary(adabet):
    text = adabet("--help").out
    assert "Example:" in text
    for command in COMMANDS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {command} ")]
        assert len(line.split(maxsplit=1)[1]) > 10
    assert adabet("-h").out == text


def test_version(adabet):
    assert adabet("--version").out == f"adabet-onnx, version {__version__}\n"


def test_no_command_is_a_usage_error_that_shows_the_commands(adabet):
    result = adabet(code=2)
    assert re.findall(r"^  ([a-z][a-z-]+(?: [a-z]+)?)  ", result.err, re.MULTILINE) == list(cli.commands)
    assert result.out == ""


# --- models ----------------------------------------------------------------------------------------------------------


def test_inspect_json(adabet, here):
    found = json.loads(adabet("inspect model.onnx --json").out)
    assert found["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 3, 8, 8]}]
    assert found["outputs"] == ["logits"]
    assert found["head"] == "fc"
    assert found["new_head"] is False
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    assert found["layers"][0] == {
        "name": "conv1",
        "op_type": "Conv",
        "parameters": ["conv1.weight"],
        "parameter_count": 162,
        "applied": 1,
        "activation": "c1",
        "activation_shape": [6, 8, 8],
        "activation_size": 384,
    }
    assert found["layers"][1]["parameters"] == ["bn1.weight", "bn1.bias"], "stored statistics are no parameters"
    assert found["parameter_count"] == 162 + 12 + 432 + 16 + 36


def test_inspect_for_people(adabet, here):
    text = adabet("inspect model.onnx").out
    for name in (*LAYERS, "BatchNormalization", "6x8x8", "(head)", "float32"):
        assert name in text
    assert adabet("inspect model.onnx --quiet").out == ""
    assert json.loads(adabet("inspect model.onnx --quiet --json").out), "what --json asks for is printed all the same"


def test_names_with_brackets_and_colons_are_printed_as_they_are(adabet, here):
    """The library that prints tables would interpret them as colours and emoji."""
    proto = onnx.load("model.onnx")
    for tensor in proto.graph.initializer:
        for node in proto.graph.node:
            node.input[:] = [f"[red]{name}" if name == tensor.name else name for name in node.input]
        tensor.name = f"[red]{tensor.name}"
    onnx.save(proto, "a[bold]b.onnx")
    text = adabet("inspect", Path("a[bold]b.onnx")).out
    assert "[red]conv1" in text
    assert "a[bold]b.onnx" in text
    result = adabet("surgery", Path("a[bold]b.onnx"), "--outputs gram -o", Path("x[red]:smile:.onnx"))
    assert result.out.startswith("x[red]:smile:.onnx: 5 outputs")


@pytest.mark.parametrize("kind", ["activations", "gram", "sketch"])
def test_surgery(kind, adabet, here, rng):
    adabet(f"surgery model.onnx --outputs {kind} -o probed.onnx")
    session = onnxruntime.InferenceSession("probed.onnx")
    names = json.loads(session.get_modelmeta().custom_metadata_map["adabet_onnx.probes"])
    assert list(names) == LAYERS
    outputs = dict(
        zip(
            names,
            session.run(list(names.values()), {"input": rng.random((5, 3, 8, 8), np.float32)}),
            strict=True,
        )
    )
    if kind == "gram":
        assert {array.shape for array in outputs.values()} == {(5, 5)}
    elif kind == "sketch":
        assert [array.shape for array in outputs.values()] == [(5, 384)] * 2 + [(5, 512)] * 2 + [(5, 4)]
    else:
        assert [array.shape for array in outputs.values()] == [(5, 6, 8, 8)] * 2 + [(5, 8, 8, 8)] * 2 + [(5, 4)]


def test_new_head(adabet, here):
    adabet("new-head model.onnx --num-classes 7 -o model7.onnx --seed 1")
    found = json.loads(adabet("inspect model7.onnx --json").out)
    assert found["new_head"] is True
    assert found["layers"][-1]["activation_shape"] == [7]
    again = Path("model7.onnx").read_bytes()
    adabet("new-head model.onnx --num-classes 7 -o model7.onnx --seed 1 --quiet")
    assert Path("model7.onnx").read_bytes() == again
    adabet("new-head model.onnx --num-classes 7 -o model7.onnx --seed 2")
    assert Path("model7.onnx").read_bytes() != again


# --- score and select ------------------------------------------------------------------------------------------------


def test_scores_json(adabet, here):
    result = adabet(f"score model.onnx data.npz -o scores.json {QUICK} --seed 5 --plot scores.png")
    scores = read(here / "scores.json")
    assert scores["format"] == "adabet-onnx/scores"
    assert scores["version"] == 2
    assert scores["model_sha256"] == open_model("model.onnx").sha256
    assert scores["estimator"] == "subsets"
    (group,) = scores["samples"]
    assert len(set(group)) == 64
    assert max(group) < 90, "indices into x_train"
    assert [layer["name"] for layer in scores["layers"]] == LAYERS
    for layer in scores["layers"]:
        assert len(layer["b1"]) == 8
        assert layer["b1_mean"] == pytest.approx(np.mean(layer["b1"]))
        assert layer["b1_hat"] == pytest.approx(layer["b1_mean"] / (16 * layer["activation_size"]))
        assert layer["stderr"] >= 0
        assert set(layer) >= {"op_type", "parameters"}
    ranked = sorted(scores["layers"], key=lambda layer: layer["rank"])
    assert [layer["rank"] for layer in ranked] == [1, 2, 3, 4, 5]
    assert [layer["b1_hat"] for layer in ranked] == sorted((layer["b1_hat"] for layer in ranked), reverse=True)
    assert scores["classes"] == CLASSES
    assert scores["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert (here / "scores.png").read_bytes().startswith(b"\x89PNG")
    for name in LAYERS:
        assert name in result.out


def test_score_with_the_papers_estimator_in_order(adabet, here):
    options = "--estimator batches --batch-size 16 --batches 3 --order sequential --quiet"
    assert adabet(f"score model.onnx data.npz -o scores.json {options}").out == ""
    scores = read(here / "scores.json")
    assert scores["estimator"] == "batches"
    assert scores["samples"] == [list(range(16)), list(range(16, 32)), list(range(32, 48))]
    assert all(len(layer["b1"]) == 3 for layer in scores["layers"])


def test_score_is_the_same_again(adabet, here):
    for name in ("a.json", "b.json"):
        adabet(f"score model.onnx data.npz -o {name} {QUICK} -q")
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_selection_json(adabet, here):
    adabet(f"score model.onnx data.npz -o scores.json {QUICK} -q")
    result = adabet("select scores.json -o selection.json --strategy adabet --rho 0.5 --head auto")
    selection, scores = read(here / "selection.json"), read(here / "scores.json")
    assert selection["format"] == "adabet-onnx/selection"
    assert selection["version"] == 1
    assert selection["model_sha256"] == scores["model_sha256"]
    assert (selection["strategy"], selection["rho"]) == ("adabet", 0.5)
    best = {layer["name"]: layer for layer in scores["layers"] if layer["rank"] <= 2}
    assert set(selection["layers"]) == set(best), "k = floor(0.5 * 5)"
    assert selection["layers"] == [name for name in LAYERS if name in best]
    assert selection["parameters"] == [name for layer in selection["layers"] for name in best[layer]["parameters"]]
    for word in (*best, "cut-off", "Kendall"):
        assert word in result.out
    assert adabet("select scores.json -o selection.json -q").out == ""


def test_select_by_patterns(adabet, here):
    adabet(f"score model.onnx data.npz -o scores.json {QUICK} -q")
    adabet("select scores.json -o selection.json --layers bn* --layers fc")
    assert read(here / "selection.json")["layers"] == ["bn1", "bn2", "fc"]


# --- the chain -------------------------------------------------------------------------------------------------------


def test_artifact_folder(chain):
    files = {path.name for path in (chain / "artifacts").iterdir()}
    graphs = {"step.onnx", "grads.onnx", "update.onnx", "eval.onnx", "model.onnx"}
    assert files >= {*graphs, "state.bin", "manifest.json", "metrics.jsonl"}
    manifest = read(chain / "artifacts" / "manifest.json")
    assert manifest["format"] == "adabet-onnx/manifest"
    assert manifest["backend"] == "portable"
    assert manifest["classes"] == CLASSES
    assert sorted(entry["name"] for entry in manifest["parameters"]) == sorted(
        read(chain / "selection.json")["parameters"]
    )
    assert manifest["checked"]["changed"] == len(manifest["parameters"])


def test_metrics_jsonl(chain):
    rows = [json.loads(line) for line in (chain / "artifacts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        assert list(row) == ["epoch", "train_loss", "eval_loss", "eval_accuracy", "learning_rate", "seconds"]
    assert rows[0]["train_loss"] is None, "the state before training"
    assert rows[4]["train_loss"] < rows[1]["train_loss"]
    assert rows[4]["eval_loss"] < rows[0]["eval_loss"]
    assert 0 < rows[4]["learning_rate"] < rows[1]["learning_rate"] <= 0.05, "a falling cosine"
    printed = (chain / "train.out").read_text()
    taken, kept, *lines = printed.splitlines()
    assert taken == "data: 90 RGB images of 8 x 8 -> 3 x 8 x 8: axes moved (layout NHWC)"
    assert re.fullmatch(r"features: 90 samples of \S+ K?B, \S+ KB in memory, computed once", kept)
    assert [line.split()[1] for line in lines] == ["0", "1", "2", "3", "4"]


def test_evaluate_json(chain):
    before, after = read(chain / "before.out"), read(chain / "evaluate.out")
    for result in (before, after):
        assert set(result) == {"loss", "accuracy", "samples", "data", "hint", *FIGURES}
        assert np.array(result["confusion_matrix"]).sum() == 30
        assert [row["class"] for row in result["per_class"]] == CLASSES
        assert result["samples"] == 30, "x_test"
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > before["accuracy"]


def test_the_exported_model_is_the_trained_one(chain, adabet, monkeypatch):
    monkeypatch.chdir(chain)
    trained, exported = read(chain / "evaluate.out"), json.loads(adabet("evaluate adapted.onnx data.npz --json").out)
    assert exported["accuracy"] == trained["accuracy"]
    assert exported["loss"] == pytest.approx(trained["loss"], abs=1e-5)
    before = {tensor.name: tensor for tensor in onnx.load("model.onnx").graph.initializer}
    after = {tensor.name: tensor for tensor in onnx.load("adapted.onnx").graph.initializer}
    assert set(before) == set(after), "the original graph, not the decomposed one"
    changed = {name for name in before if before[name].raw_data != after[name].raw_data}
    assert changed == set(read(chain / "selection.json")["parameters"])


def test_evaluate_for_people(chain, adabet, monkeypatch):
    monkeypatch.chdir(chain)
    result = json.loads(adabet("evaluate adapted.onnx data.npz --json --quiet").out)
    text = adabet("evaluate adapted.onnx data.npz").out
    assert f"{result['accuracy']:.1%}" in text
    assert "30 samples (test)" in text
    assert adabet("evaluate adapted.onnx data.npz -q").out == ""


def test_predict(chain, adabet, monkeypatch):
    monkeypatch.chdir(chain)
    rows = json.loads(adabet("predict adapted.onnx data.npz --json").out)
    assert [row["input"] for row in rows] == [str(index) for index in range(30)]
    right = np.mean([row["class"] == CLASSES[(90 + index) % 4] for index, row in enumerate(rows)])
    assert right == pytest.approx(read(chain / "evaluate.out")["accuracy"])
    for row in rows:
        shares = np.exp(row["logits"]) / np.exp(row["logits"]).sum()
        assert row["probability"] == pytest.approx(shares.max(), abs=1e-5)
    (photo,) = json.loads(adabet("predict adapted.onnx photo.png --json").out)
    assert photo["input"] == "photo.png"
    assert photo["class"] in CLASSES
    text = adabet("predict adapted.onnx photo.png").out
    assert photo["data"] == "1 image file -> 3 x 8 x 8: RGB, upright by EXIF, resized"
    assert text == f"data: {photo['data']}\nphoto.png  {photo['class']}  {photo['probability']:.1%}\n"
    (trained,) = json.loads(adabet("predict artifacts photo.png --json").out)
    assert trained["logits"] == pytest.approx(photo["logits"], abs=1e-4)


def test_resume_continues_to_the_same_end(chain, adabet, monkeypatch):
    monkeypatch.chdir(chain)
    before = (chain / "artifacts" / "metrics.jsonl").read_bytes()
    adabet("train artifacts data.npz --resume -q")
    assert (chain / "artifacts" / "metrics.jsonl").read_bytes() == before, "nothing was left to do"


# --- the whole job ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_leaves_its_files(adabet, here):
    options = f"{QUICK} --epochs 2 --num-classes 4 --no-measure --plot out/scores.png --rho 0.4 --lr 0.01"
    text = adabet(f"run model.onnx data.npz -o out {options}").out
    out = here / "out"
    assert {path.name for path in out.iterdir()} == {
        "adapted.onnx",
        "artifacts",
        "metrics.jsonl",
        "model.onnx",
        "run.json",
        "scores.json",
        "scores.png",
        "selection.json",
    }
    selection, summary = read(out / "selection.json"), read(out / "run.json")
    assert "fc" in selection["layers"], "a new head is always trained"
    assert (
        selection["model_sha256"] == open_model(out / "model.onnx").sha256 == read(out / "scores.json")["model_sha256"]
    )
    assert summary["layers"] == selection["layers"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3
    again = json.loads(adabet("evaluate out/adapted.onnx data.npz --json").out)
    assert summary["after"]["loss"] == pytest.approx(again["loss"])
    assert summary["after"] | {"loss": None} == again | {"loss": None}
    for words in (
        *selection["layers"],
        "accuracy",
        "before",
        "after",
        "30 test samples",
        "of the parameters",
        "adapted",
    ):
        assert words in text
    assert "fc" in json.loads(adabet("inspect out/adapted.onnx --json").out)["head"]
    sizes = read(out / "run.json")["size_tau"]
    assert sizes is None or f"Kendall tau {sizes:.2f}" in text

    again = adabet(f"run model.onnx data.npz -o out {options} --resume --quiet")
    assert again.out == ""
    assert read(out / "run.json")["after"] == summary["after"]


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor(adabet):
    text = adabet("doctor").out
    for name in ("adabet-onnx", "onnxruntime", "ripser", "portable backend: yes", "the ort backend"):
        assert name in text
    assert adabet("doctor -q").out == ""


def test_doctor_fails_where_nothing_works(adabet, monkeypatch):
    monkeypatch.setattr(doctor_report, "_tried", lambda door: (False, "it is not there"))
    result = adabet("doctor", code=1)
    assert "it is not there" in result.out
    assert result.err == ""


@pytest.mark.slow
def test_score_and_run_print_what_they_write_as_json(adabet, here):
    scores = json.loads(adabet(f"score model.onnx data.npz -o scores.json {QUICK} --json").out)
    assert scores == read(here / "scores.json")
    assert scores["settings"]["data"].startswith(f"{len(np.load('data.npz')['x_train']):,} ")
    summary = json.loads(adabet(f"run model.onnx data.npz -o out {QUICK} --epochs 1 --no-measure --json").out)
    assert summary == read(here / "out" / "run.json")
    assert summary["data"] == scores["settings"]["data"]
