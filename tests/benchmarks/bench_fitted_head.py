"""A fitted head without training against scikit-learn's logistic regression on the same features.

    python tests/benchmarks/bench_fitted_head.py [cifar100] [flowers-mobilenetv1] [flowers-mobilenetv2] [efficientnet]
        [noise] [minilm]

For each pair of a pretrained network and a new domain (models and data are looked for in ../shared) the model gets a
new head, which is fitted as `train` does before its first epoch, on all training samples. Its accuracy on the test
samples stands beside that of a logistic regression whose strength is chosen by five-fold cross-validation, on features
as they are and on standardised ones. Both are of the head's inputs, computed by onnxruntime from the file. The exit
code is 1 if the fitted head is more than a point below the better of the two.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared"
sys.path.insert(0, str(HERE))

from pairs.sources import PAIRS, UnavailableError  # noqa: E402

from adabet_onnx import Settings, Trainer, export_model, make_artifacts, new_head, open_model, select  # noqa: E402
from adabet_onnx.data.arithmetic import integer_data  # noqa: E402
from adabet_onnx.data.feeder import Feeder  # noqa: E402
from adabet_onnx.data.preprocess import arithmetic_for  # noqa: E402
from adabet_onnx.data.source import open_data  # noqa: E402
from adabet_onnx.model.passes.unused import RemoveUnused  # noqa: E402
from adabet_onnx.runtime import inference_session  # noqa: E402

STORED = {
    "cifar100": ("resnet20_cifar10_bn.onnx", "cifar100_20c.npz", 20),
    "flowers-mobilenetv1": ("mobilenetv1_025_vww96_bn.onnx", "flowers5_96.npz", 5),
    "flowers-mobilenetv2": ("mobilenetv2_035_imagenet128.onnx", "flowers5_96.npz", 5),
    "noise": ("resnet20_cifar10_bn.onnx", "cifar10_noise5.npz", 10),
}
NAMES = (*STORED, *PAIRS)
POINT = 0.01


def pair(name: str) -> tuple[Path, Path, int]:
    """Model, data and number of classes."""
    if name in STORED:
        model, data, classes = STORED[name]
        return SHARED / "models" / model, SHARED / "data" / data, classes
    made = PAIRS[name]()
    return made.model, made.data, made.classes


def measure(name: str, folder: Path) -> bool:
    """Fit, compare, print; returns whether it is good enough."""
    source, data, classes = pair(name)
    model = new_head(source, classes)
    make_artifacts(model, select(model, strategy="head"), folder / "artifacts", check=False)
    trainer = Trainer(folder / "artifacts")
    began = time.perf_counter()
    trainer.fit(data, settings=Settings(epochs=1, learning_rate=1e-20, validation=0.0, head_init="fitted"))
    seconds = time.perf_counter() - began
    export_model(folder / "artifacts", folder / "fitted.onnx", check=False)

    graph = ir.load(folder / "fitted.onnx")
    head = open_model(folder / "fitted.onnx").head
    assert head is not None
    node = next(node for node in graph.graph if node.name == head.node)
    graph.graph.outputs.append(node.inputs[0])
    RemoveUnused()(graph)
    session = inference_session(graph, name)
    opened = open_data(data, model)
    found = []
    for part in (opened.train, opened.for_evaluation):
        feeder = Feeder(model, arithmetic_for(model, integer_data(model, part), None, preset="auto"))
        batches = [np.arange(start, min(start + 64, len(part))) for start in range(0, len(part), 64)]
        logits, features = zip(*(session.run(None, feeder.feeds(part, batch)) for batch in batches), strict=True)
        flat = np.concatenate(features).reshape(len(part), -1).astype(np.float64)
        found.append((np.concatenate(logits), flat, np.asarray(part.labels)))
    (_, train, labels), (logits, test, truth) = found
    fitted = float((logits.argmax(1) == truth).mean())
    print(f"{name}: {trainer.head_start}", flush=True)
    others = {}
    for how, steps in (("as they are", []), ("standardised", [StandardScaler()])):
        regression = LogisticRegressionCV(Cs=np.logspace(-4, 2, 7), cv=5, max_iter=300, scoring="accuracy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            others[how] = float(make_pipeline(*steps, regression).fit(train, labels).score(test, truth))
    best = max(others.values())
    beside = ", ".join(f"{accuracy:.1%} on features {how}" for how, accuracy in others.items())
    right = fitted >= best - POINT
    print(
        f"  fitted {fitted:.1%} in {seconds:.0f} s; logistic regression {beside}: {'right' if right else 'TOO LOW'}",
        flush=True,
    )
    return right


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", nargs="*", default=list(NAMES), metavar="pair", help=f"of {', '.join(NAMES)}")
    given = parser.parse_args()
    if unknown := set(given.pairs) - set(NAMES):
        parser.error(f"unknown pairs: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    wrong = 0
    for name in given.pairs:
        try:
            with tempfile.TemporaryDirectory() as folder:
                wrong += not measure(name, Path(folder))
        except UnavailableError as error:
            print(f"{name}: left out, {error}", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
