"""Programs of the tests with the samples in C, C#, Kotlin and Swift: rules of the format, a hundred damaged packages.

Each damage gives an error with a message, no crash, and nothing half-written; in C with AddressSanitizer.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from betti_cases import FILE, betti_cases
from conftest import ROOT
from device_damages import Damage, bits_of_graphs, damaged_copies, flipped, small_package
from device_languages import checks_program
from device_programs import DeviceChecks

from adabet_onnx.scoring.betti import Loops

MENU = ROOT / "tests" / "device_sources" / "menu-50.json"
C = pytest.param("c", marks=pytest.mark.slow)
OTHERS = [  # languages whose program also applies rules
    pytest.param("csharp", marks=pytest.mark.slow),
    pytest.param("jvm", marks=pytest.mark.slow),
    pytest.param("swift", marks=pytest.mark.swift),
]


@pytest.fixture(scope="module", params=[C, *OTHERS])
def language(request):
    return request.param


@pytest.fixture(scope="module")
def checks(language, tmp_path_factory):
    with checks_program(language, tmp_path_factory.getbasetemp()) as program:
        yield program


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def subsets(tmp_path_factory):
    """A file of subsets of the points of each matrix, and their numbers."""
    content, expected, rng = b"", [], np.random.default_rng(0)
    for _, _, distance in betti_cases():
        points = len(distance)
        chosen = [rng.permutation(points)[: max(1, points // 2)] for _ in range(8)]
        chosen += [rng.integers(0, points, len(chosen[0])) for _ in range(2)]  # with repeated points
        content += struct.pack("<II", len(chosen), len(chosen[0])) + np.stack(chosen).astype("<u4").tobytes()
        expected.append(Loops(distance).count(chosen))
    path = tmp_path_factory.mktemp("subsets") / "subsets"
    path.write_bytes(content)
    return path, expected


@pytest.mark.parametrize("language", OTHERS, indirect=True)
def test_first_betti_numbers_are_those_of_ripser(checks, subsets):
    path, expected = subsets
    numbers, counts = checks.betti_numbers(FILE, path)
    assert len(numbers) == 1000
    assert numbers == [number for _, number, _ in betti_cases()]
    assert counts in (None, expected)


@pytest.mark.parametrize("language", OTHERS, indirect=True)
def test_the_menu(checks):
    answers = checks.menu(MENU)
    cases = json.loads(MENU.read_text())["cases"]
    assert len(cases) == 50
    for case, answer in zip(cases, answers, strict=True):
        assert answer.chosen == case["chosen"], case["name"]
        assert answer.smallest in (None, case["smallest"]), case["name"]
        if answer.chosen is None:
            assert re.fullmatch(checks.nothing_fits.format(**case), answer.message), (case["name"], answer.message)


@pytest.mark.parametrize("language", OTHERS, indirect=True)
def test_random_numbers_are_the_documented_ones(checks):
    first = [2049673234, 658261152, 3573920880, 3099447095]
    assert checks.random_numbers() == [first, *checks.further_random_numbers()]


# --- damaged packages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A small package with a file of each kind."""
    return small_package(tmp_path_factory.mktemp("package"))


def tried(
    checks: DeviceChecks, package: Path, damages: Mapping[str, Damage], out: Path
) -> list[tuple[str, str, str, str]]:
    """For each damage: its name, the last stage, the error's name, and the message."""
    folders = dict(zip(damages, damaged_copies(package, damages.values(), out.parent), strict=True))
    out.mkdir()
    found = checks.tried(package.parent / "x", package.parent / "y", out, folders)
    return [(name, *said) for name, said in zip(damages, found, strict=True)]


def written(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_half_written(checks, package, tmp_path):
    damages = {name: damage for name, (damage, _) in checks.damages.items()}
    assert len(damages) >= 100
    wrong, whole_epochs = [], []  # if only predictions fail, the trained values were written before
    for i, (name, stage, error, message) in enumerate(tried(checks, package, damages, tmp_path / "out")):
        if stage == "predict":
            whole_epochs.append(i)
        expected = re.search(checks.damages[name][1], message) and message.endswith(checks.ending)
        if error in (checks.no_error, "CRASH") or not expected:
            wrong.append((name, stage, error, message))
    assert not wrong, "\n".join(map(str, wrong))
    assert written(tmp_path / "out") == sorted(f"p{i}.progress" for i in whole_epochs)
    assert len(whole_epochs) in checks.failing_predictions


@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_bits_of_graphs_and_values_do_not_crash_it(checks, package, tmp_path):
    """Some of these packages still work: only a crash is wrong."""
    found = tried(checks, package, bits_of_graphs(), tmp_path / "out")
    assert any(error != checks.no_error for _, _, error, _ in found)
    assert all(message and error != "CRASH" for _, _, error, message in found if error != checks.no_error)


@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_the_whole_package_works(checks, package, tmp_path):
    damages = {"nothing": lambda _: None, "another personal model": flipped("selected.bin", 0.5)}
    found = tried(checks, package, damages, tmp_path / "out")
    assert found == [(name, "save", checks.no_error, "") for name in damages]
    assert written(tmp_path / "out") == [f"p{i}.{what}" for i in (0, 1) for what in checks.written]
