"""The output of commands: results last, one line per reason, progress without a terminal, and predictions of costs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny
from onnx import helper
from rich.console import Console

from adabet_onnx import check_model, open_model, select
from adabet_onnx.cli.main import main
from adabet_onnx.cli.printing import ProgressLines
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.report.comparison import comparison_table
from adabet_onnx.report.grouping import by_reason, in_common, without_numbers
from adabet_onnx.report.outcome import _figure
from adabet_onnx.report.tables import check_table
from adabet_onnx.scoring.record import load_scores
from adabet_onnx.selection.record import load_selection
from adabet_onnx.showing import counted, listed
from adabet_onnx.study.compare import Comparison
from adabet_onnx.study.results import Result, summarise

node = helper.make_node
BLOCKED = 20  # layers before the node without a gradient


def blocked_net() -> onnx.ModelProto:
    """Layers 0 to 19, a Hardmax that stops gradients, and the layers 20 and 21 behind it."""
    nodes, weights, value = [], {}, "input"
    for index in range(BLOCKED + 2):
        width = 3 if index == BLOCKED + 1 else 6
        weights[f"layer{index}.weight"] = tiny.normal(6, width)
        made = "logits" if width == 3 else f"m{index}"
        nodes.append(node("MatMul", [value, f"layer{index}.weight"], [made], f"/layer{index}"))
        value = made
        if index == BLOCKED - 1:
            nodes.append(node("Hardmax", [value], ["hard"], "/hard"))
            nodes.append(node("Hardmax", ["hard"], ["harder"], "/harder"))
            value = "harder"
    return tiny.build(nodes, weights, input_shape=["N", 6])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    onnx.save(blocked_net(), folder / "blocked.onnx")
    onnx.save(tiny.conv_net(seed=3), folder / "conv.onnx")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(folder / "rows.npz", x=rng.standard_normal((120, 6)).astype(np.float32), y=y)
    x = rng.standard_normal((120, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    return folder


@pytest.fixture
def adabet(inputs, tmp_path, monkeypatch, capfd):
    """Run the command line in this process, in a folder with the inputs: output and messages."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    def run(command: str, code: int = 0) -> tuple[str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *command.split()])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capfd.readouterr()
        assert left.value.code == code, err
        return out, err

    return run


def test_names_are_grouped_by_reason_in_order():
    found = by_reason({"a": "x", "b": "y", "c": "x"})
    assert found == {"x": ["a", "c"], "y": ["b"]}
    assert list(found) == ["x", "y"]
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert [counted(1, "layer"), counted(1234, "layer")] == ["1 layer", "1,234 layers"]


def test_select_counts_what_it_lists_and_groups_what_it_leaves_out(adabet):
    adabet("score blocked.onnx rows.npz -o scores.json --samples 64 --subset-size 16 --subsets 4 -q")
    out, _ = adabet("select scores.json -o selection.json --rho 0.5")
    first, *lines = out.splitlines()
    assert first == (
        "selected (2 of 22 layers with the highest first Betti numbers per element of activation; "
        "only 2 of the 22 layers can be trained, and 11 were requested):"
    )
    assert [line.split()[0] for line in lines[:2]] == ["layer20", "layer21"]
    (told,) = [line for line in lines if "left out" in line]
    assert told.startswith(
        "left out, since no backend can train them: 20 layers (layer0, layer1, layer2 and 17 more): node '/harder'"
    )
    assert load_selection("selection.json").left_out.keys() == {f"layer{index}" for index in range(BLOCKED)}
    out, _ = adabet("select scores.json -o selection.json --strategy last --rho 0.05")
    assert "selected (the last 1 of 22 layers; only 2 of the 22 layers can be trained):" in out


def test_check_ends_with_its_result(adabet):
    out, err = adabet("check blocked.onnx", code=1)
    lines = out.splitlines()
    assert lines[-1] == "blocked.onnx: 2 of 22 layers can be trained (loss cross-entropy)"
    (told,) = [line for line in lines if line.startswith("portable: ")]
    assert told.startswith("portable: nodes '/hard', '/harder' (Hardmax): each has no gradient here")
    assert err.startswith("Error: blocked.onnx: no backend can train 20 of 22 layers.")
    out, _ = adabet("check conv.onnx")
    assert out.splitlines()[-1] == "conv.onnx: 5 of 5 layers can be trained (loss cross-entropy)"
    (repair,) = [line for line in out.splitlines() if "becomes multiplications" in line]
    assert repair.startswith(
        "  ort: BatchNormalization becomes multiplications and additions with its stored statistics"
    )
    assert repair.endswith(": up to 2 nodes between the loss and 4 layers (conv1, bn1, conv2, bn2)")
    assert "not marked as new" not in out


