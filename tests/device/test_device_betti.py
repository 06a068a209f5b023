"""First Betti numbers in C and TypeScript equal ripser's (tests/device_sources/betti-1000.bin), as Python's do."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from betti_cases import FILE, betti_cases, square
from conftest import ROOT, missing

from adabet_onnx.scoring.betti import Loops, first_betti_number, loops_by_ripser

pytestmark = pytest.mark.slow

DEVICE = ROOT / "tests" / "device_sources"
C = ROOT / "samples" / "c"
TYPESCRIPT = ROOT / "samples" / "web" / "core" / "betti.ts"
TOOLS = ROOT / "tests" / "js" / "node_modules" / ".bin"
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ALLOCATIONS = ["-Dcalloc=failing_calloc", "-Drealloc=failing_realloc"]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def compiled(folder: Path, *options: str) -> Path:
    """The runner, with betti.c compiled with these options."""
    compiler = shutil.which("cc")
    if compiler is None:
        missing("no C compiler (cc)")
    made, code = folder / "run_betti", folder / "betti.o"
    run(compiler, *WARNINGS, *options, *_declared(folder, options), "-c", C / "betti.c", "-o", code)
    options = tuple(option for option in options if option not in ALLOCATIONS)
    run(compiler, *WARNINGS, *options, f"-I{C}", DEVICE / "run_betti.c", code, "-o", made, "-lm")
    return made


def _declared(folder: Path, options: tuple[str, ...]) -> list[str]:
    """Options that declare the runner's allocation functions, if requested."""
    if not set(ALLOCATIONS) & set(options):
        return []
    header = folder / "failing.h"
    header.write_text(
        "#include <stddef.h>\nvoid *failing_calloc(size_t, size_t);\nvoid *failing_realloc(void *, size_t);\n"
    )
    return ["-include", str(header)]


def translated(folder: Path) -> list[str | Path]:
    """The command that runs betti.ts."""
    node = shutil.which("node")
    tsc = shutil.which("tsc", path=os.pathsep.join([str(TOOLS), os.environ.get("PATH", "")]))
    if node is None or tsc is None:
        missing("no node with typescript (make test installs the package)")
    options = ["--strict", "--target", "es2020", "--lib", "es2020", "--module", "es2020"]
    run(tsc, *options, "--outDir", folder, TYPESCRIPT)
    (folder / "package.json").write_text('{"type": "module"}')
    return [node, DEVICE / "run_betti.mjs", folder / "betti.js"]


