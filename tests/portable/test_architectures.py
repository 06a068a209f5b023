"""Gradients and training steps of real architectures, as PyTorch exports them, against torch autograd on the module.

Only the names of the weights are taken from the ONNX graph: torch differentiates the exported module, in float64.
Running statistics are the stored ones (`eval`) in both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from uncut import Uncut, assert_equal_training

from adabet_onnx import Choices, make_artifacts, open_model, select
from adabet_onnx.cost.graphs import selection_with
from adabet_onnx.scoring.record import LayerScore, Scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

TOLERANCE = 1e-4
NEGLIGIBLE = 1e-6  # relative to the largest gradient: that of an attention's key bias is only rounding
SELECTIONS = ("all", "spread", "first", "head")
BATCH = 4
ARCHITECTURES = (
    "audio",
    "bert",
    "bert_indexed",
    "bert_masked",
    "convnext",
    "densenet",
    "efficientnet",
    "inception",
    "mobilenetv1",
    "mobilenetv2",
    "mobilenetv3",
    "resnet18",
    "shufflenetv2",
    "squeezenet",
    "unet_resize",
    "unet_transpose",
    "vgg",
    "vit_explicit",
    "vit_tiny",
)
DYNAMO = ("bert_indexed", "bert_masked", "convnext", "mobilenetv2", "resnet18", "vit_tiny")
NEWER = (("unet_resize", 18), ("mobilenetv3", 20), ("vit_explicit", 20))
EXPORTS = [
    *((name, "torchscript", 17) for name in ARCHITECTURES),
    *((name, "torchscript", opset) for name, opset in NEWER),
    *((name, "dynamo", 18) for name in DYNAMO),
]


@dataclass(frozen=True)
class Case:
    """An exported architecture.

    Attributes:
        name: of the architecture.
        model: opened.
        reference: the module in float64.
        weights: by name of an ONNX parameter: name of the module's, and whether it is transposed.
    """

    name: str
    model: Any
    reference: Any
    weights: dict[str, tuple[str, bool]]

    def parameter(self, name: str, module: Any = None) -> Any:
        """The module's parameter behind one of the graph's."""
        original, turned = self.weights[name]
        found = dict((module or self.reference).named_parameters())[original]
        return found.T if turned else found


@pytest.fixture(autouse=True)
def one_thread(torch_oracle):
    """Use one torch thread: for such small tensors, threads wait longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def case(name: str, exporter: str = "torchscript", opset: int = 17) -> Case:
    from models import architectures

    proto = onnx.load_from_string(architectures.export(name, exporter=exporter, opset=opset))
    model = open_model(proto)
    reference = architectures.module(name)[0]
    reference = (architectures.folded(reference) if exporter == "dynamo" else reference).double()
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    wanted = [parameter.name for layer in model.layers for parameter in layer.parameters]
    originals = {key: value.detach().numpy() for key, value in reference.named_parameters()}
    weights = {key: _origin(key, values[key], originals) for key in wanted}
    assert originals.keys() - {original for original, _ in weights.values()} <= {"token"}  # which is no layer
    return Case(name, model, reference, weights)


def _origin(name: str, value: np.ndarray, originals: dict[str, np.ndarray]) -> tuple[str, bool]:
    """The module's parameter of this name, or where an exporter gave it another one, of this value."""
    candidates = [name] if name in originals else list(originals)
    found = [
        (key, turned)
        for key in candidates
        for turned, original in ((False, originals[key]), (True, originals[key].T))
        if original.shape == value.shape and np.allclose(original, value, rtol=1e-5, atol=1e-6)
    ]
    assert found, f"{name} {value.shape} is no parameter of the module"
    return found[0]


def chosen(model: Any, what: str) -> Any:
    """A selection; scores are not needed for these."""
    layers = tuple(
        LayerScore(
            layer.name, layer.op_type, tuple(p.name for p in layer.parameters), 1, 1, False, (0,), 0.0, 0.0, 0.0, 1
        )
        for layer in model.layers
    )
    scores = Scores(model.sha256, "subsets", 2, ((0, 1),), layers, head=model.head.name)
    if what == "spread":
        return select(scores, layers=[layer.name for layer in layers[::10]])
    return select(scores, strategy=what, rho=1e-6)


