"""Random graphs train like a float64 reference step, or are rejected with a message."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch", reason="the reference step is torch's")

from models import tiny  # noqa: E402
from models.random_graphs import FEATURES, Drawn, graphs  # noqa: E402
from models.tiny import node, normal  # noqa: E402
from property_checks import Plan, has_rules, plans, run_one, train_from_features  # noqa: E402

from adabet_onnx.portable.rules import registry  # noqa: E402

EXAMPLES = 100


def check_all(features, backend, examples):
    """Every example is correct or rejected; the portable backend rejects no graph of listed operators, at most 10 %.

    onnxruntime-training has fewer gradients (none for Sum and ConvTranspose), and names the operator without one.
    """
    seen: Counter[str] = Counter()
    why: list[str] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(features), plans([backend]))
    def one(drawn, plan):
        note(repr(drawn))
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_one(drawn, plan, Path(folder))
        assert outcome.right, outcome
        rejected = outcome.rejected is not None
        if rejected and backend == "portable":
            assert not has_rules(drawn), outcome.rejected
        elif rejected:
            known = "has no gradient in onnxruntime-training|The portable backend also supports|contains a subgraph"
            assert re.search(known, outcome.rejected)
        seen["rejected" if rejected else "accepted"] += 1
        if rejected:
            why.append(f"{drawn.features}: {outcome.rejected}")

    one()
    least = 0.9 if backend == "portable" else 0.5
    assert seen["accepted"] >= least * seen.total(), "\n".join(why)


def test_random_graphs_train_as_the_reference_step_says():
    check_all(FEATURES, "portable", EXAMPLES - 20)


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(graphs(FEATURES), st.floats(0, 1))
def test_random_graphs_train_the_same_from_features(drawn, start):
    """Of layers from some place on."""
    note(repr(drawn))
    with tempfile.TemporaryDirectory() as folder:
        train_from_features(drawn, start, Path(folder))


def test_random_graphs_train_as_the_reference_step_says_with_onnxruntime_training(training):
    check_all(FEATURES, "ort", 20)


@pytest.mark.parametrize("operator", ["Tanh", "MatMul", "Gemm"])
def test_a_wrong_rule_is_seen(tmp_path, monkeypatch, operator):
    """A test of the comparison: if one rule is 1 % off, graphs with it fail."""
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a"),
        node("Tanh", ["m"], ["t"], "/tanh"),
        node("MatMul", ["t", "b.weight"], ["n"], "/b"),
        node("Gemm", ["n", "c.weight"], ["logits"], "/c"),
    ]
    values = {"a.weight": normal(4, 5), "b.weight": normal(5, 4), "c.weight": normal(4, 3)}
    drawn = Drawn(tiny.build(nodes, values, input_shape=("N", 4)), [], set(), "cross-entropy", "logits")
    plan = Plan("all", 0)
    assert run_one(drawn, plan, tmp_path / "right").right
    entry = registry._RULES[operator]

    def wrong(step):
        return {position: step.build.scale(value, 1.01) for position, value in entry.rule(step).items()}

    monkeypatch.setitem(registry._RULES, operator, dataclasses.replace(entry, rule=wrong))
    outcome = run_one(drawn, plan, tmp_path / "wrong")
    assert not outcome.right
    assert 0.009 <= outcome.parameter <= 0.021  # a path crosses up to two of them