def test_check_says_which_runtime_is_missing():
    check = dataclasses.replace(check_model(tiny.conv_net()), installed={"portable": True, "ort": False})
    text = "\n".join(map(str, check_table(check).renderables))
    assert "ort: onnxruntime-training is not installed here; the column says what it could train" in text


def test_score_ends_with_the_best(adabet):
    out, _ = adabet("score conv.onnx images.npz -o scores.json --samples 64 --subset-size 16 --subsets 4")
    best = sorted(load_scores("scores.json").layers, key=lambda layer: layer.rank)
    assert out.splitlines()[-1] == "the highest b1_hat: " + ", ".join(f"{x.name} {x.b1_hat:.2e}" for x in best)


QUICK = "--samples 64 --subset-size 16 --subsets 4 --no-measure --no-check --validation 0.25"


@pytest.mark.slow
def test_run_without_measuring_prints_what_is_predicted(adabet):
    out, _ = adabet(f"run conv.onnx images.npz -o out {QUICK} --epochs 1 --strategy last --rho 0.2 --batch-size 16")
    model = open_model("conv.onnx")
    costs = Predictor(model, batch_size=16)
    chosen, whole, forward = costs.training(["fc.weight", "fc.bias"]), costs.everything(), costs.inference()
    work = chosen.step_multiply_adds / whole.step_multiply_adds
    assert work < 0.005, "two digits are not enough"
    sentence = (
        f"predicted: a step takes {chosen.memory_bytes / whole.memory_bytes:.2f} of the memory and "
        f"{work:.2g} of the multiply-adds of training all layers (memory: "
    )
    assert any(line.startswith(sentence) for line in out.splitlines())
    assert "one step, batch 16, predicted (not measured)" in out
    for label, row in (("inference", forward), ("selected layers", chosen), ("all layers", whole)):
        (line,) = [line for line in out.splitlines() if line.startswith("│") and label in line]
        assert f"{row.memory_bytes / 1e6:.3g} MB" in line
        assert f"{(row.memory_bytes + row.margin_bytes) / 1e6:.3g} MB" in line
    predicted = json.loads(Path("out/run.json").read_text())["predicted"]
    assert {name: row["predicted_bytes"] for name, row in predicted.items()} == {
        "inference": forward.memory_bytes,
        "selection": chosen.memory_bytes,
        "all": whole.memory_bytes,
    }


@pytest.mark.slow
def test_all_layers_are_those_that_can_be_trained(adabet):
    out, _ = adabet(f"run blocked.onnx rows.npz -o out {QUICK} --epochs 1 --rho 1")
    assert "of training the 2 of 22 layers that can be trained, which are the selected ones (memory:" in out
    assert "training, the 2 of 22 layers that can be trained" in out
    assert json.loads(Path("out/run.json").read_text())["trainable_layers"] == 2
    out, _ = adabet(f"run blocked.onnx rows.npz -o again {QUICK} --epochs 1 --layers layer21")
    assert "of training the 2 of 22 layers that can be trained (memory:" in out


def test_progress_without_a_terminal_is_a_line_for_each_epoch(adabet):
    out, err = adabet(f"run conv.onnx images.npz -o out {QUICK} --epochs 3 --json")
    assert json.loads(out)["batch_size"] == 32, "stdout holds JSON alone"
    rows = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(epochs) == 3
    for line, row in zip(epochs, rows[1:], strict=True):
        assert line.startswith(f"epoch {row['epoch']}/3, loss {row['train_loss']:.3f}, accuracy ")
        assert line.endswith(f", eval loss {row['eval_loss']:.3f}, eval accuracy {row['eval_accuracy']:.1%}")
    assert err.splitlines()[:3] == ["scoring ...", "making artifacts ...", "evaluating ..."]
    _, err = adabet("train out/artifacts images.npz --epochs 2")
    assert [line.split(",")[0] for line in err.splitlines()] == ["computing features ...", "epoch 1/2", "epoch 2/2"]
    assert adabet("train out/artifacts images.npz --epochs 2 -q") == ("", "")


def test_a_comparison_says_what_is_at_chance():
    row = Result("last", 0.1, 0, 0.5, 1.5, 0.1, 0.01, 10**7, 400, ("fc",), 0.001, 10**7)
    found = Comparison(Path(), [row], summarise([row], 40), 40, 0.5, None, warnings=("last 10%: an accuracy of ...",))
    console = Console(width=120)
    with console.capture() as capture:
        console.print(comparison_table(found))
    assert "warning: last 10%: an accuracy of ..." in capture.get().splitlines()


def test_large_figures_have_no_power_of_ten():
    assert [_figure(number) for number in (0.1234, 12.34, 99.94, 345.6, 2817.4)] == [
        "0.123",
        "12.3",
        "99.9",
        "346",
        "2,817",
    ]


