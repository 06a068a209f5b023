"""Next steps: the commands after a run, the one after an interruption, and completion in a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import command_of
from conftest import ROOT
from test_cli import QUICK, make_inputs
from test_cli_help import HEAVY, imported_by

from adabet_onnx.cli import run as run_module
from adabet_onnx.cli.commands import ENTRIES
from adabet_onnx.cli.main import cli
from adabet_onnx.cli.next_steps import after_interruption, after_run

RUN = ["--epochs", "1", "--no-measure", *QUICK.split()]


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """A command in a folder whose name needs quotes, with files whose names do too."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    make_inputs(folder)
    monkeypatch.chdir(folder)
    Path("data.npz").rename("new data.npz")
    return command_of(monkeypatch, capfd)


def steps(text: str) -> list[str]:
    lines = text.splitlines()
    return [line.strip() for line in lines[lines.index("next:") + 1 :]] if "next:" in lines else []


@pytest.mark.slow
def test_the_commands_after_a_run_can_be_typed(command):
    given = ["model.onnx", "new data.npz", "-o", "my out", *RUN, "--num-classes", "4", "--layout", "NHWC"]
    found = steps(command("run", *given).out)
    assert [shlex.split(step)[1] for step in found] == ["predict", "evaluate", "report", "device", "compare"]
    assert found[0] == "adabet-onnx predict 'my out/adapted.onnx' 'new data.npz' --layout NHWC"
    assert found[3] == "adabet-onnx device 'my out/artifacts' -o 'my out/device'"
    assert "--num-classes 4" in found[4]
    for step in found[:4]:
        assert command(*shlex.split(step)[1:]).out
    assert Path("my out/report.html").is_file()
    assert Path("my out/device/device.json").is_file()
    command(*shlex.split(found[4])[1:], *["--strategies", "last", "--seeds", "1", "--jobs", "1", "--rates", "0.01"])
    assert Path("my out/results.json").is_file()
    assert command("evaluate", "my out/artifacts", "new data.npz", "--layout", "NHWC").out, (
        "what was trained is still there"
    )


@pytest.mark.slow
def test_programs_and_quiet_people_are_spared_them(command):
    given = ["run", "model.onnx", "new data.npz", "-o", "out", *RUN]
    assert "next:" not in command(*given, "--json").out
    assert command(*given, "--quiet").out == ""


def test_options_are_said_again_as_they_were_given():
    words = ["--input", "sr=16000", "--input", "w=w.npy", "--mean", "0.5,0.25", "--max-memory", "0.25x", "--rgb"]
    words += ["--class-axis", "-1", "--ignore-label", "255", "--allow-resize", "--keep-tail", "--rho", "0.3"]
    model = str(Path(__file__))
    found = after_run(cli.commands["run"].make_context("run", [model, model, "-o", "out", *words]))
    _, evaluate, _, _, compared = (shlex.split(line)[4:] for line in found.splitlines()[1:])
    labels = ["--allow-resize", "--class-axis", "-1", "--ignore-label", "255"]
    assert evaluate == labels
    again = " ".join(compared)
    for given in ("--input sr=16000 --input w=w.npy", "--mean 0.5,0.25", "--max-memory 0.25x", "--rgb", "--keep-tail"):
        assert given in again
    assert " ".join(labels) in again
    assert "--rho" not in compared
    assert "--preset" not in compared, "which was not given"


@pytest.mark.usefixtures("training")
def test_no_package_is_proposed_of_the_other_backend(command):
    """A package needs plain ONNX."""
    out = command("run", "model.onnx", "new data.npz", "-o", "out", *RUN, "--backend", "ort").out
    assert [shlex.split(step)[1] for step in steps(out)] == ["predict", "evaluate", "report", "compare"]
    assert "--backend portable" in command("device", "out/artifacts", "-o", "device", code=2).err


@pytest.mark.slow
def test_no_comparison_is_proposed_without_test_data(command):
    with np.load("new data.npz") as data:
        np.savez("all.npz", x=data["x_train"], y=data["y_train"])
    out = command("run", "model.onnx", "all.npz", "-o", "out of all", *RUN).out
    assert [shlex.split(step)[1] for step in steps(out)] == ["predict", "evaluate", "report", "device"]
    assert "hint      metrics on training samples are too optimistic: give test data too" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run m.onnx d.npz -o out", "adabet-onnx run m.onnx d.npz -o out --resume"),
        ("train 'my out' d.npz --resume", "adabet-onnx train 'my out' d.npz --resume"),
        ("compare m.onnx d.npz -o out", "adabet-onnx compare m.onnx d.npz -o out"),
        ("score m.onnx d.npz -o s.json", None),
        ("", None),
    ],
)
def test_after_an_interruption(words, expected):
    assert after_interruption(shlex.split(words)) == expected


def test_an_interrupted_run_says_how_it_goes_on(command, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "take_data", interrupted)
    said = command("run", "model.onnx", "new data.npz", "-o", "out", code=130)
    assert said.out == ""
    assert said.err.lstrip() == "Interrupted. Resume with: adabet-onnx run model.onnx 'new data.npz' -o out --resume\n"


# --- completion ------------------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """The completions of the last word, by click's protocol for bash."""
    environment = {"COMP_WORDS": shlex.join(["adabet-onnx", *words]), "COMP_CWORD": str(len(words))}
    environment |= {"_ADABET_ONNX_COMPLETE": "bash_complete", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "adabet_onnx"], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_commands_and_options_are_completed():
    assert completed("s") == [f"plain,{name}" for name in ENTRIES if name.startswith("s")]
    assert completed("run", "--ma") == [
        f"plain,--max-{name}" for name in ("memory", "step-time", "update", "accumulate")
    ]
    assert completed("run", "--preset", "i") == ["plain,imagenet"]
    assert completed("run", "m") == ["file,m"]
    assert completed("train", "a") == ["dir,a"]
    assert "plain,--max-memory" not in completed("score", "--max"), "a name from before is not offered"


@pytest.mark.parametrize("words", ["adabet-onnx s", "adabet-onnx run --m", "adabet-onnx compare --strategies a"])
def test_completion_imports_as_little_as_help(words):
    variables = {"_ADABET_ONNX_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = f"import os; os.environ |= {variables}; from adabet_onnx.cli import main; main()"
    assert not {name for name in imported_by(code) if name.split(".")[0] in HEAVY}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path):
    """The line that --help gives, in a bash."""
    script = tmp_path / "adabet-onnx"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m adabet_onnx "$@"\n')
    script.chmod(0o755)
    line = next(line for line in (cli.epilog or "").splitlines() if "eval" in line)
    code = f"{line.strip()}\nCOMP_WORDS=(adabet-onnx sc); COMP_CWORD=1; _adabet_onnx_completion adabet-onnx\n"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f'{code}echo "${{COMPREPLY[@]}}"'], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == ["score"]
