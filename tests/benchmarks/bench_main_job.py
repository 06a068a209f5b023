"""The main job on real pretrained models and new domains: the table in the README.

    python tests/benchmarks/bench_main_job.py

Runs the commands as a user would and prints, for each, selected layers, accuracy before and after, trainable share,
and step time and memory as ratios (measured one after another in the same run). About ten minutes on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
# Rates: ResNet-20's was chosen on the validation split among 0.003 and 0.01, MobileNetV1's among 0.001, 0.003, 0.01 and
# 0.03; MobileNetV2's is the default.
JOBS = (
    ("resnet20_cifar10_bn.onnx", "cifar100_20c.npz", 20, "0.01"),
    ("mobilenetv1_025_vww96_bn.onnx", "flowers5_96.npz", 5, "0.01"),
    ("mobilenetv2_035_imagenet128.onnx", "flowers5_96.npz", 5, "0.001"),
)


def main() -> None:
    """Run the jobs and print a table in Markdown."""
    print("| model and data | selected layers | trained | before | after | step time | step memory |")
    print("|---|---|---|---|---|---|---|")
    for model, data, classes, rate in JOBS:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "adabet_onnx", "run", SHARED / "models" / model, SHARED / "data" / data]
            options = ["--num-classes", str(classes), "--lr", rate, "-o", folder, "--quiet"]
            subprocess.run([*command, *options], check=True)
            result = json.loads((Path(folder) / "run.json").read_text())
        costs = result["costs"]
        ratios = [
            f"{costs['selection'][key] / costs['all'][key]:.2f} / "
            f"{costs['selection'][key] / costs['inference'][key]:.2f}"
            for key in ("seconds", "memory_bytes")
        ]
        cells = [
            f"{model} on {data}",
            ", ".join(f"`{name}`" for name in result["layers"]),
            f"{result['trainable_share']:.1%}",
            f"{result['before']['accuracy']:.1%}",
            f"{result['after']['accuracy']:.1%}",
            *ratios,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    print("\nStep time and memory: share of training all layers / multiple of inference.")


if __name__ == "__main__":
    main()
