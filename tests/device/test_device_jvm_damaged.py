"""A hundred damaged packages in one JVM: each gives an error with a message, no crash, and nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from c_damages import ALL
from device_damages import Damage, bits_of_graphs, damaged_copies, flipped, small_package
from device_jvm import Runner, compiled

# Messages that differ from those of samples/c.
SAID = {
    "no object": "it is an array; expected an object",
    "no UTF-8": "it is not UTF-8",
    "overlong UTF-8": "it is not UTF-8",
    "half a surrogate": "an invalid escape in a string",
    "NUL in a string": "an invalid escape in a string",
    "a wrong escape": "an invalid escape in a string",
    "format": "the 'format' 'onnx'; expected 'adabet-onnx/device'",
    "files no list": "'files' is an object; expected an array",
    "a file twice": "'files' has the file 'device.onnx' twice",
    "few classes": "'logits_shape' of .* has 4 classes; expected 1",
    "a mean of words": "item 0 of 'mean' of 'preprocessing' is a string; expected a number",
    "huge sketches": "'numbers' of .* is 2147483647; expected a whole number from 1 to 536870911",
    "an entry twice": "'entries' has the entry 'layers' twice",
    "logits": "'logits_shape' of .* has 5 classes; expected 4",
    "loss and logits": "has the output 'logits' twice",
    "no tensors": "'tensors' of .* is empty",
    "a huge boundary": "is 1099511627776, which is too large",
    "a huge tensor": "is 1099511627776, which is too large",
    "a huge optimizer": "is 1099511627776, which is too large",
    "another order": "'tensors' of .* does not begin with a parameter",
    "state.bin cut, hashed": "'selected_bytes' of .* is 2176; 'state' has 1305 bytes",
    "selected.bin cut, hashed": "'selected_bytes' of .* is 2176; 'selected' has 1305 bytes",
    "values that are NaN, hashed": "the loss is NaN in step 1",
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def runner():
    made = Runner(compiled())
    yield made
    made.close()


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A small package with a file of each kind."""
    return small_package(tmp_path_factory.mktemp("package"))


def tried(runner: Runner, package: Path, damages: dict[str, Damage], out: Path) -> list[tuple[str, str, str, str]]:
    """For each damage: its name, the last stage, the error's name, and the message."""
    folders = damaged_copies(package, damages.values(), out.parent)
    out.mkdir()
    status, printed = runner.job("try", package.parent / "x", package.parent / "y", out, *folders)
    assert status == 0, printed[-20:]
    return [(name, *line.split("\t", 2)) for name, line in zip(damages, printed, strict=True)]


def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_half_written(runner, package, tmp_path):
    damages = {name: damage for name, (damage, _) in ALL.items()}
    assert len(damages) >= 100
    wrong, whole_epochs = [], []  # if only predictions fail, the trained values were written before
    found = tried(runner, package, damages, tmp_path / "out")
    for i, (name, stage, problem, message) in enumerate(found):
        if stage == "predict":
            whole_epochs.append(i)
        if problem in ("ok", "CRASH") or not re.search(SAID.get(name, ALL[name][1]), message):
            wrong.append((name, stage, problem, message))
    assert not wrong, "\n".join(map(str, wrong))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"p{i}.progress" for i in whole_epochs)
    assert 1 <= len(whole_epochs) < 5


def test_bits_of_graphs_and_values_do_not_crash_it(runner, package, tmp_path):
    """Some of these packages still work: only a crash is wrong."""
    found = tried(runner, package, bits_of_graphs(), tmp_path / "out")
    assert any(problem != "ok" for _, _, problem, _ in found)
    assert all(message and problem != "CRASH" for _, _, problem, message in found if problem != "ok")


def test_the_whole_package_works(runner, package, tmp_path):
    damages = {"nothing": lambda _: None, "another personal model": flipped("selected.bin", 0.5)}
    assert tried(runner, package, damages, tmp_path / "out") == [(name, "save", "ok", "") for name in damages]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"p{i}.{what}" for i in (0, 1) for what in ("delta", "progress", "selected")]
