"""The Kotlin library against Python: time of a step, resident memory at step 20 and 2,000. One thread each.

    python tests/benchmarks/bench_device_jvm.py

Both train the demo's model, and ResNet-20 if the shared models are available, from the same package, batches of 8, in
new processes that alternate; prints medians of three rounds. Python runs the stock onnxruntime of .venv-inference, the
JVM that of the package in tests/mobile, with no option that limits its memory. Two minutes.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench_device_c import BATCH, EARLY, MODELS, ROUNDS, STEPS, by_python, make, resident


def by_jvm(package: Path) -> tuple[float, float, float]:
    """Milliseconds of a step, resident memory early and late."""
    from device_jvm import compiled
    from device_programs import words_of

    jvm, folder = compiled(), package.parent
    options = {"x": folder / "x", "y": folder / "y", "batch": BATCH, "rate": 1e-3, "epochs": STEPS // 25, "stop": STEPS}
    command = [*jvm.command(), *words_of(package, "fit", options)]
    times, memory = [], {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=jvm.environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("epoch"):
                times.append(time.perf_counter())
                if len(times) in (EARLY, STEPS - 1):  # at the last step it may have ended before it is inspected
                    memory[len(times)] = resident(process.pid)
    gaps = [later - before for before, later in zip(times[STEPS // 2 :], times[STEPS // 2 + 1 :], strict=False)]
    return 1000 * statistics.median(gaps), memory[EARLY], memory[STEPS - 1]


def main() -> None:
    """Measure and print a table in Markdown."""
    from conftest import INFERENCE_PYTHON

    with tempfile.TemporaryDirectory() as name:
        print("| model | by | a step | resident at step 20 | at step 2,000 |")
        print("|---|---|---|---|---|")
        for i, (title, (model, layers)) in enumerate(MODELS.items()):
            if not model.is_file():
                continue
            folder = Path(name) / str(i)
            folder.mkdir()
            package = make(model, layers, folder)
            rows: dict[str, list[tuple[float, float, float]]] = {"JVM": [], "Python": []}
            for _ in range(ROUNDS):
                rows["JVM"].append(by_jvm(package))
                rows["Python"].append(by_python(INFERENCE_PYTHON, package))
            for by, measured in rows.items():
                step, early, late = (statistics.median(column) for column in zip(*measured, strict=True))
                print(f"| {title} | {by} | {step:.2f} ms | {early:.0f} MiB | {late:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
