"""Random numbers, and which entry of a package is chosen: tests/device_sources/menu-50.json, and the format's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import ROOT
from device_rules import Random, shuffled

from adabet_onnx import DataError, UsageError
from adabet_onnx.device.choosing import choose, needed_bytes
from adabet_onnx.device.random import RandomNumbers, shuffle

MENU = ROOT / "tests" / "device_sources" / "menu-50.json"
CASES = json.loads(MENU.read_text())["cases"]


@dataclass(frozen=True)
class Choice:
    name: str
    layers: tuple[str, ...]
    memory: tuple[tuple[int, int], ...]


def entries_of(case: dict[str, Any]) -> list[Choice]:
    return [
        Choice(entry["name"], tuple(entry["layers"]), tuple((b, size) for b, size in entry["memory"]))
        for entry in case["entries"]
    ]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_menu(case):
    how = {"batch_size": case["batch"], "max_memory": case["limit"]}
    if case["chosen"] is None:
        with pytest.raises(UsageError, match=rf"no entry fits .*\({case['smallest']} bytes\)"):
            choose(entries_of(case), case["scores"], **how)
    else:
        assert choose(entries_of(case), case["scores"], **how).name == case["chosen"]
    assert min(needed_bytes(entry.memory, case["batch"]) for entry in entries_of(case)) == case["smallest"]


def test_the_menu_is_what_its_generator_makes(tmp_path):
    made = tmp_path / "menu.json"
    subprocess.run([sys.executable, MENU.with_name("make_menu.py"), made], check=True)
    assert made.read_bytes() == MENU.read_bytes()
    assert len(CASES) == 50
    assert sum(case["chosen"] is None for case in CASES) >= 4
    assert sum(case["limit"] is None for case in CASES) >= 10


def test_the_order_of_a_sum_decides():
    (case,) = [case for case in CASES if case["name"] == "the order of a sum"]
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    assert case["chosen"] == "rising", "added in the order of layers; were they equal, it would be the other"


def test_what_cannot_be_chosen_from():
    entry = Choice("only", ("a",), ((1, 10),))
    with pytest.raises(UsageError, match="no entries"):
        choose([], {}, batch_size=1)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        choose([entry], {}, batch_size=0)
    with pytest.raises(DataError, match="'a' is nan"):
        choose([entry], {"a": float("nan")}, batch_size=1)


# --- random numbers --------------------------------------------------------------------------------------------------


def test_the_first_numbers_are_those_of_the_format():
    text = (ROOT / "docs" / "device-package.md").read_text()
    random = RandomNumbers(0, 1)
    found = [random.next() for _ in range(4)]
    assert "the first numbers are " + ", ".join(map(str, found)) in text


def murmur(x: int) -> int:
    """The finaliser, with numbers of any size."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ (x // 2**shift)) * factor % 2**32
    return x


def test_numbers_are_those_of_a_formula():
    """The i-th number is a function of i alone, without state."""
    for seed, stream in ((0, 0), (1, 2), (2**32 - 1, 77)):
        random = RandomNumbers(seed, stream)
        for i in range(1, 100):
            assert random.next() == murmur((seed + stream * 0x6C078965 + i * 0x9E3779B9) % 2**32)


def test_shuffles_are_permutations_and_differ_by_epoch():
    orders = [shuffle(50, 3, epoch) for epoch in range(1, 30)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    assert shuffle(50, 3, 1) == orders[0]
    assert (shuffle(0, 1, 1), shuffle(1, 1, 1)) == ([], [0])


def test_every_order_is_as_frequent():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        order = tuple(shuffle(3, seed, 1))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(880 < count < 1120 for count in counts.values())  # four standard deviations of 29


def test_subsets_ascend_and_follow_one_another():
    random = RandomNumbers(5)
    found = [random.subset(20, 6) for _ in range(50)]
    assert all(len(set(subset)) == 6 and subset == sorted(subset) and subset[-1] < 20 for subset in found)
    assert len({tuple(subset) for subset in found}) > 45
    assert set().union(*map(set, found)) == set(range(20))
    assert RandomNumbers(5).subset(4, 4) == [0, 1, 2, 3]


def test_what_no_language_could_draw_is_refused():
    with pytest.raises(UsageError, match="below 1 to 2097152, not below 2097153"):
        RandomNumbers(0).below(2**21 + 1)
    with pytest.raises(UsageError, match="not -1"):
        RandomNumbers(-1)
    assert 0 <= RandomNumbers(0).below(2**21) < 2**21


def test_random_numbers_of_the_rules_that_samples_are_compared_with():
    random = Random(0, 1)
    assert [random.next() for _ in range(4)] == [2049673234, 658261152, 3573920880, 3099447095]
    assert sorted(shuffled(50, 1, 2)) == list(range(50)) != shuffled(50, 1, 2)
