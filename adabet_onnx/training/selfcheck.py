"""The check that every artifact folder passes before it is released, in a separate process.

onnxruntime-training has bugs that raise no error, and some that kill the process; one of our gradient rules may be
wrong for an untested node. Six checks on random inputs would have caught every known bug:

1. features: the features of a sample are the same alone as in a batch, so they may be kept;
2. outputs: the evaluation graph's logits equal the original graph's;
3. loss: the evaluation loss is that of its logits, and the loss of the first training step equals it (unless batch
   statistics replace the stored ones);
4. gradient: the gradient of every selected parameter agrees with finite differences (`gradient_check`);
5. step (portable backend only): the step graph changes parameters and optimizer state like the gradients and update
   graphs;
6. unchanged: after a step the selected parameters have changed, the frozen ones in the checkpoint have not, and the
   original graph with the new values gives the trained logits (so nothing else changed, including statistics).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import AdabetError, CheckError
from .exact_loss import exact_loss
from .gradient_check import check_gradients
from .logits import check_alone, logits_session
from .manifest import Manifest, TrainingSession, load_manifest
from .samples import sample_feeds, sample_labels

_BATCH = 4
_FEATURES = 0.01  # allowed relative difference: rounding is far below, one step of 8-bit integers is not above
_OUTPUTS, _LOSS, _STEP, _STATE = 1e-4, 1e-4, 0.05, 1e-3  # allowed relative differences
_RATE = 1e-3  # learning rate of the step


def check(manifest: Manifest, *, seed: int = 0) -> dict[str, Any]:
    """Run all checks; see the module.

    Raises:
        CheckError: a check failed.
        ModelError: the logits of a sample depend on the other samples of its batch.
    """
    feeds = sample_feeds(manifest, _BATCH, seed)
    checkpoint = manifest.initial
    name = manifest.model_logits
    original = manifest.model()
    expected = _logits(original, name, feeds)
    _check_alone(original, name, feeds, expected)
    labels = sample_labels(manifest, expected, seed)
    session = manifest.session(checkpoint)

    features = _check_features(session, feeds)
    eval_loss, logits = session.evaluate(feeds, labels)
    outputs = _difference(logits, expected)
    if not outputs <= _OUTPUTS:
        raise CheckError(
            f"the training graph's logits differ from the original model's by {outputs:.1e} of the largest: a rewrite "
            "is wrong. Nothing was written; please report this with the model."
        )
    exact = exact_loss(manifest, logits, labels)
    train_loss, _ = session.gradients(feeds, labels)
    loss = _check_losses(manifest, eval_loss, exact, train_loss)
    gradient = check_gradients(session, manifest, _BATCH, seed)
    session.gradients(feeds, labels)
    before = {parameter: session.parameter(parameter) for parameter in session.parameter_names()}
    session.update(_RATE)
    step = None
    if manifest.backend == "portable":
        step = _compare_step(session, manifest, feeds, labels)
    changed = _only_selected(session, manifest, before)
    for parameter in (*manifest.parameters, *manifest.statistics):
        value = original.graph.initializers[parameter]
        assert value.const_value is not None
        array = manifest.restored(parameter, value.const_value.numpy(), session.parameter(parameter))
        value.const_value = ir.tensor(array, name=parameter)
    _, logits = session.evaluate(feeds, labels)
    after = _difference(logits, _logits(original, name, feeds))
    if not after <= _OUTPUTS:
        raise CheckError(
            f"after a training step the logits differ by {after:.1e} from those of the original graph with the trained "
            "values: something that was not selected has changed (stored statistics?). Nothing was written."
        )
    return {
        "features": features,
        "outputs": outputs,
        "loss": loss,
        "gradient": gradient,
        "step": step,
        "changed": changed,
        "after_step": after,
    }


def _logits(graph: ir.Model, name: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = logits_session(graph, name, "the original model")
    return np.asarray(runtime.run_session(session, None, feeds, "the original model")[0])


def _check_alone(graph: ir.Model, name: str, feeds: dict[str, np.ndarray], together: np.ndarray) -> None:
    ends = [0, _BATCH - 1]
    alone = [_logits(graph, name, {key: array[i : i + 1] for key, array in feeds.items()}) for i in ends]
    check_alone(np.concatenate(alone), together[ends], "the model")


def _check_features(session: TrainingSession, feeds: dict[str, np.ndarray]) -> float:
    """Return the difference between features of single samples and of a batch, relative to the largest."""
    together, worst = session.features(feeds), 0.0
    for i in (0, _BATCH - 1):
        alone = session.features({name: array[i : i + 1] for name, array in feeds.items()})
        for name, array in together.items():
            equal = alone[name] == array[i : i + 1]  # infinities have no difference
            difference = _difference(*(np.where(equal, 0.0, part) for part in (alone[name], array[i : i + 1])))
            if not difference <= _FEATURES:
                raise CheckError(
                    f"the frozen part's output for a sample ({name!r}) differs by {difference:.1e} of the largest when "
                    "other samples are in its batch, so it cannot be kept. Nothing was written; please report this "
                    "with the model."
                )
            worst = max(worst, difference)
    return worst


def _difference(values: np.ndarray, expected: np.ndarray) -> float:
    if values.shape != expected.shape:
        return float("inf")
    return float(np.abs(values - expected).max()) / max(1.0, float(np.abs(expected).max()))


def _check_losses(manifest: Manifest, evaluated: float, exact: float, trained: float) -> float:
    """Return the largest relative difference between losses that should be equal."""
    scale = max(1.0, abs(exact))
    computed = abs(evaluated - exact) / scale
    if not computed <= _LOSS:
        raise CheckError(
            f"the evaluation loss is {evaluated:.6f}, but {manifest.loss_function} of the logits is {exact:.6f}: the "
            "graph of the loss is wrong. Nothing was written; please report this with the model."
        )
    if manifest.uses_batch_statistics:  # then training and evaluation differ by design
        return computed
    between = abs(trained - evaluated) / scale
    if not between <= _LOSS:
        raise CheckError(
            f"the first training step's loss is {trained:.6f}, the evaluation loss {evaluated:.6f}: an operator "
            "behaves differently in training. Nothing was written; please report this with the model."
        )
    return max(computed, between)


def _compare_step(
    session: TrainingSession, manifest: Manifest, feeds: dict[str, np.ndarray], labels: np.ndarray
) -> float:
    """Return the difference between the results of a step and of gradients and update, relative to the largest change.

    AdamW divides by the gradient's size, so a gradient of the wrong length gives the same parameters; its state reveals
    it.
    """
    other = manifest.session(manifest.initial)
    before = {name: other.parameter(name) for name in manifest.parameters}
    other.step(feeds, labels, _RATE)
    worst = 0.0
    for name, value in before.items():
        expected = session.parameter(name) - value
        scale = max(1e-7, float(np.abs(expected).max()))
        difference = float(np.abs(other.parameter(name) - value - expected).max()) / scale
        if not difference <= _STEP:
            raise CheckError(
                f"a step of the step graph changes {name!r} differently from gradients and update: they differ by "
                f"{difference:.1e} of the largest change. Nothing was written; please report this with the model."
            )
        worst = max(worst, difference)
    for name in (str(entry["name"]) for entry in manifest.state_entries if not entry.get("moves")):
        expected, actual = session.parameter(name), other.parameter(name)
        difference = float(np.linalg.norm(actual - expected)) / max(1e-12, float(np.linalg.norm(expected)))
        if not difference <= _STATE and np.abs(actual - expected).max() > 1e-7:
            raise CheckError(
                f"a step of the step graph leaves a different optimizer state {name!r} from gradients and update: they "
                f"differ by {difference:.1e} of its length. Nothing was written; please report this with the model."
            )
        worst = max(worst, difference)
    return worst


def _only_selected(session: TrainingSession, manifest: Manifest, before: dict[str, np.ndarray]) -> int:
    """Return how many selected parameters a step changed; raise an error if any other changed."""
    trainable = set(manifest.parameters)
    changed = {name for name, value in before.items() if not np.array_equal(value, session.parameter(name))}
    strays = sorted(changed - trainable)
    if strays:
        raise CheckError(f"a training step changed {strays[0]!r}, which was not selected. Nothing was written.")
    if not changed:
        raise CheckError(
            "a training step changed none of the selected parameters. Nothing was written; select other layers."
        )
    return len(changed)


def _main() -> None:
    try:
        result = check(load_manifest(Path(sys.argv[1])))
    except AdabetError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
