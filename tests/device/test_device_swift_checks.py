"""Tests of samples/ios that all languages share, if there is a Swift compiler; its keys against the schema."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from betti_cases import betti_cases, square
from c_damages import ALL
from conftest import ROOT
from device_c import DEVICE, environment
from device_commands import checked
from device_damages import Damage, bits_of_graphs, damaged_copies, small_package
from device_swift import IOS, SOURCES, checks_program, compiler, library

from adabet_onnx.scoring.betti import Loops, first_betti_number

TAKEN = (  # the functions that are given a key
    "given|text|name|number|whole|wholeIfGiven|flag|list|filledList|object|texts|numbers|hash|dtype|named|ifNamed"
)
SCHEMA = ROOT / "docs" / "schemas" / "device.schema.json"


@pytest.fixture(scope="module")
def cases():
    """(bytes of a length, number, distances) of each matrix."""
    return betti_cases()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A small package with a file of each kind."""
    return small_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """tests/device_sources/checks.swift, built without a warning."""
    folder = tmp_path_factory.mktemp("swift")
    library(folder)
    return checks_program(folder)


def printed(checks: Path, *words: object) -> list[str]:
    return checked(checks, *words, env=environment()).stdout.splitlines()


# --- without a compiler ----------------------------------------------------------------------------------------------


def words_of_the_schema(part: object) -> Iterator[str]:
    """All keys that device.json can have."""
    if isinstance(part, dict):
        yield from part.get("properties", {})
        for value in part.values():
            yield from words_of_the_schema(value)
    elif isinstance(part, list):
        for value in part:
            yield from words_of_the_schema(value)


def test_swift_reads_only_keys_that_there_are():
    known = set(words_of_the_schema(json.loads(SCHEMA.read_text())))
    read = set()
    for name in ("Reading.swift", "ReadingEntries.swift"):
        text = (SOURCES / "AdabetOnnx" / name).read_text()
        read |= set(re.findall(rf'\.(?:{TAKEN})\("([^"]+)"', text)) | set(re.findall(r'shape: "([^"]+)"', text))
    assert read <= known
    left_out = {"opset", "ir_version", "profile", "role", "data", "channels", "axis", "indices", "multiply_adds"}
    assert known - read == left_out


def test_the_app_uses_only_what_the_library_has():
    """The iOS app cannot be compiled here: the library functions it calls are looked up in the sources."""
    sources = "".join(path.read_text() for path in (SOURCES / "AdabetOnnx").glob("*.swift"))
    app = "".join(path.read_text() for path in (IOS / "App").glob("*.swift"))
    for called in set(re.findall(r"\b(?:device|model|gate)\.(\w+)", app)):
        assert re.search(rf"public [^\n]*\b(?:func|var|let) {called}\b", sources), called


@pytest.mark.swift
def test_the_app_parses():
    """Parsing is all that can be tested without Apple's frameworks."""
    checked(compiler(), "-frontend", "-parse", *sorted((IOS / "App").glob("*.swift")))


# --- with one --------------------------------------------------------------------------------------------------------


@pytest.mark.swift
def test_betti_numbers_of_a_thousand_matrices(checks, cases):
    found = printed(checks, "numbers", DEVICE / "betti-1000.bin")
    assert [int(number) for number in found] == [number for _, number, _ in cases]