def test_an_epoch_is_told_once_when_it_is_over(capfd):
    tell = ProgressLines()
    for epoch in (1, 2):
        for step in range(1, 4):
            tell(f"epoch {epoch}/2, loss {step}", 3 * (epoch - 1) + step, 6)
    for done in (0, 1, 2):
        tell("measuring", done, 3)
    tell("adabet, seed 1", 4, 9)
    tell("learning rate found by 300 updates", 640, 640)
    assert capfd.readouterr().err.splitlines() == [
        "epoch 1/2, loss 3",
        "epoch 2/2, loss 3",
        "measuring ...",
        "adabet, seed 1 (4 of 9)",
        "learning rate found by 300 updates",
    ]


def test_a_training_that_learns_nothing_is_warned_of(adabet):
    """Labels of noise: chance is 14 of 40 at most, those of class 0."""
    options = f"{QUICK} --strategy last --rho 0.2"
    out, _ = adabet(f"run conv.onnx images.npz -o out {options} --num-classes 3 --epochs 6 --lr 0.00001")
    summary = json.loads(Path("out/run.json").read_text())
    assert out.count("warning   ") == len(summary["warnings"]) > 0
    assert all(f"warning   {text}\n" in out for text in summary["warnings"])
    assert "ln(3) = 1.09" in summary["warnings"][0]
    assert f"hint      {summary['advice']}\n" in out
    assert "--lr 0.0001" in summary["advice"]
    assert summary["learning_rate"] == 1e-5
    out, _ = adabet("train out/artifacts images.npz --epochs 6 --lr 0.00001 --batch-size 16 --head-init random")
    assert f"warning: {summary['warnings'][0][:25]}" in out
    assert "hint: the validation loss barely fell" in out


def test_a_good_training_is_hinted_at_other_rates_only(adabet, rng):
    y = np.arange(160) % 4
    x = (0.3 * rng.standard_normal((160, 3, 8, 8)) + np.eye(4)[y][:, :3, None, None]).astype(np.float32)
    np.savez("bright.npz", x=x, y=y)
    out, _ = adabet(f"run conv.onnx bright.npz -o out {QUICK} --strategy all --epochs 8 --lr 0.05")
    assert "warning" not in out
    assert "hint      the learning rate was 0.05; another one may do better, e.g. --lr 0.15, 0.5 or 0.005 (" in out


def test_a_budget_says_how_many_layers_it_allows(adabet):
    adabet("score conv.onnx images.npz -o scores.json --samples 64 --subset-size 16 --subsets 4 -q")
    found = select(load_scores("scores.json"), strategy="all")
    out, _ = adabet("select scores.json -o selection.json --strategy last --rho 1 --max-update 300B")
    layers = load_selection("selection.json").layers
    assert 0 < len(layers) < len(found.layers)
    assert f"; the budget limits this to {counted(len(layers), 'layer')}):" in out


# --- forms of shared layers ---------------------------------------------------------------------------------------


def test_reasons_that_differ_in_numbers_alone_are_one() -> None:
    reasons = ["w2 is applied 10 times to 3", "w2 is applied 21 times to 3", "w2 is applied 12 times to 3"]
    assert {without_numbers(reason) for reason in reasons} == {"w2 is applied # times to #"}
    assert in_common(reasons) == "w2 is applied 10 to 21 times to 3"


def unrolled_net(layers: int) -> onnx.ModelProto:
    """Layers that are each applied two times or three, one after another, and a head."""
    nodes, weights, value = [], {"head.weight": tiny.normal(6, 3)}, "input"
    for index in range(layers):
        weights[f"cell{index}.weight"] = tiny.normal(6, 6, scale=0.4)
        for turn in range(2 + index % 2):
            nodes.append(node("MatMul", [value, f"cell{index}.weight"], [f"m{index}.{turn}"], f"/cell{index}/{turn}"))
            value = f"r{index}.{turn}"
            nodes.append(node("Relu", [f"m{index}.{turn}"], [value], f"/relu{index}/{turn}"))
    nodes.append(node("MatMul", [value, "head.weight"], ["logits"], "/head"))
    return tiny.build(nodes, weights, input_shape=["N", 6])


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_shared_layers_are_one_line_and_json_has_all(command: str, adabet, tmp_path: Path) -> None:
    onnx.save(unrolled_net(6), tmp_path / "m.onnx")
    out, _ = adabet(f"{command} m.onnx")
    [line] = [line for line in out.splitlines() if line.lstrip().startswith("shared layer")]
    assert "cell0, cell1, cell2 and 3 more" in line
    assert "applied 2 to 3 times" in line
    told = json.loads(adabet(f"{command} m.onnx --json")[0])["decisions"]
    shared = [each for each in told if each["about"] == "shared layer"]
    assert [each["taken_for"] for each in shared] == [f"cell{index}" for index in range(6)]
    assert ["3 times" in each["because"] for each in shared] == [False, True] * 3
