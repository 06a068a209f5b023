"""The streams of random numbers: their values are guaranteed, and no other streams are used."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import adabet_onnx
from adabet_onnx import seeds

STREAMS = {
    "head": ((11,), 11),
    "samples": ((11,), 11),
    "subsets": ((11, 2), [11, 3, 2]),
    "layers": ((11,), 11),
    "signs": ((11,), [11, 31]),
    "fisher": ((11,), [11, 7]),
    "kept_pictures": ((), 2),
    "validation": ((11,), [11, 1]),
    "epoch": ((11, 4), [11, 4, 4]),
    "view": ((11, 4, 2), [11, 11, 4, 2]),
    "views": ((11,), [11, 12]),
    "rate_search": ((11, 1), [11, 8, 1]),
    "folds": ((11,), [11, 21]),
    "rows": ((11,), [11, 22]),
    "partition": ((11,), [11, 41]),
    "participants": ((11, 3, 1), [11, 42, 3, 1]),
    "local_order": ((11, 5, 3, 0), [11, 43, 5, 3, 0]),
    "check_inputs": ((11,), 11),
    "check_labels": ((11,), [11, 5]),
    "gradient_point": (([11, 2],), [11, 2]),
    "gradient_direction": (([11, 2], 3, 5), [11, 2, 3, 5]),
    "trial": ((), 0),
    "rounding": ((), 0),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_draws_what_it_always_has(name):
    given, entropy = STREAMS[name]
    drawn = getattr(seeds, name)(*given).integers(0, 2**32, 8)
    np.testing.assert_array_equal(drawn, np.random.default_rng(entropy).integers(0, 2**32, 8))


def test_subsets_of_groups_of_several_sizes():
    drawn = seeds.subsets(11, 32, 2).permutation(9)
    np.testing.assert_array_equal(drawn, np.random.default_rng([11, 3, 32, 2]).permutation(9))


def test_every_stream_is_here():
    found = {name for name, value in vars(seeds).items() if inspect.isfunction(value)}
    assert STREAMS.keys() == found - {"check_seed", "_stream"}


@pytest.mark.slow
def test_nothing_else_in_the_package_makes_random_numbers():
    makers = {"default_rng", "RandomState", "Random", "Generator", "SeedSequence", "PCG64"}
    package = Path(adabet_onnx.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in makers
    }
    assert found == {"seeds.py"}