@cache
def expected(name: str, exporter: str, opset: int, seed: int) -> tuple[Any, Any, float, dict[str, np.ndarray]]:
    """Feeds, labels, and torch's loss and gradients of all parameters by their names in the graph."""
    import torch
    from models import architectures

    made = case(name, exporter, opset)
    feeds = architectures.feeds(name, batch=BATCH, seed=seed)
    with torch.no_grad():
        logits = forward(made.reference, feeds)
    labels = np.random.default_rng(seed).integers(0, logits.shape[1], (BATCH, *logits.shape[2:]))
    loss = torch.nn.functional.cross_entropy(forward(made.reference, feeds), torch.from_numpy(labels))
    parameters = dict(made.reference.named_parameters())
    found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    gradients = {key: (found[at].T if turned else found[at]).numpy() for key, (at, turned) in made.weights.items()}
    return feeds, labels, loss.item(), gradients


def forward(module: Any, feeds: dict[str, np.ndarray]) -> Any:
    """Logits in float64."""
    import torch

    tensors = [torch.from_numpy(value) for value in feeds.values()]
    return module(*(t.double() if t.is_floating_point() else t for t in tensors))


def errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference relative to the parameter's largest gradient, for all parameters that matter."""
    largest = {name: float(np.abs(value).max()) for name, value in expected.items()}
    floor = NEGLIGIBLE * max(largest.values())
    return {
        name: float(np.abs(value - expected[name]).max()) / largest[name]
        for name, value in found.items()
        if largest[name] > floor
    }


@pytest.mark.parametrize(("name", "exporter", "opset"), EXPORTS)
def test_gradients_equal_torch_and_only_selected_parameters_change(name, exporter, opset, tmp_path, torch_oracle):
    made = case(name, exporter, opset)
    for what in SELECTIONS:
        check(made, what, exporter, opset, tmp_path / what)


