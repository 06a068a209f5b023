"""Costs: the arena, counts, predictions, and the command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from models import tiny
from onnx import helper

from adabet_onnx import RecordError, UsageError, open_model
from adabet_onnx.cli.main import cli, main
from adabet_onnx.cost.arena import Arena
from adabet_onnx.cost.graphs import selection_with
from adabet_onnx.cost.multiply_adds import multiply_adds
from adabet_onnx.cost.overview import overview
from adabet_onnx.cost.predict import Predictor
from adabet_onnx.cost.run import SimulatedRun
from adabet_onnx.cost.value_sizes import ValueSizes

pytestmark = pytest.mark.slow

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small convolutional network in a file, with its model."""
    path = tmp_path_factory.mktemp("cost") / "net.onnx"
    path.write_bytes(tiny.conv_net().SerializeToString())
    return path, open_model(path)


def test_regions_grow_by_powers_of_two():
    arena = Arena()
    for size, reserved in ((100, 1), (MEGABYTE, 3), (3 * MEGABYTE, 7), (5 * MEGABYTE, 15)):
        arena.allocate(size)
        assert arena.reserved == reserved * MEGABYTE, size


def test_a_piece_is_cut_only_if_it_is_twice_as_large():
    arena = Arena()
    first = arena.allocate(600 * 1024)
    assert first.size == MEGABYTE  # less than twice: all of it
    arena.free(first)
    second, third = arena.allocate(300 * 1024), arena.allocate(400 * 1024)
    assert (second.size, third.size) == (300 * 1024, MEGABYTE - 300 * 1024)
    assert arena.reserved == MEGABYTE


def test_free_neighbours_become_one_piece():
    arena = Arena()
    pieces = [arena.allocate(256 * 1024) for _ in range(4)]
    for piece in (pieces[0], pieces[2], pieces[1], pieces[3]):
        arena.free(piece)
    assert arena.allocate(MEGABYTE).size == MEGABYTE
    assert arena.reserved == MEGABYTE


def test_the_smallest_piece_that_is_large_enough_is_taken():
    arena = Arena()
    large, _, small, _ = (arena.allocate(size * 1024) for size in (300, 100, 150, 400))
    arena.free(large)
    arena.free(small)
    assert arena.allocate(140 * 1024).start == 400 * 1024


def test_only_pages_written_to_are_resident():
    arena = Arena()
    arena.free(arena.allocate(10 * 4096))
    table = arena.reserved // 256 * 8
    assert arena.resident == 10 * 4096 + table
    arena.allocate(5 * 4096)  # in the same place
    assert arena.resident == 10 * 4096 + table


def chain(*sizes: int) -> ir.Graph:
    """Softmax after Softmax, none of which may write over its input."""
    names = ["x", *(f"v{i}" for i in range(len(sizes)))]
    nodes = [helper.make_node("Softmax", [a], [b]) for a, b in pairwise(names)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("x", 1, [sizes[0]])],
        [value(names[-1], 1, [sizes[-1]])],
        value_info=[value(name, 1, [size]) for name, size in zip(names[1:-1], sizes, strict=False)],
    )
    return ir.from_proto(helper.make_model(graph)).graph


def resident(graph: ir.Graph, *, frugal: bool, runs: int = 2) -> int:
    """Resident bytes without the arena's tables."""
    sizes = ValueSizes(graph, {}, 1)
    run = SimulatedRun(graph, list(graph), sizes.size, sizes.shape, frugal=frugal)
    for _ in range(runs):
        run.step()
    return run.arena.resident - run.arena.reserved // 256 * 8


def test_a_chain_needs_two_values_at_once():
    page = 1024  # floats
    assert resident(chain(*[16 * page] * 6), frugal=False) == 3 * 16 * 4096  # two in a block, and the output
    # Each value reuses the memory of the one before the last; the second run's output is allocated before the first's
    # is freed.
    assert resident(chain(*[16 * page] * 6), frugal=True, runs=1) == 2 * 16 * 4096
    assert resident(chain(*[16 * page] * 6), frugal=True) == 3 * 16 * 4096


def test_an_elementwise_result_lies_over_its_input_where_memory_may_be_reused():
    graph = chain(*[16 * 1024] * 5)
    for node in list(graph)[1:-1]:
        node.op_type = "Relu"
    assert resident(graph, frugal=False) == 2 * 16 * 4096  # one block, and the output
    assert resident(graph, frugal=True, runs=1) == resident(chain(*[16 * 1024] * 5), frugal=True, runs=1)


