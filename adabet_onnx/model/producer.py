"""Advice on exporting a model again, specific to the framework named by the file's ``producer_name``."""

from __future__ import annotations

_FRAMEWORKS = {
    "pytorch": ("pytorch", "torch"),
    "keras": ("tf2onnx", "keras2onnx", "keras", "tensorflow"),
    "jax": ("jax2onnx", "jax"),
    "scikit-learn": ("skl2onnx", "onnxmltools", "skl2onnx-onnxmltools"),
}

_KEEP_NORMS = {
    "pytorch": (
        "export with torch.onnx.export(..., optimize=False), or with dynamo=False, do_constant_folding=False and "
        "keep_initializers_as_inputs=True (docs/pytorch.md has both calls)"
    ),
    "keras": (
        "convert the Keras model or SavedModel with converters/from_keras.py: tf2onnx alone folds them, and has no "
        "option to keep them"
    ),
    "jax": "convert the model with converters/from_jax.py",
    "": "convert the model with a script of converters/ (from_torch.py, from_keras.py, from_jax.py)",
}
_BATCH_FIRST = {
    "pytorch": "in torch batch_first=True, or a transpose in forward",
    "keras": "in Keras time_major=False, or a Permute as the first layer",
    "": "for example by a transpose as its first step",
}
_INFERENCE = {
    "pytorch": "in torch: model.eval(), without training=TrainingMode.TRAINING",
    "keras": "in Keras: a function that calls model(x, training=False)",
    "jax": "in Flax: deterministic=True, train=False or model.eval()",
    "": "with random operations, such as dropout, switched off",
}


def framework(producer: str | None) -> str:
    """The framework: pytorch, keras, jax or scikit-learn; empty if unknown."""
    name = (producer or "").strip().lower()
    return next((key for key, names in _FRAMEWORKS.items() if name in names), "")


def keep_normalisations(producer: str | None) -> str:
    """How to keep batch normalisations as nodes."""
    return _KEEP_NORMS.get(framework(producer), _KEEP_NORMS[""])


def batch_first(producer: str | None) -> str:
    """How to make the batch the first dimension."""
    return _BATCH_FIRST.get(framework(producer), _BATCH_FIRST[""])


def inference(producer: str | None) -> str:
    """How to export for inference."""
    return _INFERENCE.get(framework(producer), _INFERENCE[""])
