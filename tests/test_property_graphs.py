"""Random graphs train as a float64 reference step says, or are rejected with a message."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the reference step is torch's")

from models.random_graphs import FEATURES, LATER, graphs  # noqa: E402
from property_checks import STRATEGIES, Plan, has_rules, run_one  # noqa: E402

EXAMPLES = 100
NOW = tuple(name for name in FEATURES if name not in LATER)


@st.composite
def plans(draw, backends):
    return Plan(
        draw(st.sampled_from(STRATEGIES)),
        draw(st.integers(0, 10**6)),
        draw(st.sampled_from(backends)),
        draw(st.sampled_from([True, *[False] * 9])),
    )


def check_all(features, backends, examples):
    """Every example is right or rejected; those of listed operators are never rejected, at least 90 % accepted."""
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
    @given(graphs(features), plans(backends))
    def one(drawn, plan):
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_one(drawn, plan, Path(folder))
        assert outcome.right, outcome
        rejected = outcome.rejected is not None
        if plan.backend == "portable":
            assert not (rejected and has_rules(drawn)), outcome.rejected
        seen["rejected" if rejected else "accepted"] += 1
        if rejected:
            why.append(f"{plan.backend}, {drawn.features}: {outcome.rejected}")

    one()
    assert seen["accepted"] >= 0.9 * seen.total(), "\n".join(why)


def test_random_graphs_train_as_the_reference_step_says():
    check_all(NOW, ["portable"], EXAMPLES - 20)


def test_random_graphs_train_as_the_reference_step_says_with_onnxruntime_training(training):
    check_all(NOW, ["ort"], 20)
