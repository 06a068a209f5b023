"""Models of eight packages of PyPI, each from inspect to export, with synthetic data.

    python tests/benchmarks/bench_strangers.py [PACKAGE ...]

Each file must succeed (the untrained export's outputs equal the file's, the trained step's gradient is the slope of the
loss, only selected tensors differ), or be rejected after every remedy in the messages was followed. The exit code is 1
otherwise, or if more than three are rejected. Downloads are kept in build/strangers.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from strangers.packages import PACKAGES, known, models
from strangers.walk import Walk, walk

_MOST_REJECTED = 3
_STORE = Path(__file__).resolve().parents[2] / "build" / "strangers"


def main(names: list[str]) -> int:
    """Print a table in Markdown, and the messages of those that were rejected."""
    _STORE.mkdir(parents=True, exist_ok=True)
    print("| file | opened with | loss | layers | selected | untrained | slope | changed | s | |")
    print("|---|---|---|--:|--:|--:|--:|--:|--:|---|")
    walks = []
    for requirement in PACKAGES:
        if names and requirement.split("==")[0] not in names:
            continue
        for file in models(requirement, _STORE):
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                done = walk(file, known(file), Path(folder))
            walks.append(done)
            print(_row(done, time.perf_counter() - start), flush=True)
            if done.rejected is not None:
                print(done.rejected, file=sys.stderr)
    rejected = [done for done in walks if done.rejected is not None]
    print(f"\n{len(walks) - len(rejected)} of {len(walks)} files went from inspect to export.")
    return int(len(rejected) > _MOST_REJECTED or not all(done.right for done in walks))


def _row(done: Walk, seconds: float) -> str:
    verdict = "rejected" if done.rejected is not None else "right" if done.right else f"WRONG {done.strays}"
    if done.rounding:
        verdict += f", {done.rounding:.1e} from the quantised file"
    name = f"{done.file.parent.name}/{done.file.name}"
    numbers = f"{done.layers} | {done.selected} | {done.untrained:.1e} | {done.slope:.1e} | {len(done.changed)}"
    return f"| {name} | {' '.join(done.options)} | {done.loss} | {numbers} | {seconds:.0f} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
