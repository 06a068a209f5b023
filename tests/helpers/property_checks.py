"""What must hold for a random graph: opened, trained for a step and exported, or rejected with a message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch_oracle
from hypothesis import strategies as st
from models import tiny
from models.random_graphs import BATCH, Drawn
from reference_step import stepped, with_copies
from uncut import Uncut, assert_equal_training

from adabet_onnx import AdabetError, export_model, make_artifacts, open_model, score, select
from adabet_onnx.model.open import Model
from adabet_onnx.portable.rules.registry import differentiable_operators
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.selection.record import Selection
from adabet_onnx.trainability.choices import Choices
from adabet_onnx.training.history import LAST, PROPERTY
from adabet_onnx.training.samples import sample_feeds, sample_labels
from adabet_onnx.training.selfcheck import check

STRATEGIES = ("subset", "subset", "all", "last", "random", "adabet")
PARAMETER, OUTPUT = 2e-4, 2e-4  # relative differences that pass
_LEAST = 1e-3  # gradients below this are zero except for rounding
_ROUNDING = 5.0  # also passes: this multiple of torch's error in float32
_NO_GRADIENT_NEEDED = {"Constant", "Shape", "Dropout", "Identity"}  # folded or removed on opening


@dataclass(frozen=True)
class Plan:
    """What to do with a graph.

    Attributes:
        strategy: one of STRATEGIES.
        seed: of the subset, of data and labels.
        backend: portable or ort.
        checked: whether the artifacts' own check runs.
    """

    strategy: str
    seed: int
    backend: str = "portable"
    checked: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome for a graph.

    Attributes:
        rejected: the message, if it was.
        parameters: how many tensors were trained and compared.
        parameter: largest difference from the reference step, relative to the largest change of that parameter.
        output: largest difference of the exported model's outputs from the reference's.
    """

    rejected: str | None = None
    parameters: int = 0
    parameter: float = 0.0
    output: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the outcome is correct."""
        return self.rejected is not None or (self.parameter <= PARAMETER and self.output <= OUTPUT)


def has_rules(drawn: Drawn) -> bool:
    """Whether all operators of the graph have gradient rules."""
    return drawn.operators <= {*differentiable_operators(), *_NO_GRADIENT_NEEDED}


def run_one(drawn: Drawn, plan: Plan, folder: Path) -> Outcome:
    """Take a graph from opening to export and compare it with the reference.

    Args:
        drawn: the graph.
        plan: what to do.
        folder: empty.

    Returns:
        What became of it.

    Raises:
        Exception: anything but an AdabetError is a fault.
        AssertionError: the check rejected a correct gradient, or the reference does not know a trained tensor.
    """
    rng = np.random.default_rng(plan.seed)
    shape = [d.dim_value for d in drawn.proto.graph.input[0].type.tensor_type.shape.dim][1:]
    try:
        model = open_model(drawn.proto)
        selection = _selection(model, plan, rng.standard_normal((32, *shape)).astype(np.float32))
        made = make_artifacts(
            model,
            selection,
            folder / "a",
            backend=plan.backend,
            loss=drawn.loss,
            choices=Choices(optimizer="sgd"),
            check=False,
        )
    except AdabetError as error:
        return Outcome(rejected=f"{type(error).__name__}: {error}")
    feeds = {"input": rng.standard_normal((BATCH, *shape)).astype(np.float32)}
    session = made.session(made.initial, threads=1)
    logits = torch_oracle.execute(drawn.proto, _tensors(drawn.proto, feeds))[drawn.logits].numpy()
    labels = sample_labels(made, logits.astype(np.float32), plan.seed)
    if plan.checked:
        check(made)
    rate = _rate(made, feeds, labels)
    session.step(feeds, labels, rate)
    stored = made.session(made.initial, threads=1)
    before = {name: stored.parameter(name).astype(np.float64) for name in made.parameters}
    after = {name: session.parameter(name).astype(np.float64) for name in made.parameters}
    session.set_property(PROPERTY, "{}")
    (made.folder / LAST).parent.mkdir()
    session.save(made.folder / LAST)
    export_model(made.folder, folder / "adapted.onnx")
    fresh = {"input": rng.standard_normal((BATCH, *shape)).astype(np.float32)}
    exported = tiny.run(onnx.load(folder / "adapted.onnx"), fresh["input"])

    def by_torch(dtype: torch.dtype) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Parameters' gradients, and the outputs after the step."""
        reference, gradients = stepped(
            with_copies(drawn.proto, drawn.whole),
            feeds,
            labels,
            made.parameters,
            loss=drawn.loss,
            logits=drawn.logits,
            rate=rate,
            class_axis=logits.ndim - 1,
            dtype=dtype,
        )
        values = torch_oracle.execute(reference, _tensors(reference, fresh, dtype), dtype)
        return gradients, values[drawn.proto.graph.output[0].name].numpy().astype(np.float64)

    gradients, expected = by_torch(torch.float64)
    steps = {name: before[name] - after[name] for name in before}
    rounding = {name: 1e-6 * float(np.abs(after[name]).max()) for name in before}
    error = _furthest(steps, gradients, rate, rounding)
    output = tiny.difference(exported, expected)
    if error > PARAMETER or output > OUTPUT:  # float32's own rounding does not count
        rough, rounded = by_torch(torch.float32)
        error -= _ROUNDING * _furthest({name: rate * g for name, g in rough.items()}, gradients, rate, rounding)
        output -= _ROUNDING * tiny.difference(rounded, expected)
    return Outcome(None, len(gradients), error, output)


