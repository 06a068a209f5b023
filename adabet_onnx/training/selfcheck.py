"""The check every artifact folder passes before it is handed out, in a process of its own.

onnxruntime-training has faults that raise nothing, and some that kill the process; a rule of ours may be wrong for a
node nobody has tried. Five checks, on random inputs, would have caught each fault that is known:

1. outputs: the evaluation graph's logits equal the original graph's;
2. loss: the loss of the first training step equals the evaluation loss (batch statistics in place of stored ones);
3. gradient: that of the earliest selected parameter that has one agrees with finite differences (wrong pads, ties);
4. step (of the portable backend): the graph of a whole step changes the parameters as gradients and update do;
5. unchanged: after a step the selected parameters have changed, the frozen ones in the checkpoint have not, and the
   original graph with the new values in it gives the trained logits (so nothing else moved, no statistic either).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import runtime
from ..errors import AdabetError, CheckError
from .evaluation import check_alone, logits_session
from .manifest import Manifest, TrainingSession, load_manifest
from .samples import sample_feeds, sample_labels

_BATCH = 4
_OUTPUTS, _LOSS, _GRADIENT, _STEP = 1e-4, 1e-4, 0.05, 0.05  # relative differences that pass
_TIMEOUT = 900  # seconds


def check_in_subprocess(folder: Path) -> dict[str, Any]:
    """Run `check` on an artifact folder in another process.

    Returns:
        What was found: largest differences.

    Raises:
        CheckError: a check failed, or the process died.
    """
    command = [sys.executable, "-m", "adabet_onnx.training.selfcheck", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckError(
            f"the first training step did not finish in {_TIMEOUT} s. Use a smaller model or --no-check."
        ) from error
    if done.returncode < 0:
        raise CheckError(
            f"the first training step killed its process (signal {-done.returncode}) inside the runtime, so "
            "these artifacts are not handed out. Select later layers, or report this with the model."
        )
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise CheckError(
            f"the check of the artifacts failed to run: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        ) from error
    if "error" in result:
        raise CheckError(result["error"])
    return dict(result)


def check(manifest: Manifest, *, seed: int = 0) -> dict[str, Any]:
    """Run the checks; see the module.

    Raises:
        CheckError: one of them failed.
        ModelError: the logits of a sample depend on the other samples of its batch.
    """
    feeds = sample_feeds(manifest, _BATCH, seed)
    checkpoint = manifest.initial
    name = str(manifest.content["model_logits"])
    original = ir.load(manifest.file("model"))
    expected = _logits(original, name, feeds)
    _check_alone(original, name, feeds, expected)
    labels = sample_labels(manifest, expected, seed)
    session = manifest.session(checkpoint)

    eval_loss, logits = session.evaluate(feeds, labels)
    outputs = _difference(logits, expected)
    if not outputs <= _OUTPUTS:
        raise CheckError(
            f"the training graph's logits differ from the original model's by {outputs:.1e} of the largest: a "
            f"rewrite is "
            "wrong. Nothing was written; please report this with the model."
        )
    train_loss, _ = session.gradients(feeds, labels)
    loss = abs(train_loss - eval_loss) / max(1.0, abs(eval_loss))
    by_batch = manifest.content.get("batch_norm") == "batch"  # then the two are not meant to be the same
    if not by_batch and not loss <= _LOSS:
        raise CheckError(
            f"the first training step's loss is {train_loss:.6f}, the evaluation loss {eval_loss:.6f}: an "
            f"operator behaves "
            "differently in training. Nothing was written; please report this with the model."
        )
    gradient = _finite_differences(session, manifest, feeds, labels)
    before = {parameter: session.parameter(parameter) for parameter in session.parameter_names()}
    session.update(1e-3)
    step = None
    if manifest.backend == "portable":
        step = _same_step(session, manifest, feeds, labels)
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


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))


def _same_step(session: TrainingSession, manifest: Manifest, feeds: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """How far a step's new values are from those of gradients and update, relative to the largest change."""
    other = manifest.session(manifest.initial)
    before = {name: other.parameter(name) for name in manifest.parameters}
    other.step(feeds, labels, 1e-3)
    worst = 0.0
    for name, value in before.items():
        expected = session.parameter(name) - value
        scale = max(1e-7, float(np.abs(expected).max()))
        worst = max(worst, float(np.abs(other.parameter(name) - value - expected).max()) / scale)
    if not worst <= _STEP:
        raise CheckError(
            f"a step of the step graph differs by {worst:.1e} of the largest change from gradients and update. Nothing "
            "was written; please report this with the model."
        )
    return worst


def _finite_differences(
    session: TrainingSession, manifest: Manifest, feeds: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, Any] | None:
    """Compare the gradient's length with the loss's slope along it; None where every gradient is (nearly) zero.

    (L(p + h g/|g|) - L(p - h g/|g|)) / 2h = |g|, with several step sizes h, since a small one drowns in float32
    rounding and a large one leaves the linear range (a Relu's kink is enough). The best of them counts.
    """
    by_batch = manifest.content.get("batch_norm") == "batch"
    found_gradients = {name: session.gradient(name) for name in manifest.parameters}

    def measured() -> float:
        if not by_batch:
            return session.evaluate(feeds, labels)[0]
        session.forget_gradients()
        return session.gradients(feeds, labels)[0]

    for name in _in_model_order(manifest):
        gradient = found_gradients[name].astype(np.float64)
        length = float(np.linalg.norm(gradient))
        value = session.parameter(name)
        loss = measured()
        best, slope = float("inf"), 0.0
        for change in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4):  # of the loss
            if length == 0:
                break
            step = change * max(1.0, abs(loss)) / length
            if step > 0.1 * float(np.linalg.norm(value)) + 0.02:
                continue  # far from linear, surely
            losses = []
            for sign in (1, -1):
                session.set_parameter(name, value + sign * step * gradient / length)
                losses.append(measured())
            found = (losses[0] - losses[1]) / (2 * step)
            error = abs(found - length) / length
            if error < best:
                best, slope = error, found
        session.set_parameter(name, value)
        if best == float("inf"):
            continue
        if not best <= _GRADIENT:
            raise CheckError(
                f"the gradient of {name!r} has length {length:.4g}, but the loss changes by {slope:.4g} along it: "
                "the gradient of an operator between it and the loss is wrong. Select later layers, use the other "
                "backend, or report this with the model."
            )
        return {"parameter": name, "error": best}
    return None


def _in_model_order(manifest: Manifest) -> list[str]:
    trainable = set(manifest.parameters)
    selected = [name for name in manifest.content["selection"]["parameters"] if name in trainable]
    return selected + [name for name in manifest.parameters if name not in selected]


def _only_selected(session: TrainingSession, manifest: Manifest, before: dict[str, np.ndarray]) -> int:
    """How many selected parameters a step changed; the others must not have."""
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