@pytest.fixture(scope="module", params=["c", "c-sanitized", "typescript"])
def port(request, tmp_path_factory):
    """A command that counts in another language."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "typescript":
        return translated(folder)
    return [compiled(folder, *(SANITIZERS if request.param == "c-sanitized" else ["-O2"]))]


@pytest.fixture(scope="module")
def cases():
    """(bytes of a length, number, distances) of each matrix."""
    return betti_cases()


def test_the_file_has_what_it_is_for(cases):
    sizes = [len(distance) for _, _, distance in cases]
    assert (min(sizes), max(sizes)) == (1, 128)
    assert sum(size >= 64 for size in sizes) >= 40
    assert sum(number > 0 for _, number, _ in cases) > 500
    assert any(np.isinf(distance).any() for _, _, distance in cases)
    assert sum(width == 8 for width, _, _ in cases) == 40
    for width, number, distance in cases:
        if width == 8 and len(distance) > 4:  # without rounding, the number would differ
            ranks = np.unique(distance, return_inverse=True)[1].reshape(distance.shape)
            assert first_betti_number(ranks) != number


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # ripser's own, of huge distances
def test_python_and_ripser_find_the_numbers(cases):
    expected = [number for _, number, _ in cases]
    assert [loops_by_ripser(distance) for _, _, distance in cases] == expected
    assert [first_betti_number(distance) for _, _, distance in cases] == expected


def test_a_port_finds_the_numbers(port, cases):
    found = run(*port, "numbers", FILE).stdout.split()
    assert [int(number) for number in found] == [number for _, number, _ in cases]


def test_a_port_counts_subsets(port, cases, rng, tmp_path):
    content, expected = b"", []
    for _, _, distance in cases:
        points = len(distance)
        subsets = [rng.permutation(points)[: max(1, points // 2)] for _ in range(8)]
        subsets += [rng.integers(0, points, len(subsets[0])) for _ in range(2)]  # with repeated points
        content += struct.pack("<II", len(subsets), len(subsets[0])) + np.stack(subsets).astype("<u4").tobytes()
        expected.append(Loops(distance).count(subsets))
    (tmp_path / "subsets").write_bytes(content)
    lines = run(*port, "subsets", FILE, tmp_path / "subsets").stdout.splitlines()
    assert [[int(number) for number in line.split()] for line in lines] == expected


def said_of(port, distance: np.ndarray, folder: Path) -> str:
    """The output of a port for a whole matrix."""
    (folder / "matrix").write_bytes(distance.astype("<f8").tobytes())
    return run(*port, "matrix", folder / "matrix").stdout.strip()


@pytest.mark.parametrize(
    ("row", "column", "value", "in_c", "in_typescript"),
    [
        (1, 2, np.nan, "a distance is not a number (NaN)", "NaN; expected a number that is not negative"),
        (1, 2, -1, "a distance is negative", "-1; expected a number that is not negative"),
        (1, 2, -1e-300, "a distance is negative", "-1e-300; expected a number that is not negative"),
        (1, 2, -np.inf, "a distance is negative", "-Infinity; expected a number that is not negative"),
        (
            2,
            1,
            1.1,
            "the matrix of distances is not symmetric",
            "1.1; expected that of the other direction, 1",
        ),
        (3, 3, 1, "the distance of a point to itself is not 0", "1; expected 0 from a point to itself"),
    ],
)
def test_what_is_no_distance_is_refused(port, row, column, value, in_c, in_typescript, tmp_path):
    distance = square()
    distance[row, column] = value
    said = said_of(port, distance, tmp_path)
    assert said in (
        f"{in_c}: row {row}, column {column}",
        f"the distance from point {row} to point {column} is {in_typescript}",
    )


@pytest.mark.parametrize("value", [1 + 1e-12, -0.0, 1e300, np.inf])
def test_what_is_odd_but_a_distance_is_taken(port, value, tmp_path):
    distance = square()
    distance[1, 2] = distance[2, 1] = value
    assert said_of(port, distance, tmp_path) == str(first_betti_number(distance))
    distance = square()
    distance[1, 2] = 1 + 1e-12  # the same in float32
    distance[0, 0] = -0.0
    assert said_of(port, distance, tmp_path) == "1"


def test_no_point_is_no_loop(port, tmp_path):
    assert said_of(port, np.zeros((0, 0)), tmp_path) == "0"
    upper = square()[np.triu_indices(4, 1)].astype("<f4").tobytes()
    (tmp_path / "file").write_bytes(b"BET1" + struct.pack("<IHHI", 1, 4, 4, 1) + upper)
    (tmp_path / "subsets").write_bytes(struct.pack("<II", 2, 0))
    assert run(*port, "subsets", tmp_path / "file", tmp_path / "subsets").stdout.split() == ["0", "0"]


def test_a_point_that_there_is_not_is_refused(port, tmp_path):
    upper = square()[np.triu_indices(4, 1)].astype("<f4").tobytes()
    (tmp_path / "file").write_bytes(b"BET1" + struct.pack("<IHHI", 1, 4, 4, 1) + upper)
    (tmp_path / "subsets").write_bytes(struct.pack("<7I", 1, 5, 0, 1, 2, 3, 4))
    said = run(*port, "subsets", tmp_path / "file", tmp_path / "subsets").stdout.strip()
    assert said in (
        "a subset has an index that is not below the number of points",
        "a subset has point 4; the points are 0 to 3",
    )


@pytest.mark.parametrize("points", [16385, 2**32 - 1])
def test_too_many_points_are_refused_in_c(points, tmp_path):
    said = run(compiled(tmp_path, *SANITIZERS), "too-many", points).stdout.strip()
    assert said == "there are more points than BETTI_MOST_POINTS"


def test_memory_may_be_missing_at_any_time_in_c(cases, tmp_path):
    done = run(compiled(tmp_path, *SANITIZERS, *ALLOCATIONS), "no-memory", FILE)
    assert [int(number) for number in done.stdout.split()] == [number for _, number, _ in cases]
    assert int(done.stderr) > 10 * len(cases)
