"""Damaged and adversarial files: 2,000 seeded ones, opened (and, if possible, scored) in a process with limits.

    python tests/benchmarks/bench_hostile.py [COUNT] [SEED]

Prints how many opened and how many were rejected with one of our errors, by kind of file; then each that ended
otherwise: another exception, a crash, more than 1 GiB of memory or 10 s of processor time. The exit code is 1 if there
is any.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "helpers")]

import fuzz_files  # noqa: E402


def main() -> None:
    """Run, print a table in Markdown, exit."""
    given = [int(argument) for argument in sys.argv[1:]]
    count, seed = given[0] if given else 2000, given[1] if len(given) > 1 else 2
    rows: dict[str, Counter[str]] = {}
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in fuzz_files.run(count, seed, Path(folder)):
            kind = outcome.kind if outcome.good else "bad"
            rows.setdefault(outcome.what.split(",")[0], Counter())[kind] += 1
            if not outcome.good:
                bad.append(outcome)
    print("| files | opened | refused | neither |\n|---|---|---|---|")
    for what, counts in sorted(rows.items()):
        print(f"| {what} | {counts['success']} | {counts['refused']} | {counts['bad']} |")
    for outcome in bad:
        print(outcome.number, outcome.what, "->", outcome.kind, outcome.detail)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
