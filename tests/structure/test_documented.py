"""Every command and every block of Python in README.md and docs is run, in the order of its page.

A page runs in a folder with a model, data and a photograph under the names that the pages use; trainings are shorter
and studies smaller than as written. A block that cannot run here stands below a comment `<!-- not run: REASON -->`;
these are listed in NOT_RUN.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import command_of
from conftest import ROOT
from documented_blocks import blocks_of, commands_of, page
from PIL import Image

import adabet_onnx
from adabet_onnx import pipeline
from adabet_onnx.cost.measure import Cost
from adabet_onnx.study import runner

DEMO = Path(adabet_onnx.__file__).parent / "demo"
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
# Pages whose blocks have their own test: for all languages or, in the guides for apps, for all except the shell, whose
# commands are nearly the same in all guides.
TESTED_ELSEWHERE = {
    "docs/adding-a-rule.md": "test_adding_a_rule.py",
    "docs/fleet.md": "test_fleet_deltas.py",
    "docs/pytorch.md": "test_pytorch_page.py",
}
CODE_TESTED_ELSEWHERE = {
    "docs/app-android.md": "test_device_android.py",
    "docs/app-dotnet.md": "test_device_csharp_docs.py",
    "docs/app-ios.md": "test_device_swift.py",
    "docs/app-react-native.md": "test_device_react_native.py",
}
NOT_RUN = {
    "README.md": ["downloads packages"],
    "CONTRIBUTING.md": ["builds and tests the project"],
    "docs/app-android.md": ["the delta comes from the phone"],
    "docs/app-react-native.md": ["downloads packages"],
    "docs/cluster.md": ["needs Ray", *["needs several machines"] * 3],
    "docs/device-package.md": ["a formula", "pseudocode"],
    "docs/install.md": ["changes the shell"],
    "docs/models.md": ["needs a BERT model with open dimensions"],
    "docs/results.md": ["models and data are not part of the package"] * 2,
    "docs/text.md": ["needs a model folder of Transformers"] * 5,
    "docs/webgpu.md": ["JavaScript for a page; tests/js/gpu.mjs has the complete loop"] * 2,
}
TO_BE_MADE = {"adabet_onnx/portable/rules/rms_normalization.py"}  # for readers who follow the example of adding a rule
SHELL, PYTHON, DATA = {"", "sh", "bash"}, {"python", "py"}, {"json", "text", "toml", "yaml"}
COMMANDS_TESTED_ELSEWHERE = {"demo": "test_wheel.py"}
REPLACED = {"--epochs": "1", "--views": "2"}
ADDED = {
    "run": ["--epochs", "1", "--no-measure"],
    "train": ["--epochs", "1"],
    "cost": ["--no-measure"],
    "compare": ["--strategies", "last,head", "--seeds", "1", "--epochs", "1", "--rates", "0.01", "--jobs", "1"],
    "menu": ["--entries", "2"],
    "report": ["--no-costs"],
    "stability": ["--group-size", "32", "--shuffles", "1", "--subsets", "8"],
}


def made_quick(words: list[str]) -> list[str]:
    """The command with a smaller training or study."""
    quick = list(words)
    for option, value in REPLACED.items():
        if option in quick:
            quick[quick.index(option) + 1] = value
    return quick + ADDED.get(words[0], [])


@pytest.fixture
def place(tmp_path, monkeypatch, checked_here):
    """The current folder, with the files that the pages read: a model, data of five classes, a photograph.

    Nothing is measured, and artifacts check themselves in this process.
    """
    shutil.copy(DEMO / "digits.onnx", tmp_path / "model.onnx")
    with np.load(DEMO / "digits_shifted.npz") as stored:
        parts = {}
        for part, count in (("train", 160), ("test", 40)):
            few = np.flatnonzero(stored[f"y_{part}"] < 5)[:count]
            parts |= {f"x_{part}": stored[f"x_{part}"][few], f"y_{part}": stored[f"y_{part}"][few]}
    np.savez(tmp_path / "new_domain.npz", **parts)
    Image.fromarray(parts["x_test"][0, :, :, 0]).save(tmp_path / "photo.jpg")
    monkeypatch.setattr(pipeline, "measured", lambda *_, **__: ({}, "it takes fresh processes"))
    monkeypatch.setattr(runner, "measure_training", lambda *_, **__: Cost(memory_bytes=1_000_000, seconds=0.01))
    monkeypatch.chdir(tmp_path)
    return tmp_path


_RUN = [name for name in PAGES if name not in TESTED_ELSEWHERE | CODE_TESTED_ELSEWHERE and page(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", _RUN, ids=lambda name: Path(name).stem)
def test_blocks_run(name, place, monkeypatch, capfd):
    namespace: dict[str, object] = {"__name__": "page"}
    command = command_of(monkeypatch, capfd)
    for block in page(name):
        if block.reason is not None or block.language in DATA:
            continue
        if block.language in PYTHON:
            exec(compile("\n" * block.line + block.text, name, "exec"), namespace)
        elif block.language in SHELL:
            for program, *words in commands_of(block):
                assert program == "adabet-onnx", f"{name}, line {block.line}: {program} is not run here; mark the block"
                if words[0] not in COMMANDS_TESTED_ELSEWHERE:
                    command(*made_quick(words))
        else:
            pytest.fail(f"{name}, line {block.line}: {block.language} is not run here; mark the block")


@pytest.mark.slow
def test_commands_of_the_guides_for_apps_run(place, monkeypatch, capfd):
    commands = [
        tuple(words)
        for name in CODE_TESTED_ELSEWHERE
        for block in page(name)
        if block.reason is None and block.language in SHELL
        for words in commands_of(block)
    ]
    once = list(dict.fromkeys(commands))
    assert [words[1] for words in once] == ["run", "device", "menu", "device", "menu"], "what is the same is run once"
    for program, *words in once:
        assert program == "adabet-onnx"
        command_of(monkeypatch, capfd)(*made_quick(words))


@pytest.mark.slow
def test_the_file_of_options_runs(place, monkeypatch, capfd):
    [options] = [block.text for block in page("docs/getting-started.md") if block.language == "toml"]
    (place / "run.toml").write_text(options)
    command_of(monkeypatch, capfd)("run", "--config", "run.toml", "--epochs", "0", "--no-measure")
    assert (place / "adapted" / "adapted.onnx").is_file()


def test_what_is_not_run():
    marked = {name: [block.reason for block in page(name) if block.reason is not None] for name in PAGES}
    assert {name: reasons for name, reasons in marked.items() if reasons} == NOT_RUN


@pytest.mark.parametrize(
    ("name", "test"), (TESTED_ELSEWHERE | CODE_TESTED_ELSEWHERE | COMMANDS_TESTED_ELSEWHERE).items()
)
def test_other_tests_read_their_pages(name, test):
    [path] = (ROOT / "tests").rglob(test)
    assert f'"{Path(name).name}"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_files_that_a_page_names_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"`(?:python )?((?:tests|samples|converters|adabet_onnx|docs)/[\w./*-]+)`", text)
    assert {path for path in paths if not list(ROOT.glob(path.rstrip("/")))} <= TO_BE_MADE


def test_blocks_are_seen():
    indented = "Text\n\n    adabet-onnx doctor  # a comment\n\n    adabet-onnx x \\\n        -o y\n\n"
    first, second = blocks_of(f"{indented}<!-- not run: why -->\n```js\n1\n```\n")
    assert commands_of(first) == [["adabet-onnx", "doctor"], ["adabet-onnx", "x", "-o", "y"]]
    assert (second.language, second.text, second.reason) == ("js", "1\n", "why")
    assert sum(len(page(name)) for name in PAGES) > 60
