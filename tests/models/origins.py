"""Models by origin: an exporter, one of our converters, the onnx package, ../shared, or a quantiser."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import onnx

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parents[1] / "shared" / "models"

NEW = ("bert_masked", "convnext", "gpt", "lstm", "mobilenetv2", "resnet18", "vit_tiny")  # by torch.export as well
ZOO = (
    "squeezenet",
    "shufflenet",
    "inception_v1",
    "resnet50",
    "densenet121",
    "inception_v2",
    "zfnet512",
    "bvlc_alexnet",
    "vgg19",
)
CONVERTED = {
    "Keras": ("residual",),
    "JAX": ("residual",),
    "scikit-learn": ("mlp",),
    "Transformers": ("bert", "roberta", "distilbert", "gpt2", "vit"),
}
NUMBERS = {
    "float16": ("resnet18", "mlp"),
    "QDQ": ("resnet18", "mlp"),
    "QOperator": ("vgg",),
    "dynamic": ("mlp", "bert"),
}


def all_models() -> list[tuple[str, str]]:
    """(model, origin) of all available models, small ones first."""
    from .architectures import ARCHITECTURES

    found = [(name, "torchscript") for name in ARCHITECTURES] + [(name, "dynamo") for name in NEW]
    for group in (CONVERTED, NUMBERS):
        found += [(name, origin) for origin, names in group.items() for name in names]
    if SHARED.is_dir():
        found += [(path.stem, "shared") for path in sorted(SHARED.glob("*.onnx"))]
    return found + [(name, "zoo") for name in ZOO]


def load(name: str, origin: str) -> onnx.ModelProto:
    """Load one of the models."""
    if origin == "zoo":
        from .light import light_model

        return light_model(name)
    if origin == "shared":
        return onnx.load(SHARED / f"{name}.onnx")
    if origin in CONVERTED:
        return _converted(name, origin)
    from .architectures import export

    if origin in NUMBERS:
        return _in_other_numbers(onnx.load_from_string(export(name)), origin)
    return onnx.load_from_string(export(name, exporter=origin, opset=17 if origin == "torchscript" else 18))


def _converted(name: str, framework: str) -> onnx.ModelProto:
    """Made in the framework, with random weights, and converted as a user would."""
    import converter_runs
    from converter_sources import KERAS, TRANSFORMERS

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if framework == "Keras":
            python, script, source, options = converter_runs.need_keras(), "from_keras", "model.keras", []
            program = KERAS
        elif framework == "JAX":
            shutil.copy(TESTS / "models" / "flax_nets.py", folder / "net.py")
            python, script, source = converter_runs.need_jax(), "from_jax", "net.py:load"
            program, options = _JAX, ["--arg", "path=weights.npz", "--input", "16,16,3"]
        elif framework == "Transformers":
            python, script, source = converter_runs.need("transformers"), "from_transformers", name
            program = TRANSFORMERS
            options = [] if name == "vit" else ["--length", "16", "--mask-padding"]
        else:
            python, script, source, options = converter_runs.need("sklearn"), "from_sklearn", "model.joblib", []
            program = _SKLEARN
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([python, "-c", program], cwd=folder, check=True, capture_output=True, env=environment)
        [(code, said)] = converter_runs.convert(python, script, [source, *options, "-o", "model.onnx"], cwd=folder)
        assert code == 0, said
        return onnx.load(folder / "model.onnx")


_JAX = """
import sys
sys.path.insert(0, ".")
import net, numpy as np
from pathlib import Path
rng = np.random.default_rng(0)
net.train(rng.integers(0, 256, (64, 16, 16, 3)).astype(np.uint8), rng.integers(0, 4, 64), Path("weights.npz"))
"""
_SKLEARN = """
import joblib, numpy as np, warnings
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
x = rng.standard_normal((120, 6))
model = make_pipeline(StandardScaler(), MLPClassifier((16, 12, 8), max_iter=10)).fit(x, rng.integers(0, 4, 120))
joblib.dump(model, "model.joblib")
"""


def _in_other_numbers(proto: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """In half precision, or quantised by onnxruntime's quantiser."""
    from .number_formats import converted, quantise

    if kind == "float16":
        return converted(proto, kind)
    with tempfile.TemporaryDirectory() as place:
        return quantise(proto, Path(place), style=kind)
