"""The share of planted wrong gradients that the self-check catches: 100 seeds, or the number in the first argument.

Each seed plants one fault of at least 3 % of the squared gradient norm (tests/helpers/planted_gradients.py)
into the artifacts of one network. Prints a row for each kind of fault and one for each network, and the missed faults;
exits 1 if fewer than 99 % were caught or a correct gradient was rejected. Real models next to the project are included.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "helpers"), str(TESTS.parent)]

from models.planted import NETWORKS  # noqa: E402
from planted_gradients import caught, plant  # noqa: E402

from adabet_onnx import make_artifacts, open_model  # noqa: E402
from adabet_onnx.selection.record import Selection  # noqa: E402

REAL = ("resnet20_cifar10_folded", "mobilenetv1_025_vww96_folded")
SHARED = TESTS.parent.parent / "shared" / "models"


def main(seeds: int) -> int:
    """Plant, check and print."""
    networks: list[str] = [*sorted(NETWORKS), *(name for name in REAL if (SHARED / f"{name}.onnx").exists())]
    rows: dict[str, list[float]] = defaultdict(lambda: [0, 0, 1.0])
    missed, refused = [], []
    started = time.perf_counter()
    for seed in range(seeds):
        name = networks[seed % len(networks)]
        model = open_model(NETWORKS[name](seed) if name in NETWORKS else SHARED / f"{name}.onnx")
        layers = model.layers if name in NETWORKS else model.layers[seed % 5 :: 5]
        names = tuple(dict.fromkeys(parameter.name for layer in layers for parameter in layer.parameters))
        selection = Selection(model.sha256, "layers", tuple(layer.name for layer in layers), names)
        with tempfile.TemporaryDirectory() as folder:
            made = make_artifacts(model, selection, Path(folder) / "a", backend="portable", check=False)
            complaint = caught(made)
            if complaint is not None:
                refused.append(f"seed {seed}, {name}: {complaint}")
                continue
            planted = plant(made, seed)
            if planted is None:
                continue
            found = "gradient of" in (caught(made) or "")
        print(f"\r{seed + 1} of {seeds}, {len(missed)} missed ", end="", file=sys.stderr, flush=True)
        for row in (planted.kind, name):
            total, right, least = rows[row]
            rows[row] = [total + 1, right + found, min(least, planted.share)]
        if not found:
            missed.append(f"seed {seed}, {name}: {planted}")
    print(file=sys.stderr)
    print(f"{'':42}{'planted':>8}{'caught':>8}{'least share':>13}")
    for row, (total, right, least) in rows.items():
        print(f"{row:42}{total:8.0f}{right:8.0f}{least:13.1%}")
    total = sum(rows[name][0] for name in networks)
    right = sum(rows[name][1] for name in networks)
    took = time.perf_counter() - started
    print(f"{right:.0f} of {total:.0f} caught; {len(refused)} right gradients refused; {took:.0f} s")
    print("\n".join([*missed, *refused]))
    return int(right < 0.99 * total or total < 0.9 * seeds or bool(refused))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
