"""The adapter for onnxruntime.training: artifacts at an IR version that it can read, steps, and checkpoints.

C++ log lines are kept off the terminal.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .. import runtime
from ..data.labels import check_count
from ..errors import ModelError, RuntimeMissingError, TrainingError
from ..portable.features import Features
from ..training_runtime import load

IR_VERSION = 10  # the newest that onnxruntime-training 1.19.2 reads
_LOSSES = {
    "cross-entropy": "CrossEntropyLoss",
    "mse": "MSELoss",
    "bce-with-logits": "BCEWithLogitsLoss",
    "l1": "L1Loss",
}


def generate(
    model: onnx.ModelProto,
    trainable: Sequence[str],
    folder: Path,
    *,
    loss: str,
    optimizer: str,
    weight_decay: float,
    frozen: Sequence[str] = (),
    ort_format: bool = False,
) -> None:
    """Write training_model, eval_model, optimizer_model and checkpoint to ``folder``.

    The graph's one output is the logits; it becomes an output of the training and eval models too.

    Args:
        model: the trainable graph.
        trainable: names of the initializers to train.
        folder: an existing, empty folder.
        loss: cross-entropy, mse, bce-with-logits or l1.
        optimizer: adamw or sgd.
        weight_decay: weight decay of adamw; sgd has none.
        frozen: initializers that live in the checkpoint instead of being embedded in both models.
        ort_format: write ``.ort`` files beside the ``.onnx`` ones.

    Raises:
        ModelError: onnxruntime-training cannot build gradients for this graph.
        OSError: a file cannot be written.
    """
    api = load()
    blocks = api.onnxblock.optim
    optimizer_block = blocks.SGD() if optimizer == "sgd" else blocks.AdamW(weight_decay=weight_decay)
    output = model.graph.output[0].name
    try:
        with _readable_ir_version(), _quiet():
            api.artifacts.generate_artifacts(
                model,
                requires_grad=list(trainable),
                frozen_params=list(frozen) or None,
                loss=getattr(api.artifacts.LossType, _LOSSES[loss]),
                optimizer=optimizer_block,
                artifact_directory=str(folder),
                ort_format=ort_format,
                additional_output_names=[output],
            )
    except OSError:
        raise
    except Exception as error:  # the C++ gradient builder and onnx's checker raise their own exception types
        if _FAILED_TO_SAVE in str(error):
            raise _as_oserror(error) from error
        raise ModelError(
            f"onnxruntime-training cannot make a training graph for this selection: {runtime.first_line(error)} "
            "A node between the selected layers and the loss may have no gradient; select later layers."
        ) from error


_FAILED_TO_SAVE = "Failed to save"  # the C++ error message if a file cannot be written


def _as_oserror(error: Exception) -> OSError:
    """Return the OSError behind a native failure to write a file; its number, if any, is in the message."""
    number = re.search(r"errno:(\d+)", str(error))
    if number is not None:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return OSError("a file could not be saved (disk full, or too large?)")


@contextlib.contextmanager
def _readable_ir_version() -> Iterator[None]:
    """onnxblock stamps its optimizer model with onnx.IR_VERSION, which can be newer than 1.19.2 reads."""
    before = int(onnx.IR_VERSION)
    setattr(onnx, "IR_VERSION", min(before, IR_VERSION))  # noqa: B010 (typed as a constant)
    try:
        yield
    finally:
        setattr(onnx, "IR_VERSION", before)  # noqa: B010


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what C++ prints to file descriptor 2 and what the .ort converter prints to stdout.

    The converter leaves files open for the garbage collector; the resulting warnings are suppressed, too.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_stderr():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr to suppress
        yield
        return
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


class OrtSession:
    """Parameters, gradients and optimizer of one artifact folder, in memory.

    Args:
        folder: the artifacts.
        checkpoint: the checkpoint file to start from.
        suffix: suffix of the model files, ``onnx`` or ``ort``.
        inputs: order of the model's inputs in training (without the labels).
        threads: number of threads for ONNX Runtime; None: ONNX Runtime decides.

    Raises:
        TrainingError: the files cannot be loaded.
    """

    def __init__(
        self, folder: Path, checkpoint: Path, *, inputs: Sequence[str], suffix: str = "onnx", threads: int | None = None
    ) -> None:
        self._api, self._inputs = load(), tuple(inputs)
        self._folder, self._suffix, self._threads = folder, suffix, threads
        self._state: Any = None
        self._module: Any = None
        self._optimizer: Any = None
        self.load(checkpoint)

    def load(self, path: Path) -> None:
        """Load a checkpoint: parameters, optimizer state, step number and properties.

        Raises:
            TrainingError: it cannot be read, or belongs to another training.
        """
        api, folder, suffix = self._api, self._folder, self._suffix
        options = runtime.training_options(self._threads)
        runtime.keep_apart(options, folder / f"training_model.{suffix}")
        self._state = self._module = self._optimizer = None  # free the old state first, to avoid twice the memory
        try:
            self._state = api.CheckpointState.load_checkpoint(str(path))
            self._module = api.Module(
                str(folder / f"training_model.{suffix}"),
                self._state,
                str(folder / f"eval_model.{suffix}"),
                session_options=options,
            )
            self._optimizer = api.Optimizer(str(folder / f"optimizer_model.{suffix}"), self._module)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise TrainingError(
                f"the artifacts in {folder} cannot be loaded with the checkpoint {path}: "
                f"{runtime.first_line(error)} If it belongs to an earlier training, train again without `resume`; "
                "otherwise make the artifacts again."
            ) from error

    def features(self, feeds: Mapping[str, np.ndarray]) -> Features:
        """Return the inputs themselves: these graphs start from the model's inputs."""
        return Features({name: feeds[name] for name in self._inputs})

    def forget_frozen(self) -> None:
        """Do nothing: there is no frozen graph whose memory could be freed."""

    def step(
        self, feeds: Mapping[str, np.ndarray], labels: np.ndarray, learning_rate: float
    ) -> tuple[float, np.ndarray]:
        """Run a training step; return (loss, logits), both from before the update.

        A loss that is not finite changes nothing.
        """
        loss, logits = self.gradients(feeds, labels)
        if math.isfinite(loss):
            self.update(learning_rate)
        else:
            self.forget_gradients()
        return loss, logits

    def gradients(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        """Run forward and backward pass; return (loss, logits). Gradients accumulate until `update`."""
        self._module.train()
        return self._run(feeds, labels)

    def update(self, learning_rate: float) -> None:
        """Run an optimizer step with the accumulated gradients, then clear them."""
        self._optimizer.set_learning_rate(learning_rate)
        self._optimizer.step()
        self._module.lazy_reset_grad()

    def forget_gradients(self) -> None:
        """Clear the accumulated gradients without a step."""
        self._module.lazy_reset_grad()

    def evaluate(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        """Run the forward pass only; return (loss, logits)."""
        self._module.eval()
        return self._run(feeds, labels)

    def _run(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        check_count(feeds, labels)
        try:
            outputs = self._module(*(feeds[name] for name in self._inputs), labels)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise TrainingError(f"a training step failed: {runtime.first_line(error)}") from error
        return float(np.asarray(outputs[0]).reshape(-1)[0]), np.asarray(outputs[1])

    def parameter_names(self) -> list[str]:
        """Return the names of all parameters in the checkpoint, trainable and frozen."""
        return [name for name, _ in self._state.parameters]

    def parameter(self, name: str) -> np.ndarray:
        """Return a copy of a parameter's value, float32."""
        return np.array(self._state.parameters[name].data, copy=True)

    def set_parameter(self, name: str, value: np.ndarray) -> None:
        """Set a parameter's value."""
        self._state.parameters[name].data = np.ascontiguousarray(value, np.float32)

    def gradient(self, name: str) -> np.ndarray:
        """Return a copy of a trainable parameter's accumulated gradient, float32 in the parameter's shape."""
        return np.array(self._state.parameters[name].grad, copy=True).reshape(self.parameter(name).shape)

    def property(self, name: str) -> Any:
        """Return a property stored in the checkpoint, or None."""
        return self._state.properties[name] if name in self._state.properties else None  # noqa: SIM401 (no dict)

    def set_property(self, name: str, value: str | int | float) -> None:
        """Store a property in the next saved checkpoint."""
        self._state.properties[name] = value

    def save(self, path: Path) -> None:
        """Write a checkpoint with optimizer state and properties.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            self._api.CheckpointState.save_checkpoint(self._state, str(path), include_optimizer_state=True)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise _as_oserror(error) from error


def read_checkpoint(path: Path, key: str) -> tuple[dict[str, np.ndarray], Any]:
    """Return all parameters of a checkpoint file by name, and one of its properties (None if it is missing).

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        state = load().CheckpointState.load_checkpoint(str(path))
        values = {name: np.array(parameter.data, copy=True) for name, parameter in state.parameters}
        return values, state.properties[key] if key in state.properties else None  # noqa: SIM401 (no dict)
    except RuntimeMissingError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise TrainingError(
            f"the checkpoint {path} cannot be read: {runtime.first_line(error)} If it belongs to an earlier training, "
            "train again without `resume`; otherwise make the artifacts again."
        ) from error