def check(made: Case, what: str, exporter: str, opset: int, folder: Any) -> float:
    """Gradients, loss and one step of plain gradient descent; gives the largest error of a gradient.

    A Relu or pooling may take another branch than in float64 for an unlucky input: up to three are tried.
    """
    import torch

    selection = chosen(made.model, what)
    manifest = make_artifacts(
        made.model, selection, folder, backend="portable", choices=Choices(optimizer="sgd"), check=False
    )
    assert set(manifest.parameters) == set(selection.parameters)
    session = manifest.session(manifest.initial, threads=1)
    for seed in range(3):
        feeds, labels, loss, gradients = expected(made.name, exporter, opset, seed)
        session.forget_gradients()
        ours, logits = session.gradients(feeds, labels)
        assert ours == pytest.approx(loss, rel=1e-5)
        found = {key: session.gradient(key) for key in manifest.parameters}
        wrong = errors(found, gradients)
        if max(wrong.values()) <= TOLERANCE:
            break
    else:
        pytest.fail(f"{what}: gradients differ from torch's: {sorted(wrong.items(), key=lambda e: -e[1])[:5]}")
    before = {key: session.parameter(key) for key in session.parameter_names()}
    assert set(before) == set(manifest.parameters)
    session.update(0.01)
    for key, value in before.items():
        np.testing.assert_allclose(session.parameter(key), value - 0.01 * found[key], rtol=1e-5, atol=1e-6)
    # The module with the trained values in it gives the trained logits: nothing else has moved.
    trained = copy.deepcopy(made.reference)
    with torch.no_grad():
        for key in before:
            made.parameter(key, trained).copy_(torch.from_numpy(session.parameter(key)))
        theirs = forward(trained, feeds).numpy()
    after = session.evaluate(feeds, labels)[1]
    assert np.abs(after - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert not np.array_equal(after, logits)
    return max(wrong.values())


class RuntimeAdamW:
    """Of onnxruntime-training, which adds epsilon (1e-6) before the bias correction; torch does after it."""

    def __init__(self, parameters: Sequence[Any], lr: float, weight_decay: float) -> None:
        assert weight_decay == 0
        self.rate, self.step_number = lr, 0
        self.moments = [(p, p.detach() * 0, p.detach() * 0) for p in parameters]

    def zero_grad(self) -> None:
        for parameter, _, _ in self.moments:
            parameter.grad = None

    def step(self) -> None:
        self.step_number += 1
        rate = self.rate * (1 - 0.999**self.step_number) ** 0.5 / (1 - 0.9**self.step_number)
        for parameter, mean, square in self.moments:
            mean.lerp_(parameter.grad, 0.1)
            square.lerp_(parameter.grad**2, 0.001)
            parameter.data -= rate * mean / (square.sqrt() + 1e-6)


@pytest.mark.parametrize(
    ("name", "exporter", "opset"),
    [("resnet18", "torchscript", 17), ("mobilenetv2", "torchscript", 17), ("bert_masked", "dynamo", 18)],
)
@pytest.mark.parametrize(
    ("backend", "optimizer"),
    [("portable", "sgd"), ("portable", "adamw"), ("portable", "adamw-torch"), ("ort", "sgd"), ("ort", "adamw")],
)
def test_ten_steps_equal_torch(name, exporter, opset, backend, optimizer, tmp_path, torch_oracle, request):
    import torch
    from models import architectures

    if backend == "ort":
        request.getfixturevalue("training")
    made = case(name, exporter, opset)
    manifest = make_artifacts(
        made.model,
        chosen(made.model, "all"),
        tmp_path / "a",
        backend=backend,
        choices=Choices(optimizer=optimizer),
        check=False,
    )
    kind, rate = {
        "sgd": (torch.optim.SGD, 1e-2),
        "adamw": (RuntimeAdamW, 1e-3),
        "adamw-torch": (torch.optim.AdamW, 1e-3),
    }[optimizer]
    for series in range(3):  # a Relu may open for one input in ten (see `check`), and AdamW does not forget it
        session = manifest.session(manifest.initial, threads=1)
        trained = copy.deepcopy(made.reference)
        originals = dict(trained.named_parameters())
        parameters = [originals[made.weights[key][0]] for key in manifest.parameters]
        stepper = kind(parameters, lr=rate, weight_decay=0.0)
        ours, theirs = [], []
        for seed in range(10 * series, 10 * series + 10):
            feeds = architectures.feeds(name, batch=BATCH, seed=seed)
            labels = np.random.default_rng(seed).integers(0, 5, BATCH)
            ours.append(session.step(feeds, labels, rate)[0])
            loss = torch.nn.functional.cross_entropy(forward(trained, feeds), torch.from_numpy(labels))
            theirs.append(loss.item())
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        if np.allclose(ours, theirs, rtol=1e-4, atol=0):
            return
    pytest.fail(f"losses are {ours}, torch's {theirs}")


@pytest.mark.parametrize(("name", "exporter", "opset"), EXPORTS)
@pytest.mark.parametrize("what", ["last third", "spread", "head"])
def test_twenty_steps_from_features_equal_those_of_the_uncut_graph(name, exporter, opset, what, tmp_path):
    from models import architectures

    model = case(name, exporter, opset).model
    if what == "last third":
        names = [layer.name for layer in model.layers]
        parameters = [parameter.name for layer in model.layers for parameter in layer.parameters]
        late = names[-max(1, len(names) // 3) :]
        owned = {parameter.name for layer in model.layers if layer.name in late for parameter in layer.parameters}
        selection = selection_with(model, [key for key in parameters if key in owned], late)
    else:
        selection = chosen(model, what)
    manifest = make_artifacts(model, selection, tmp_path / "a", backend="portable", check=False)
    assert_equal_training(Uncut(model, selection), manifest, architectures.feeds(name, batch=BATCH, seed=0))
    if what != "spread":  # which begins with the first layer
        assert all(entry["input"] is None for entry in manifest.content["boundary"] if entry["dtype"] == "float32")


@pytest.mark.parametrize("name", ["bert", "bert_masked", "bert_indexed"])
@pytest.mark.parametrize(
    ("exporter", "opset", "optimize"), [("torchscript", 17, 0), ("dynamo", 18, 0), ("dynamo", 18, 1)]
)
def test_the_frozen_part_of_a_bert_reaches_its_head(name, exporter, opset, optimize, tmp_path):
    """With any mask: a step of the head alone reads the pooled state, and does nothing else."""
    from models import architectures

    data = architectures.export(name, exporter=exporter, opset=opset, optimize=bool(optimize))
    model = open_model(onnx.load_from_string(data))
    manifest = make_artifacts(model, chosen(model, "head"), tmp_path / "a", backend="portable", check=False)
    assert [entry["shape"] for entry in manifest.content["boundary"]] == [["N", 16]]
    assert manifest.stored_bytes == 4 * 16
    step = onnx.load(tmp_path / "a" / "step.onnx", load_external_data=False)
    assert "Softmax" not in {node.op_type for node in step.graph.node}
    assert sum(node.op_type in ("Gemm", "MatMul") for node in step.graph.node) <= 2
    assert len(step.graph.node) < 80
    assert manifest.notes == []
