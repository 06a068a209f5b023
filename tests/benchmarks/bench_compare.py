"""Strategies compared on four pairs of a pretrained network and a new domain: the table in the README.

    python tests/benchmarks/bench_compare.py FOLDER [--pairs cifar100,noise,...] [--strategies ...] [--max-memory 0.25x]

Runs `adabet-onnx compare` for ResNet-20 (CIFAR-10) on 20 classes of CIFAR-100 and on noisy CIFAR-10, and for
MobileNetV1 (wake words) and MobileNetV2 (ImageNet) on flowers at 96 px: 1,000 training images, batches of 32, 6 epochs
of SGD with momentum 0.9, rates chosen by each strategy, three seeds. The head is always trained; on noisy CIFAR-10 it
starts from the trained one. Two more pairs, only if they are named: ResNet-20 on blurred CIFAR-10 and on CIFAR-10
with less contrast (`choice/shifts.py`). A stopped run is resumed. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared"
sys.path.insert(0, str(HERE))
from choice import shifts  # noqa: E402

FOUR = ("cifar100", "noise", "flowers-mobilenetv1", "flowers-mobilenetv2")
PAIRS = {
    "cifar100": ("resnet20_cifar10_bn.onnx", "cifar100_20c.npz", ["--num-classes", "20"]),
    "noise": ("resnet20_cifar10_bn.onnx", "cifar10_noise5.npz", ["--head", "always"]),
    "flowers-mobilenetv1": ("mobilenetv1_025_vww96_bn.onnx", "flowers5_96.npz", ["--num-classes", "5"]),
    "flowers-mobilenetv2": ("mobilenetv2_035_imagenet128.onnx", "flowers5_96.npz", ["--num-classes", "5"]),
    "blur": ("resnet20_cifar10_bn.onnx", None, ["--head", "always"]),
    "contrast": ("resnet20_cifar10_bn.onnx", None, ["--head", "always"]),
}
COMMON = ["--rho", "0.1,0.2", "--seeds", "3", "--epochs", "6", "--train-samples", "1000", "--optimizer", "sgd"]
STRATEGIES = "auto,adabet,size,last,norm-bias,fisher,random,head,all"


def main() -> None:
    """Compare, pair by pair, and print the tables in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", default=",".join(FOUR))
    parser.add_argument("--strategies", default=STRATEGIES)
    parser.add_argument("--max-memory")
    given = parser.parse_args()
    for pair in given.pairs.split(","):
        model, data, options = PAIRS[pair]
        strategies = given.strategies
        if pair == "flowers-mobilenetv2":  # its normalisations were folded into the convolutions
            strategies = ",".join(name for name in strategies.split(",") if name != "norm-bias")
        samples = SHARED / "data" / data if data else shifts.make(given.folder / "data", pair)
        command = [sys.executable, "-m", "adabet_onnx", "compare", SHARED / "models" / model, samples]
        command += ["-o", given.folder / pair, "--strategies", strategies, "--momentum", "0.9", *COMMON, *options, "-q"]
        if given.max_memory:
            # Every strategy may use micro-batches, as auto does.
            command += ["--max-memory", given.max_memory, "--max-accumulate", "32"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        print(f"\n{pair} ({(time.perf_counter() - began) / 60:.0f} minutes)\n")
        print((given.folder / pair / "results.md").read_text(), flush=True)


if __name__ == "__main__":
    main()
