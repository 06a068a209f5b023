"""The keys that samples/ios reads against the schema, its app; with a Swift compiler, what is no distance, hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from betti_cases import square
from conftest import ROOT
from device_commands import checked
from device_languages import checks_program
from device_swift import IOS, SOURCES, compiler

from adabet_onnx.scoring.betti import first_betti_number

TAKEN = (  # the functions that are given a key
    "given|text|name|number|whole|wholeIfGiven|flag|list|filledList|object|texts|numbers|hash|dtype|named|ifNamed"
)
SCHEMA = ROOT / "docs" / "schemas" / "device.schema.json"


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    """tests/device_sources/checks.swift, built without a warning."""
    with checks_program("swift", tmp_path_factory.getbasetemp()) as program:
        yield program


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
    [line] = checks.printed("matrix", tmp_path / "matrix")
    assert line == f"not finite: the distance from point {row} to point {column} is {expected}"


@pytest.mark.swift
@pytest.mark.parametrize("value", [1 + 1e-12, -0.0, 1e300, np.inf])
def test_what_is_odd_but_a_distance_is_taken(checks, value, tmp_path):
    distance = square()
    distance[1, 2] = distance[2, 1] = value
    distance.astype("<f8").tofile(tmp_path / "matrix")
    assert checks.printed("matrix", tmp_path / "matrix") == [str(first_betti_number(distance))]


@pytest.mark.swift
@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 5000])
def test_hashes(checks, size, tmp_path):
    (tmp_path / "file").write_bytes(np.random.default_rng(size).bytes(size))
    expected = hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    assert checks.printed("hash", tmp_path / "file") == [f"{expected} {expected}"]