NODES = {
    "Conv": (helper.make_node("Conv", ["x", "w"], ["y"]), (2, 6, 10, 10), (8, 3, 3, 3), (2, 8, 8, 8), 2 * 8 * 64 * 27),
    "ConvTranspose": (
        helper.make_node("ConvTranspose", ["x", "w"], ["y"]),
        (2, 6, 4, 4),
        (6, 5, 3, 3),
        (2, 5, 6, 6),
        2 * 6 * 16 * 45,
    ),
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (7, 5), (3, 5), (7, 3), 7 * 5 * 3),
    "Gemm transposed": (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), (5, 7), (5, 3), (7, 3), 7 * 5 * 3),
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 7, 5), (5, 3), (2, 7, 3), 2 * 7 * 5 * 3),
    "Einsum": (
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bik,bjk->bij"),
        (2, 7, 5),
        (2, 3, 5),
        (2, 7, 3),
        2 * 7 * 5 * 3,
    ),
    "LSTM": (
        helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4),
        (6, 2, 3),
        (1, 16, 3),
        (6, 1, 2, 4),
        6 * 2 * 16 * (3 + 4),
    ),
    "Relu": (helper.make_node("Relu", ["x"], ["y"]), (7, 5), (1,), (7, 5), 0),
}


@pytest.mark.parametrize("name", NODES)
def test_multiply_adds_of_a_node(name):
    node, data, weight, result, expected = NODES[name]
    shapes = {"x": data, "w": weight, "y": result}
    graph = ir.from_proto(helper.make_model(helper.make_graph([node], "g", [], [])))
    found = multiply_adds(graph.graph, lambda value: None if value is None else shapes.get(value.name or ""))
    assert found == expected


def test_costs_of_an_mlp_by_hand():
    """Products of 10 to 16 to 3: training all needs the weight gradients of both and the data gradient of the second.

    The gradient of the scale of the LayerNormalization between them is also a product, of the batch with 16 columns.
    """
    model = open_model(tiny.mlp())
    found = Predictor(model, batch_size=4, backend="portable").everything()
    forward = 4 * (10 * 16 + 16 * 3)
    assert found.forward_multiply_adds == forward
    assert found.step_multiply_adds == 2 * forward + 4 * 16 * 3 + 4 * 16
    assert found.update_bytes == 4 * model.parameter_count
    assert found.state_bytes == 2 * found.update_bytes
    assert found.saved_bytes >= 4 * 4 * (10 + 16)  # both inputs


def test_less_is_trained_less_is_predicted(net):
    _, model = net
    predictor = Predictor(model, batch_size=64, backend="portable")
    head = predictor.training([parameter.name for parameter in model.head.parameters])
    everything, inference = predictor.everything(), predictor.inference()
    assert inference.memory_bytes < everything.memory_bytes
    assert head.memory_bytes < everything.memory_bytes
    assert head.saved_bytes < everything.saved_bytes
    assert inference.update_bytes == inference.saved_bytes == inference.state_bytes == 0
    forward = head.frozen_multiply_adds + head.forward_multiply_adds
    assert forward == everything.forward_multiply_adds == inference.step_multiply_adds
    assert everything.frozen_multiply_adds == everything.frozen_bytes == everything.stored_bytes == 0
    assert head.work_ratio(everything) < inference.work_ratio(everything) < 1


def test_predictions_repeat(net):
    _, model = net
    first, second = (Predictor(model, batch_size=8, backend="portable") for _ in range(2))
    assert first.everything() == second.everything() == first.everything()


def test_a_shared_parameter_is_predicted_in_the_layers_named(net):
    _, model = net
    names = [parameter.name for parameter in model.head.parameters]
    assert selection_with(model, names).layers == (model.head.name,)
    predictor = Predictor(model, batch_size=8)
    assert predictor.training(names, [model.head.name]) == predictor.training(names)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(net, batch_size):
    with pytest.raises(UsageError, match="at least 1"):
        Predictor(net[1], batch_size=batch_size)


def test_unknown_and_missing_parameters_are_refused(net):
    predictor = Predictor(net[1], batch_size=1)
    with pytest.raises(UsageError, match="'nothing'"):
        predictor.training(["nothing"])
    with pytest.raises(UsageError, match="at least one layer"):
        predictor.training([])


def test_a_selection_of_another_model_is_refused(net):
    other = open_model(tiny.mlp())
    selection = selection_with(other, [parameter.name for parameter in other.head.parameters])
    with pytest.raises(RecordError, match="another model"):
        overview(net[1], selection, batch_size=1)