@pytest.mark.swift
def test_betti_numbers_of_subsets(checks, cases, rng, tmp_path):
    content, expected = b"", []
    for _, _, distance in cases:
        points = len(distance)
        subsets = [rng.permutation(points)[: max(1, points // 2)] for _ in range(8)]
        subsets += [rng.integers(0, points, len(subsets[0])) for _ in range(2)]  # with repeated points
        content += struct.pack("<II", len(subsets), len(subsets[0])) + np.stack(subsets).astype("<u4").tobytes()
        expected.append(Loops(distance).count(subsets))
    (tmp_path / "subsets").write_bytes(content)
    lines = printed(checks, "subsets", DEVICE / "betti-1000.bin", tmp_path / "subsets")
    assert [[int(number) for number in line.split()] for line in lines] == expected


@pytest.mark.swift
@pytest.mark.parametrize(
    ("row", "column", "value", "expected"),
    [
        (1, 2, np.nan, "nan; expected a number that is not negative"),
        (1, 2, -1e-300, "-1e-300; expected a number that is not negative"),
        (2, 1, 1.1, "1.1; expected the same as in the other direction, 1.0"),
        (3, 3, 1, "1.0; expected 0 from a point to itself"),
    ],
)
def test_what_is_no_distance_is_refused(checks, row, column, value, expected, tmp_path):
    distance = square()
    distance[row, column] = value
    distance.astype("<f8").tofile(tmp_path / "matrix")
    [line] = printed(checks, "matrix", tmp_path / "matrix")
    assert line == f"not finite: the distance from point {row} to point {column} is {expected}"


@pytest.mark.swift
@pytest.mark.parametrize("value", [1 + 1e-12, -0.0, 1e300, np.inf])
def test_what_is_odd_but_a_distance_is_taken(checks, value, tmp_path):
    distance = square()
    distance[1, 2] = distance[2, 1] = value
    distance.astype("<f8").tofile(tmp_path / "matrix")
    assert printed(checks, "matrix", tmp_path / "matrix") == [str(first_betti_number(distance))]


@pytest.mark.swift
def test_the_menu(checks):
    cases = json.loads((DEVICE / "menu-50.json").read_text())["cases"]
    found = printed(checks, "menu", DEVICE / "menu-50.json")
    assert len(found) == len(cases) == 50
    for case, line in zip(cases, found, strict=True):
        refused = line.startswith("no memory: ") and line.endswith(f": the smallest needs {case['smallest']}")
        assert line == case["chosen"] or (case["chosen"] is None and refused), case["name"]


@pytest.mark.swift
def test_the_first_random_numbers_are_the_documented_ones(checks):
    assert printed(checks, "random", 0, 1) == ["2049673234 658261152 3573920880 3099447095"]


@pytest.mark.swift
@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 5000])
def test_hashes(checks, size, tmp_path):
    (tmp_path / "file").write_bytes(np.random.default_rng(size).bytes(size))
    expected = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert printed(checks, "hash", tmp_path / "file") == [f"{expected} {expected}"]


# --- damaged packages ------------------------------------------------------------------------------------------------

# The bytes of a personal file may be anything; graphs read their initial values from them.
SAID = {  # messages that differ from C
    "no object": "device.json is an array; expected an object",
    "no inputs": "'inputs' of device.json is empty",
    "no entries": "'entries' of device.json is empty",
}
DAMAGES = {name: (damage, SAID.get(name, said)) for name, (damage, said) in ALL.items()}


def tried(checks: Path, whole: Path, damages: dict[str, Damage], out: Path) -> Iterator[tuple[str, ...]]:
    """For each damage: its name, the last stage, the error's code, and the message."""
    out.mkdir()
    folders = damaged_copies(whole, damages.values(), out.parent)
    given = "".join(f"{folder}\n" for folder in folders)
    done = checked(checks, "packages", whole.parent / "x", whole.parent / "y", out, input=given, env=environment())
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    for name, (_, stage, code, message) in zip(damages, lines, strict=True):
        yield name, stage, code, message


@pytest.mark.swift
@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_each_of_a_hundred_damages_is_an_error_and_nothing_is_half_written(checks, package, tmp_path):
    assert len(DAMAGES) >= 100
    wrong, whole_epochs = [], []  # if only predictions fail, the trained values were written before
    damages = {name: damage for name, (damage, _) in DAMAGES.items()}
    for i, (name, stage, code, message) in enumerate(tried(checks, package, damages, tmp_path / "out")):
        if stage == "predict":
            whole_epochs.append(i)
        if code == "ok" or not re.search(DAMAGES[name][1], message):
            wrong.append((name, stage, code, message))
    assert not wrong, "\n".join(map(str, wrong))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(f"p{i}.progress" for i in whole_epochs)


@pytest.mark.swift
@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_bits_of_graphs_do_not_crash_it(checks, package, tmp_path):
    """Some of these packages still work: only a crash is wrong."""
    found = list(tried(checks, package, bits_of_graphs(), tmp_path / "out"))
    assert any(code != "ok" for _, _, code, _ in found)
    assert all(message for _, _, code, message in found if code != "ok")


@pytest.mark.swift
@pytest.mark.slow
@pytest.mark.usefixtures("checked_here")
def test_the_whole_package_works(checks, package, tmp_path):
    assert list(tried(checks, package, {"nothing": lambda _: None}, tmp_path / "out")) == [
        ("nothing", "save", "ok", "")
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p0.delta", "p0.progress", "p0.selected"]
