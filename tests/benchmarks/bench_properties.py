"""Outcomes of random graphs by feature: 2,000, or the number in the first argument.

    bench_properties.py [EXAMPLES] [FEATURE ...]

Each is opened, some of its layers are selected, one step is trained and the model exported; parameters and outputs are
compared with a float64 reference step of torch's on the original file (tests/helpers/property_checks.py). Without names
of features (tests/models/random_graphs.py), all of them take part. One in four is trained with the ort backend where it
is installed. Exits 1 if a graph was wrong, or if the portable backend accepted fewer than 90 % or rejected one that has
only operators with gradient rules (onnxruntime-training has fewer gradients).
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "helpers"), str(TESTS.parent)]

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "adabet-onnx-hypothesis"))

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from models.random_graphs import FEATURES, Drawn, graphs  # noqa: E402
from property_checks import Plan, has_rules, plans, run_one  # noqa: E402

BACKENDS = ("portable", "portable", "portable", "ort") if sys.version_info < (3, 13) else ("portable",)
_ROUND = 50
_COLUMNS = ("accepted", "rejected", "wrong")


def main(examples: int, features: tuple[str, ...]) -> int:
    """Run them and print the table."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COLUMNS, 0))
    wrong: list[str] = []
    why: dict[str, list[str]] = defaultdict(list)

    @settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(features), plans(BACKENDS))
    def one(drawn: Drawn, plan: Plan) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = run_one(drawn, plan, Path(folder))
                verdict = "wrong" if not outcome.right else "accepted" if outcome.rejected is None else "rejected"
                complaint = str(outcome)
            except Exception:  # a fault, whatever its kind
                verdict, complaint = "wrong", traceback.format_exc(limit=-3)
        if verdict == "rejected":
            if plan.backend == "portable" and has_rules(drawn):
                verdict, complaint = "wrong", f"rejected, though all operators have rules: {complaint}"
            else:
                why[complaint[:160]].append(", ".join(drawn.features))
        if verdict == "wrong":
            wrong.append(f"{plan}\n{drawn!r}\n{complaint}")
        for name in {*drawn.features, f"backend {plan.backend}", "all"}:
            counts[name][verdict] += 1
        total = counts["all"]
        print(f"\r{sum(total.values())} of {examples}, {total['wrong']} wrong ", end="", file=sys.stderr, flush=True)

    for number in range(-(-examples // _ROUND)):  # within a round, examples are similar
        seed(number)(one)()
    print(file=sys.stderr)
    print(f"{'':34}" + "".join(f"{column:>10}" for column in _COLUMNS))
    for name in [*(name for name in features if name in counts), *(f"backend {b}" for b in sorted({*BACKENDS})), "all"]:
        print(f"{name:34}" + "".join(f"{counts[name][column]:10}" for column in _COLUMNS))
    for message, found in sorted(why.items(), key=lambda item: -len(item[1])):
        print(f"\nrejected {len(found)} times: {message}\n  for instance {found[0]}")
    for text in wrong[:20]:
        print(f"\nwrong: {text}")
    total = counts["backend portable"]
    return int(bool(wrong) or total["accepted"] < 0.9 * sum(total.values()))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    number = int(arguments[0]) if arguments else 2000
    sys.exit(main(number, tuple(arguments[1:]) or FEATURES))
