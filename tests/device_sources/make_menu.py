"""Creates menu-50.json: the entry of a package to choose, for readers in every language.

    python tests/device_sources/make_menu.py tests/device_sources/menu-50.json

Each case has ``entries`` (name, layers, memory: [batch, bytes]), ``scores`` (by layer; some have none), ``limit``
(bytes, or null) and ``batch`` (samples of a step); and what is expected: ``chosen``, the name of an entry, or null
where none fits; ``smallest``, the bytes that the smallest entry needs at that batch size.

The expected result comes from comparing all pairs of entries with integers and fractions, independently of the package.
Only sums of scores are in double precision, as the format specifies.
"""

from __future__ import annotations

import json
import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

CASES = 50
LAYERS = [f"layer{i}" for i in range(12)]


def needed(memory: list[list[int]], batch: int) -> int:
    """Bytes at a batch size."""
    at_least = [size for known, size in memory if known >= batch]
    if at_least:
        return at_least[0]
    last, size = memory[-1]
    exact = Fraction(size * batch, last)
    return int(exact) + (exact.denominator != 1)


def worth(layers: list[str], scores: dict[str, float]) -> float:
    """Added one after another, in double precision."""
    total = 0.0
    for layer in layers:
        if layer in scores:
            total = total + scores[layer]
    return total


def better(one: tuple[float, int, int], other: tuple[float, int, int]) -> bool:
    """Whether an entry (worth, need, place) goes before another."""
    if one[0] != other[0]:
        return one[0] > other[0]
    if one[1] != other[1]:
        return one[1] < other[1]
    return one[2] < other[2]


def solved(case: dict[str, Any]) -> dict[str, Any]:
    """The case with what is expected."""
    found = []
    for place, entry in enumerate(case["entries"]):
        found.append((worth(entry["layers"], case["scores"]), needed(entry["memory"], case["batch"]), place))
    fitting = [item for item in found if case["limit"] is None or item[1] <= case["limit"]]
    best = [item for item in fitting if all(item is other or better(item, other) for other in fitting)]
    chosen = case["entries"][best[0][2]]["name"] if best else None
    return {**case, "chosen": chosen, "smallest": min(item[1] for item in found)}


def entry(name: str, layers: list[str], memory: list[list[int]]) -> dict[str, Any]:
    """One entry."""
    return {"name": name, "layers": layers, "memory": memory}


def special() -> list[dict[str, Any]]:
    """Cases in which one thing decides."""
    table = [[1, 100], [8, 501], [32, 1801]]
    larger = [[1, 101], [8, 502], [32, 1802]]
    a, b, c = LAYERS[:3]
    two = [entry("first", [a], table), entry("second", [b], larger)]
    near = {a: 0.1, b: 0.2, c: 0.3}  # (0.1 + 0.2) + 0.3 is above (0.3 + 0.2) + 0.1
    orders = [entry("rising", [a, b, c], larger), entry("falling", [c, b, a], table)]
    large = {a: 1e16, b: 1.0, c: -1e16}  # 1.0 is lost where it is added to 1e16
    sums = [entry("lost", [a, b, c], table), entry("kept", [a, c, b], larger)]
    same = [entry("one", [a], larger), entry("two", [a], table), entry("three", [a], table)]

    def case(what: str, entries: Any, scores: Any, limit: int | None, batch: int) -> dict[str, Any]:
        return {"name": what, "entries": entries, "scores": scores, "limit": limit, "batch": batch}

    return [
        case("higher worth", two, {a: 0.1, b: 0.2}, None, 8),
        case("higher worth does not fit", two, {a: 0.1, b: 0.2}, 501, 8),
        case("just fits", two, {a: 0.1, b: 0.2}, 502, 8),
        case("nothing fits", two, {a: 0.1, b: 0.2}, 500, 8),
        case("nothing fits into nothing", two, {a: 0.1, b: 0.2}, 0, 1),
        case("between two batches", two, {a: 0.2, b: 0.1}, 1800, 9),
        case("below the first batch", [entry("only", [a], [[8, 501]])], {a: 1.0}, 501, 1),
        case("beyond the last batch", two, {a: 0.1, b: 0.2}, 1858, 33),
        case("beyond the last batch, rounded up", two, {a: 0.1, b: 0.2}, 1859, 33),
        case("far beyond the last batch", two, {a: 0.1, b: 0.2}, None, 1_000_000),
        case("equal worth, less memory", same, {a: 0.5}, None, 1),
        case("equal worth and memory, the first", same[1:], {a: 0.5}, None, 1),
        case("equal worth, one fits", same, {a: 0.5}, 100, 1),
        case("no scores at all", two, {}, None, 8),
        case("a layer without a score", two, {a: 0.1}, None, 8),
        case("a score below 0", two, {a: -0.5}, None, 8),
        case("zero and none are equal", two, {b: 0.0}, None, 8),
        case("scores of other layers", two, {a: 0.1, "another": 5.0}, None, 8),
        case("the order of a sum", orders, near, None, 8),
        case("the order of a sum, large numbers", sums, large, None, 8),
        case("a layer twice", [entry("twice", [a, a], larger), entry("once", [b], table)], {a: 0.3, b: 0.5}, None, 8),
        case("no layers", [entry("none", [], table), entry("all", [a], larger)], {a: 0.0}, None, 8),
        case("large numbers of bytes", [entry("big", [a], [[3, 2**42 + 1]])], {a: 1.0}, 2**45, 20),
    ]


def drawn(source: random.Random, number: int) -> dict[str, Any]:
    """A random case, with many ties."""
    entries = []
    for i in range(source.randint(1, 8)):
        batches = sorted(source.sample([1, 2, 4, 8, 16, 32, 64], source.randint(1, 4)))
        sizes = sorted(source.choices(range(100, 2000, 100), k=len(batches)))
        layers = source.sample(LAYERS, source.randint(1, 5))
        entries.append(entry(f"entry{i}", layers, [[b, s] for b, s in zip(batches, sizes, strict=True)]))
    coarse = number % 2 == 0  # equal sums are frequent
    scores = {
        layer: source.randint(0, 2) / 4 if coarse else source.random() / 10
        for layer in source.sample(LAYERS, source.randint(4, len(LAYERS)))
    }
    limit = None if source.random() < 0.2 else source.randrange(100, 4000)
    return {
        "name": f"drawn {number}",
        "entries": entries,
        "scores": scores,
        "limit": limit,
        "batch": source.choice([1, 2, 3, 8, 9, 31, 64, 100]),
    }


def cases() -> list[dict[str, Any]]:
    """All cases."""
    found = special()
    source = random.Random(17)
    found += [drawn(source, number) for number in range(CASES - len(found))]
    return [solved(case) for case in found]


def main() -> None:
    """Write the file, a case a line."""
    lines = ",\n".join(json.dumps(case) for case in cases())
    Path(sys.argv[1]).write_text(f'{{"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
