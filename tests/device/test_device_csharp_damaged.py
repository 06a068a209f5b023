"""A hundred damaged packages in C#: each gives an error that names the cause, no crash, and nothing written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_csharp import Compiled, compile_all
from device_damages import ALL, Damage, bits_of_graphs, damaged_copies, small_package

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def csharp(tmp_path_factory) -> Compiled:
    return compile_all(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A small package with a file of each kind."""
    return small_package(tmp_path_factory.mktemp("package"))


def tried(
    csharp: Compiled, package: Path, damages: dict[str, Damage], out: Path
) -> Iterator[tuple[str, str, str, str]]:
    """For each damage: its name, the last stage, the error's name, and the message."""
    folders = damaged_copies(package, damages.values(), out.parent)
    out.mkdir()
    given = "".join(f"{folder}\n" for folder in folders)
    lines = csharp.cases("try", package.parent / "x", package.parent / "y", out, given=given)
    for name, line in zip(damages, lines, strict=True):
        yield (name, *line.split("\t"))


def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_written(csharp, package, tmp_path):
    assert len(ALL) >= 100
    wrong, whole_epochs = [], []  # if only predictions fail, the trained values were written before
    found = tried(csharp, package, {name: damage for name, (damage, _) in ALL.items()}, tmp_path / "out")
    for i, (name, stage, error, message) in enumerate(found):
        if stage == "predict":
            whole_epochs.append(i)
        if error == "none" or not re.search(ALL[name][1], message) or not message.endswith("."):
            wrong.append((name, stage, error, message))
    assert not wrong, "\n".join(map(str, wrong))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"p{i}.progress" for i in whole_epochs)
    assert 1 <= len(whole_epochs) < 6


def test_bits_of_graphs_and_values_do_not_crash_it(csharp, package, tmp_path):
    """Some of these packages still work: only a crash is wrong."""
    found = list(tried(csharp, package, bits_of_graphs(), tmp_path / "out"))
    assert any(error != "none" for _, _, error, _ in found)
    assert all(message for _, _, error, message in found if error != "none")


def test_the_whole_package_works(csharp, package, tmp_path):
    assert list(tried(csharp, package, {"nothing": lambda _: None}, tmp_path / "out")) == [
        ("nothing", "save", "none", "")
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p0.delta", "p0.model", "p0.progress"]
