"""A training in memory, run from the graphs of an artifact folder with any onnxruntime."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import runtime
from ..data.labels import check_count, counted
from ..errors import AdabetError, TrainingError
from ..runtime import Threads
from . import checkpoint
from .features import Features
from .weights import check_external


class PortableSession:
    """Parameters, optimizer state and gradients of an artifact folder of the portable backend, in memory.

    A graph is loaded when it is first needed. The frozen graph computes what no training changes; the other graphs
    start from its outputs, which `features` returns. If the other methods receive the model's inputs, they run it
    first.

    Args:
        files: paths of the frozen, step, gradients, update and evaluation graph.
        names: the manifest's entries: parameters, state, boundary, labels, learning_rate, step, loss and logits.
        start: checkpoint to start from, or state.bin.
        feeds: (name in the original model, name in the graphs) of each input.
        threads: for ONNX Runtime, or a `Runtime` with an execution provider; None for ONNX Runtime's default.

    Raises:
        TrainingError: a file cannot be loaded.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        names: Mapping[str, Any],
        start: Path,
        *,
        feeds: Sequence[tuple[str, str]],
        threads: Threads = None,
    ) -> None:
        self._files, self._names, self._feeds, self._threads = dict(files), names, tuple(feeds), threads
        boundary = names.get("boundary")  # None in folders of version 1, whose graphs start at the model's inputs
        self._boundary: list[tuple[str, str | None]] = [(feed, feed) for _, feed in feeds]
        if boundary is not None:
            self._boundary = [(str(entry["name"]), entry["input"]) for entry in boundary]
        self._parameters: list[Mapping[str, Any]] = list(names["parameters"])
        self._state: list[Mapping[str, Any]] = list(names["state"])
        entries = [*self._parameters, *self._state]
        initial = start == files["state"]
        self._ort = runtime.onnxruntime()
        with runtime.frugal_loading():
            stored = checkpoint.read_initial(start, entries) if initial else checkpoint.load(start, entries)
            self._values = {entry["name"]: self._held(stored.tensors.pop(entry["name"])) for entry in entries}
            self._steps, self._properties = stored.step, stored.properties
            del stored
        self._spare: dict[str, Any] = {}  # memory for the next step to write to, after the first step
        self._bindings: list[Any] = []
        self._empty = self._allocated(())
        self._sessions: dict[str, Any] = {}
        self._gradients: dict[str, np.ndarray] = {}
        self._moved: dict[str, Any] = {}  # state that the forward pass updates (statistics), since the last update
        self._weight: float = 0
        self._class_weights: list[float] | None = names.get("class_weights")

    def _held(self, array: np.ndarray) -> Any:
        """A copy in memory of the runtime, which steps may overwrite."""
        made = self._allocated(array.shape)
        made.update_inplace(np.asarray(array, np.float32, order="C"))
        return made

    def _allocated(self, shape: Sequence[int]) -> Any:
        return self._ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32)

    def _session(self, graph_name: str) -> Any:
        if graph_name not in self._sessions:
            options = runtime.training_options(self._threads)
            # Accelerators do not support weights that change.
            threads = self._threads if graph_name == "frozen" else None
            check_external(self._files[graph_name], self._files.get("weights"))
            try:
                with runtime.frugal_loading():
                    self._sessions[graph_name] = runtime.inference_session(
                        self._files[graph_name], str(self._files[graph_name]), options, threads
                    )
            except AdabetError as error:
                raise TrainingError(f"{error} Make the artifacts again.") from error
        return self._sessions[graph_name]

    def features(self, feeds: Mapping[str, np.ndarray]) -> Features:
        """The inputs of the other graphs for these samples, which training does not change.

        Args:
            feeds: arrays by the names of the original model's inputs.

        Returns:
            Arrays by the names of the boundary; the inputs themselves if nothing is frozen.
        """
        if isinstance(feeds, Features):
            return feeds
        values = self._before(feeds)
        return Features(
            {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in values.items()}
        )

    def forget_frozen(self) -> None:
        """Free the memory of the frozen graph; it is loaded again if it is needed again."""
        self._sessions.pop("frozen", None)

    def _before(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Features: arrays if they are model inputs, the runtime's values if they are computed."""
        missing = [original for original, _ in self._feeds if original not in feeds]
        if missing:
            raise TrainingError(
                f"the artifacts name an input {missing[0]!r}, but what is fed has only {sorted(feeds)}. Make the "
                "artifacts again."
            )
        given = {name: feeds[original] for original, name in self._feeds}
        features: dict[str, Any] = {name: given[source] for name, source in self._boundary if source is not None}
        computed = [name for name, source in self._boundary if source is None]
        if computed:
            values = {name: self._value(array) for name, array in given.items()}
            features.update(zip(computed, self._run("frozen", computed, values), strict=True))
        return {name: features[name] for name, _ in self._boundary}

    def _value(self, array: np.ndarray) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    def step(
        self, feeds: Mapping[str, np.ndarray], labels: np.ndarray, learning_rate: float
    ) -> tuple[float, np.ndarray]:
        """Run one training step, and return loss and logits from before the update.

        If the loss is not finite, nothing is changed. New values are written to the memory of the values before the
        last step, so nothing is copied, and the memory that the runtime keeps for activations is not fragmented by
        values that stay.

        Args:
            feeds: `Features`, or the original model's inputs by name; the same holds for `gradients` and `evaluate`.
            labels: labels of the same samples.
            learning_rate: learning rate of the update.
        """
        given = self._fed(feeds, labels) | self._hyperparameters(learning_rate)
        with _naming_failures("a training step"):
            binding = self._step_bindings()[0]
            for name, value in given.items():
                binding.bind_ortvalue_input(name, value)
            try:
                self._session("step").run_with_iobinding(binding)
                loss, logits = (value.numpy() for value in binding.get_outputs()[:2])
            finally:  # a binding keeps references to its inputs
                for name in given:
                    binding.bind_ortvalue_input(name, self._empty)
                binding.bind_output(self._names["loss"])
                binding.bind_output(self._names["logits"])
        loss_value = float(loss.reshape(-1)[0])
        if math.isfinite(loss_value):
            self._values, self._spare = self._spare, self._values
            self._bindings.reverse()
            self._steps += 1
        return loss_value, logits

    def _step_bindings(self) -> list[Any]:
        """Bindings of the values to read and to write: those of the next step, and those of the step after it."""
        if not self._bindings:
            entries = [*self._parameters, *self._state]
            for entry in entries:
                if entry["name"] not in self._spare:
                    self._spare[entry["name"]] = self._allocated(entry["shape"])
            made = []
            for read, written in ((self._values, self._spare), (self._spare, self._values)):
                binding = self._session("step").io_binding()
                binding.bind_output(self._names["loss"])
                binding.bind_output(self._names["logits"])
                for entry in entries:
                    binding.bind_ortvalue_input(entry["input"], read[entry["name"]])
                    binding.bind_ortvalue_output(entry["output"], written[entry["name"]])
                made.append(binding)
            self._bindings = made
        return self._bindings

    def _put(self, values: Mapping[str, Any]) -> None:
        """Set values; the bindings of the next step are then made anew."""
        self._values.update(values)
        self._bindings.clear()

    def gradients(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        """Run the forward and backward pass, and return loss and logits.

        Gradients are accumulated since the last `update`. Each batch is weighted by the number of its labels that are
        not ignored (or the sum of their class weights), so that several batches give the gradient of one batch that
        contains all of them.
        """
        moved = [entry for entry in self._state if entry.get("moves")]
        output_names = [self._names["loss"], self._names["logits"]]
        output_names += [entry["gradient"] for entry in self._parameters]
        output_names += [entry["output"] for entry in moved]
        given = self._given(feeds, labels)
        loss, logits, *rest = self._run("gradients", output_names, given)
        weight = counted(labels, self._class_weights)
        for entry, value in zip(self._parameters, rest, strict=False):
            # Weight 0 counts as 1, since the graph does not divide by 0 either.
            name, gradient = entry["name"], value.numpy() * np.float32(weight or 1)
            self._gradients[name] = self._gradients[name] + gradient if name in self._gradients else gradient
        self._moved = dict(zip((entry["name"] for entry in moved), rest[len(self._parameters) :], strict=True))
        self._put(self._moved)
        self._weight += weight
        return _number(loss), logits.numpy()

    def update(self, learning_rate: float) -> None:
        """Take one optimizer step with the accumulated gradients, and clear them."""
        moving = [entry for entry in self._state if not entry.get("moves")]
        given = {entry["input"]: self._values[entry["name"]] for entry in (*self._parameters, *moving)}
        given |= {entry["gradient"]: self._value(self.gradient(entry["name"])) for entry in self._parameters}
        given |= self._hyperparameters(learning_rate)
        entries = [*self._parameters, *moving]
        new = self._run("update", [entry["output"] for entry in entries], given)
        self._put(dict(zip((entry["name"] for entry in entries), new, strict=True)))
        self._steps += 1
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Clear the accumulated gradients without a step."""
        self._gradients.clear()
        self._weight = 0

    def evaluate(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, np.ndarray]:
        """Run the forward pass only, and return loss and logits."""
        output_names = [self._names["loss"], self._names["logits"]]
        loss, logits = self._run("evaluation", output_names, self._given(feeds, labels))
        return _number(loss), logits.numpy()

    def _given(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
        entries = [*self._parameters, *(entry for entry in self._state if entry.get("moves"))]
        return self._fed(feeds, labels) | {entry["input"]: self._values[entry["name"]] for entry in entries}

    def _fed(self, feeds: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
        check_count(feeds, labels)
        if isinstance(feeds, Features):
            missing = [name for name, _ in self._boundary if name not in feeds]
            if missing:
                raise TrainingError(
                    f"the artifacts start from a value {missing[0]!r}, but what is fed has only {sorted(feeds)}. These "
                    "are features of other artifacts: compute them again."
                )
            values: Mapping[str, Any] = {name: feeds[name] for name, _ in self._boundary}
        else:
            values = self._before(feeds)
        given = {name: self._value(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}
        given[self._names["labels"]] = self._value(labels)
        return given

    def _hyperparameters(self, learning_rate: float) -> dict[str, Any]:
        value = self._ort.OrtValue.ortvalue_from_numpy
        return {
            self._names["learning_rate"]: value(np.array(learning_rate, np.float32)),
            self._names["step"]: value(np.array(self._steps + 1, np.int64)),
        }

    def _run(self, graph_name: str, output_names: list[str], given: dict[str, Any]) -> list[Any]:
        session = self._session(graph_name)
        with _naming_failures("computing features" if graph_name == "frozen" else "a training step"):
            return list(session.run_with_ort_values(output_names, given))

    def parameter_names(self) -> list[str]:
        """Names of all parameters; frozen ones are constants of the graphs."""
        return [str(entry["name"]) for entry in self._parameters]

    def parameter(self, name: str) -> np.ndarray:
        """A copy of the value of a parameter or state tensor, float32."""
        return np.array(self._values[name].numpy(), copy=True)

    def set_parameter(self, name: str, value: np.ndarray) -> None:
        """Set a parameter's value."""
        self._put({name: self._held(value)})

    def gradient(self, name: str) -> np.ndarray:
        """A copy of a parameter's accumulated gradient, float32 in its shape."""
        return np.asarray(self._gradients[name] / np.float32(self._weight or 1), np.float32)

    def add_gradient(self, name: str, more: np.ndarray) -> None:
        """Add the gradient of a term that is not in the graph to a parameter's accumulated gradient."""
        self._gradients[name] = self._gradients[name] + more.astype(np.float32) * np.float32(self._weight or 1)

    def property(self, name: str) -> str | None:
        """A property stored in the checkpoint, or None."""
        return self._properties.get(name)

    def set_property(self, name: str, value: str) -> None:
        """Store a property in the next saved checkpoint."""
        self._properties[name] = value

    def load(self, path: Path) -> None:
        """Restore a checkpoint: parameters, optimizer state, step number and properties.

        Raises:
            TrainingError: it cannot be read, or belongs to another training.
        """
        self.put_state(checkpoint.load(path, [*self._parameters, *self._state]))

    def state(self) -> checkpoint.TrainingState:
        """A copy of parameters, optimizer state, step number and properties."""
        tensors = {name: np.array(value.numpy(), copy=True) for name, value in self._values.items()}
        return checkpoint.TrainingState(tensors, self._steps, dict(self._properties))

    def put_state(self, state: checkpoint.TrainingState) -> None:
        """Restore a state.

        Args:
            state: a state with all parameters and all optimizer state.
        """
        entries = [*self._parameters, *self._state]
        self._put({entry["name"]: self._held(state.tensors[entry["name"]]) for entry in entries})
        self._steps, self._properties = state.step, dict(state.properties)
        self._moved.clear()
        self.forget_gradients()

    def save(self, path: Path) -> None:
        """Write a checkpoint with optimizer state and properties.

        Raises:
            OSError: the file cannot be written.
        """
        tensors = {name: value.numpy() for name, value in self._values.items()}
        checkpoint.save(path, checkpoint.TrainingState(tensors, self._steps, self._properties))


@contextlib.contextmanager
def _naming_failures(action: str) -> Iterator[None]:
    """Turn the runtime's exceptions into a TrainingError that names what failed."""
    try:
        yield
    except AdabetError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise TrainingError(f"{action} failed: {runtime.first_line(error)}") from error


def _number(loss: Any) -> float:
    return float(np.asarray(loss.numpy()).reshape(-1)[0])
