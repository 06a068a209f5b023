"""Only the folders and modules that CONTRIBUTING.md names change graphs."""

from __future__ import annotations

import pytest
from architecture import REWRITERS
from conftest import ROOT
from source_checks import graph_changes, outside

PACKAGE = ROOT / "adabet_onnx"


@pytest.mark.slow
def test_only_the_rewriters_change_graphs():
    results = outside(graph_changes(PACKAGE), REWRITERS)
    assert not results, "\n".join(results)


@pytest.mark.slow
def test_each_rewriter_changes_graphs():
    changing = graph_changes(PACKAGE)
    for place in REWRITERS:
        assert outside(changing, [place]) != outside(changing, []), place


def test_contributing_names_the_rewriters():
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    names = [f"`{place}`" for place in REWRITERS]
    assert f"Only {', '.join(names[:-1])} and {names[-1]} change the nodes" in text


# --- planted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "node.replace_input_with(0, value)",
        "node.resize_inputs(2)",
        "node.resize_outputs(1)",
        "value.replace_all_uses_with(other)",
        "graph.insert_before(node, new)",
        "model.graph.insert_after(node, new)",
        "model.graph.register_initializer(value)",
        "model.graph.remove(node)",
        "graph.extend(nodes)",
        "graph.append(node)",
        "step_graph.sort()",
        "model.graph.initializers.pop('name')",
        "model.graph.initializers['name'] = value",
        "graph.inputs.clear()",
        "graph.outputs.append(value)",
        "proto.graph.node.extend(nodes)",
        "proto.graph.initializer.append(tensor)",
        "del proto.graph.output[:]",
        "proto.graph.input[0] = value",
        "if graph.initializers.pop('name'):\n        pass",
    ],
)
def test_a_planted_change_is_found(change, tmp_path):
    (tmp_path / "low").mkdir()
    for name in ("low/a.py", "low/b.py", "high.py"):
        (tmp_path / name).write_text(f"def f(graph, model, node):\n    {change}\n")
    expected = "high.py changes a graph in lines 2"
    assert outside(graph_changes(tmp_path), ["low", "high"]) == [expected]
    assert outside(graph_changes(tmp_path), ["low/a.py", "high.py"]) == ["low/b.py changes a graph in lines 2"]


@pytest.mark.parametrize(
    "reading",
    [
        "names = [value.name for value in model.graph.inputs]",
        "names.append(model.graph.name)",
        "nodes = list(model.graph)\nnodes.sort()",
        "value.const_value = tensor",
        "model.graph.initializers['name'].const_value = tensor",
        "text = 'graph.remove(node)'",
        "options.inputs.append(name)",
    ],
)
def test_reading_and_new_values_are_no_change(reading, tmp_path):
    (tmp_path / "a.py").write_text(reading)
    assert graph_changes(tmp_path) == {}