def train_from_features(drawn: Drawn, start: float, folder: Path) -> None:
    """Train the layers from a place between the first (0) and the last (1) with and without the cut.

    Raises:
        AssertionError: a bit differs.
    """
    try:
        model = open_model(drawn.proto)
        late = model.layers[min(int(start * len(model.layers)), len(model.layers) - 1) :]
        names = dict.fromkeys(parameter.name for layer in late for parameter in layer.parameters)
        selection = Selection(model.sha256, "layers", tuple(layer.name for layer in late), tuple(names))
        choices = Choices(loss=drawn.loss)
        made = make_artifacts(model, selection, folder / "a", backend="portable", choices=choices, check=False)
    except AdabetError:  # another test checks what may be rejected
        return
    assert_equal_training(Uncut(model, selection, choices), made, sample_feeds(made, BATCH), steps=3, alone=False)


def _furthest(
    steps: dict[str, np.ndarray], gradients: dict[str, np.ndarray], rate: float, rounding: dict[str, float]
) -> float:
    """How far any step is from rate times gradient, relative to the parameter's largest change."""
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    worst = 0.0
    for name, gradient in gradients.items():
        apart = float(np.abs(steps[name].astype(np.float64) - rate * gradient).max())
        if not np.isfinite(apart):
            return float("inf")
        change = rate * max(float(np.abs(gradient).max()), 1e-3 * largest, _LEAST)
        worst = max(worst, (apart - rounding[name]) / change)
    return worst


def _selection(model: Model, plan: Plan, data: np.ndarray) -> Selection:
    if plan.strategy not in ("subset", "all"):
        scores = score(model, data, threads=1, scoring=Scoring(samples=32, subset_size=16, subsets=2))
        return select(scores, strategy=plan.strategy, rho=0.5, seed=plan.seed)
    rng = np.random.default_rng([plan.seed, 1])
    keep = [layer for layer in model.layers if plan.strategy == "all" or rng.random() < 0.5]
    keep = keep or [model.layers[int(rng.integers(len(model.layers)))]]
    names = dict.fromkeys(parameter.name for layer in keep for parameter in layer.parameters)
    return Selection(model.sha256, plan.strategy, tuple(layer.name for layer in keep), tuple(names))


def _rate(made, feeds, labels) -> float:
    """A step that changes the largest component of the gradient by about 0.05."""
    session = made.session(made.initial, threads=1)
    session.gradients(feeds, labels)
    largest = max(float(np.abs(session.gradient(name)).max()) for name in made.parameters)
    return 0.05 / max(largest, 1e-3)  # one that is zero but for rounding stays so


def _tensors(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer} | feeds
    made = {name: torch.from_numpy(np.array(value)) for name, value in values.items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in made.items()}


@st.composite
def plans(draw, backends):
    return Plan(
        draw(st.sampled_from(STRATEGIES)),
        draw(st.integers(0, 10**6)),
        draw(st.sampled_from(backends)),
        draw(st.sampled_from([True, *[False] * 9])),
    )
