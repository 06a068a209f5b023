"""A hundred damaged packages under AddressSanitizer: an error message each, no crash, nothing half-written."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from c_damages import ALL
from device_c import DEVICE, SANITIZED, WARNINGS, C, build, environment
from device_commands import checked
from device_damages import Damage, bits_of_graphs, damaged_copies, flipped, small_package

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """tests/device_sources/try_packages.c with the library, both with sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    flags = f"-DCMAKE_C_FLAGS={SANITIZED} {WARNINGS} -include {DEVICE / 'failing.h'}"
    build(C, folder, flags, "-DBUILD_SHARED_LIBS=OFF", "-DADABET_PROGRAM=OFF")
    made = folder / "try_packages"  # ONNX Runtime throws exceptions, which AddressSanitizer must know of: libstdc++
    words = [*SANITIZED.split(), "-std=c99", f"-I{C}", DEVICE / "try_packages.c", folder / "libadabet.a"]
    checked("gcc", *words, "-o", made, "-lm", "-ldl", "-Wl,--no-as-needed", "-lstdc++")
    return made


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A small package with a file of each kind."""
    return small_package(tmp_path_factory.mktemp("package"))


def tried(
    runner: Path, package: Path, damages: dict[str, Damage], out: Path, *more: str
) -> Iterator[tuple[str, str, str, str]]:
    """For each damage: its name, the last stage, the error's name, and the message."""
    folders = damaged_copies(package, damages.values(), out.parent)
    out.mkdir()
    command = [str(runner), str(package.parent / "x"), str(package.parent / "y"), str(out), *more]
    given = "".join(f"{folder}\n" for folder in folders)
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, env=environment(), check=False, timeout=300
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, (list(damages)[len(lines) :][:1], done.stderr[:4000])
    for name, (_, stage, code, message) in zip(damages, lines, strict=True):
        yield name, stage, code, message


def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_half_written(runner, package, tmp_path):

    assert len(ALL) >= 100
    wrong, whole_epochs = [], []  # if only predictions fail, the trained values were written before
    found = tried(runner, package, {n: d for n, (d, _) in ALL.items()}, tmp_path / "out")
    for i, (name, stage, code, message) in enumerate(found):
        if stage == "predict":
            whole_epochs.append(i)
        if code == "ok" or not re.search(ALL[name][1], message):
            wrong.append((name, stage, code, message))
    assert not wrong, "\n".join(map(str, wrong))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"p{i}.progress" for i in whole_epochs)
    assert 1 <= len(whole_epochs) < 5


def test_bits_of_graphs_and_values_do_not_crash_it(runner, package, tmp_path):
    """Some of these packages still work: only a crash is wrong."""
    found = list(tried(runner, package, bits_of_graphs(), tmp_path / "out"))
    assert any(code != "ok" for _, _, code, _ in found)
    assert all(message for _, _, code, message in found if code != "ok")


def test_the_whole_package_works(runner, package, tmp_path):
    damages = {"nothing": lambda _: None, "another personal model": flipped("selected.bin", 0.5)}
    assert list(tried(runner, package, damages, tmp_path / "out")) == [(name, "save", "ok", "") for name in damages]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"p{i}.{what}" for i in (0, 1) for what in ("delta", "progress", "selected")]


def test_no_lack_of_memory_crashes_it(runner, package, tmp_path):
    """One allocation fails per attempt: each gives an error and no leak, until an attempt succeeds."""
    whole = {"nothing": lambda _: None}
    [(_, stage, code, message)] = tried(runner, package, whole, tmp_path / "out", "11")
    assert (stage, code) == ("save", "ok")
    tries, allocations = (int(word) for word in re.findall(r"\d+", message))
    assert 0 < 1 + 11 * (tries - 1) - allocations <= 11
    assert allocations > 500
