"""Initial states stored for one batch size work for any: zeros are removed, a state for all samples is expanded."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
from models import stored_states
from models.recurrent import as_onnx
from models.stored_states import INPUTS, STEPS, recurrent
from models.tiny import normal, run

from adabet_onnx import Choices, ModelError, check_model, make_artifacts, open_model
from adabet_onnx.selection.record import Selection

pytestmark = pytest.mark.usefixtures("checked_here")
X = normal(6, STEPS, INPUTS, scale=1.0)
CASES = [
    (op_type, kind, directions, batch)
    for op_type in ("LSTM", "GRU", "RNN")
    for kind in ("zeros", "one")
    for directions, batch in ((1, 1), (2, 1), (2, 3))
]


def cells(model) -> list:
    return [node for node in model.graph.graph if node.op_type in stored_states.GATES]


def apart(proto, batch) -> np.ndarray:
    """The outputs of the file itself, run by run."""
    return np.concatenate([run(proto, X[start : start + batch]) for start in range(0, len(X), batch)])


@pytest.mark.parametrize(("op_type", "kind", "directions", "batch"), CASES)
def test_any_batch_gives_what_separate_runs_give(op_type, kind, directions, batch):
    proto = recurrent(op_type, kind, directions=directions, batch=batch)
    model = open_model(proto)
    wanted = apart(proto, batch)
    np.testing.assert_array_equal(run(model.proto(), X[:batch]), wanted[:batch])
    np.testing.assert_allclose(run(model.proto(), X), wanted, rtol=1e-5, atol=1e-6)
    given = [value for value in cells(model)[0].inputs[5:] if value is not None]
    assert len(given) == (0 if kind == "zeros" else len(stored_states.STATES[op_type]))
    told = "of zeros" if kind == "zeros" else "was expanded to the batch"
    assert any(told in note and "'/cell'" in note for note in model.notes)
    assert all(layer.portable.trainable for layer in check_model(model).layers)


@pytest.mark.parametrize(("kind", "made"), [("zeros", "filled"), ("zeros", "expanded"), ("one", "expanded")])
@pytest.mark.parametrize("opset", [12, 21])
def test_states_made_from_constants_by_a_node_count_too(kind, made, opset):
    proto = recurrent("LSTM", kind, made=made, opset=opset, directions=2)
    np.testing.assert_allclose(run(open_model(proto).proto(), X), apart(proto, 1), rtol=1e-5, atol=1e-6)


def test_a_state_for_one_sample_is_expanded_where_the_batch_is_open_already():
    """Such a file runs only with a batch of 1, whatever its input declares."""
    proto = recurrent("GRU", "one", extent="N")
    np.testing.assert_allclose(run(open_model(proto).proto(), X), apart(proto, 1), rtol=1e-5, atol=1e-6)


def test_a_state_that_differs_between_samples_is_refused_by_name():
    match = r"node '/cell' \(LSTM\) has a stored initial_h of shape \[1, 3, 6\] that differs between its 3 samples"
    with pytest.raises(ModelError, match=match + ".*Make the state an input, or the same for all samples"):
        open_model(recurrent("LSTM", "many", batch=3))
    same = recurrent("LSTM", "one", batch=3)  # what the message says to do
    np.testing.assert_allclose(run(open_model(same).proto(), X), apart(same, 3), rtol=1e-5, atol=1e-6)


def test_lengths_that_say_all_steps_go_and_others_do_not():
    proto = recurrent("GRU", "zeros", lengths=STEPS)
    model = open_model(proto)
    assert not any(cells(model)[0].inputs[4:])
    np.testing.assert_allclose(run(model.proto(), X), apart(proto, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="batch"):
        open_model(recurrent("GRU", "zeros", lengths=STEPS - 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("stored", ["zeros", "one"])
def test_gradients_equal_torch(kind, stored, tmp_path, torch_oracle):
    """A batch of 4 through a file that was exported with one sample, against torch's own gradients."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = getattr(torch.nn, kind)(INPUTS, 8, batch_first=True, bidirectional=True)
            self.fc = torch.nn.Linear(16, 3)
            for name in ("h", "c"):
                start = torch.randn(2, 1, 8) if stored == "one" else torch.zeros(2, 1, 8)
                self.register_buffer(name, start)

        def forward(self, x):
            h, c = (start.expand(-1, x.shape[0], -1).contiguous() for start in (self.h, self.c))
            return self.fc(self.body(x, (h, c) if kind == "LSTM" else h)[0][:, -2])

    net, file = Net().eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated, and quicker
        torch.onnx.export(net, (torch.from_numpy(X[:1]),), file, dynamo=False, input_names=["input"])
    model = open_model(onnx.load_from_string(file.getvalue()))
    selection = Selection(
        model.sha256,
        "all",
        tuple(layer.name for layer in model.layers),
        tuple(parameter.name for layer in model.layers for parameter in layer.parameters),
    )
    made = make_artifacts(model, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd"))
    session = made.session(made.initial, threads=1)
    labels = np.array([0, 2, 1, 2])
    _, logits = session.gradients({"input": X[:4]}, labels)

    net = net.double()
    wanted = net(torch.from_numpy(X[:4]).double())
    torch.nn.functional.cross_entropy(wanted, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(logits, wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
    expected = as_onnx(kind, {name: value.grad.numpy() for name, value in net.named_parameters()}, 0)
    for parameter in model.layers[0].parameters:
        found = session.gradient(parameter.name)
        np.testing.assert_allclose(found, expected[parameter.position], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_zeros_expanded_by_the_shape_of_the_data_are_dropped(op_type):
    """As torch writes them for a fixed batch of several samples: stored for these, and expanded once more."""
    proto = recurrent(op_type, "zeros", batch=2, opset=17)
    graph, cell = proto.graph, next(node for node in proto.graph.node if node.op_type == op_type)
    before = list(graph.node).index(cell)
    made = [
        onnx.helper.make_node("Shape", ["x"], ["all"]),
        onnx.helper.make_node("Gather", ["all", "one"], ["batch"]),
        onnx.helper.make_node("Concat", ["one", "batch", "units"], ["extents"], axis=0),
    ]
    for name in stored_states.STATES[op_type]:
        made.append(onnx.helper.make_node("Expand", [name, "extents"], [f"{name}.expanded"]))
    for offset, each in enumerate(made):
        graph.node.insert(before + offset, each)
    for position, name in enumerate(stored_states.STATES[op_type], 5):
        cell.input[position] = f"{name}.expanded"
    for name, number in (("one", 1), ("units", stored_states.UNITS)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([number]), name))
    model = open_model(proto)
    assert all(value is None for value in cells(model)[0].inputs[5:])
    np.testing.assert_allclose(run(model.proto(), X), apart(proto, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_layers_of_opset_12_train(op_type, tmp_path):
    """The rules write the forms of opset 13: the graph is converted to 17 first, which the check allows for."""
    proto = recurrent(op_type, "zeros", opset=12, extent="N")
    axis = next(node for node in proto.graph.node if node.op_type == "Transpose" and node.output[0] == "z")
    axis.output[0] = "before"
    after = onnx.helper.make_node("Softmax", ["before"], ["z"], name="/softmax", axis=1)  # of all axes from 1 on
    proto.graph.node.insert(list(proto.graph.node).index(axis) + 1, after)
    model = open_model(proto)
    assert all(layer.portable.trainable for layer in check_model(model).layers)
    chosen = tuple(parameter.name for layer in model.layers for parameter in layer.parameters)
    selection = Selection(model.sha256, "all", tuple(layer.name for layer in model.layers), chosen)
    made = make_artifacts(
        model, selection, tmp_path / "a", backend="portable", choices=Choices(optimizer="sgd")
    )  # checks gradients
    assert made.content["opset"] == 17