def test_a_measurement_keeps_to_the_margin(net):
    """For inference, the head and all layers, each in a new process."""
    _, model = net
    head = selection_with(model, [parameter.name for parameter in model.head.parameters])
    for name, row in overview(model, head, batch_size=256, measure=True, threads=1).rows().items():
        predicted, measured = row.prediction, row.measured_bytes
        assert measured is not None
        assert measured <= predicted.memory_bytes + predicted.margin_bytes, name
        assert abs(row.difference) < 0.5, name


def test_the_ort_backend(net, training):
    _, model = net
    row = overview(model, batch_size=64, backend="ort", measure=True, threads=1).rows()["all"]
    assert row.measured_bytes <= row.prediction.memory_bytes + row.prediction.margin_bytes
    assert row.prediction.step_multiply_adds > 2 * row.prediction.forward_multiply_adds


KEYS = {"predicted_bytes", "margin_bytes", "saved_bytes", "state_bytes", "update_bytes"}
KEYS |= {"forward_multiply_adds", "step_multiply_adds"}
OF_TRAINING = {"frozen_bytes", "tail_bytes", "without_features_bytes", "frozen_multiply_adds", "stored_bytes"}
OF_TRAINING |= {"training"}


def run_cost(capsys, monkeypatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["adabet-onnx", "cost", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capsys.readouterr()
    return int(exit_.value.code or 0), printed.out, printed.err


def test_the_command_prints_json_and_nothing_else(net, tmp_path: Path, capsys, monkeypatch):
    path, model = net
    selection = tmp_path / "selection.json"
    selection_with(model, [parameter.name for parameter in model.head.parameters]).save(selection)
    code, out, err = run_cost(capsys, monkeypatch, path, selection, "--batch-size", 2, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert set(found) == {"inference", "selection", "all"}
    assert set(found.pop("inference")) == KEYS
    assert all(set(entry) == KEYS | OF_TRAINING for entry in found.values())
    assert found["selection"]["training"]["samples"] == 1000
    assert found["selection"]["training"]["stored_bytes"] == 1000 * found["selection"]["stored_bytes"] > 0
    code, out, _ = run_cost(capsys, monkeypatch, path, "--batch-size", 2, "--json", "--measure", "--threads", 1)
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"inference", "all"}
    assert set(found["inference"]) == KEYS | {"measured_bytes", "measured_seconds"}
    assert set(found["all"]) == KEYS | OF_TRAINING | {"measured_bytes", "measured_seconds"}
    assert all(entry["measured_bytes"] > 1e6 for entry in found.values())


def test_the_command_prints_a_table_and_draws(net, tmp_path: Path, capsys, monkeypatch):
    plot = tmp_path / "cost.svg"
    code, out, _ = run_cost(capsys, monkeypatch, net[0], "--batch-size", 2, "--plot", plot)
    assert code == 0
    assert "training, all layers" in out
    text = plot.read_text()
    assert "inference" in text or "<path" in text
    assert len(text) > 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch-size", "0"], "--batch-size"),
        (["--plot", "cost.txt"], "must end in"),
        (["--backend", "other"], "--backend"),
        (["missing.json"], "missing.json"),
    ],
)
def test_bad_options(net, capsys, monkeypatch, arguments, said):
    code, out, err = run_cost(capsys, monkeypatch, net[0], *arguments)
    assert code == 2
    assert said in err
    assert out == ""


def test_a_missing_model(capsys, monkeypatch):
    code, _, err = run_cost(capsys, monkeypatch, "missing.onnx")
    assert code == 2
    assert "missing.onnx" in err


def test_a_selection_that_is_none(net, tmp_path: Path, capsys, monkeypatch):
    path = tmp_path / "selection.json"
    path.write_text("{")
    code, out, err = run_cost(capsys, monkeypatch, net[0], path)
    assert (code, out) == (1, "")
    assert "selection.json" in err


def test_the_command_is_in_the_group():
    assert "cost" in cli.commands


def test_sizes_of_what_onnxruntime_leaves_open():
    """A mask, and an image in blocks of 16 channels."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("GreaterOrEqual", ["x", "x"], ["mask"]),
        helper.make_node("ReorderInput", ["x"], ["reorder_token_0"], domain="com.microsoft.nchwc"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", 1, ["N", 3, 4, 4])], [])
    found = ir.from_proto(helper.make_model(graph)).graph
    sizes = ValueSizes(found, {}, 5)
    mask, blocks = (node.outputs[0] for node in found)
    assert (sizes.shape(mask), sizes.size(mask)) == ((5, 3, 4, 4), 5 * 48)
    assert (sizes.shape(blocks), sizes.size(blocks)) == ((5, 16, 4, 4), 4 * 5 * 256)
    assert sizes.unresolved == {mask}
    assert np.prod(sizes.shape(found.inputs[0])) == 5 * 48
