"""A new head that is fitted from the sums of the clients."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fleet_clients import client, dataset, task
from models import tiny

from adabet_onnx import make_artifacts, new_head, select
from adabet_onnx.data.dataset import ArrayRows, Dataset
from adabet_onnx.fitting.ridge import ridge
from adabet_onnx.fitting.table import table
from adabet_onnx.fleet import heads
from adabet_onnx.fleet.client_artifacts import ClientArtifacts
from adabet_onnx.fleet.fitted_head import fit_head
from adabet_onnx.fleet.grids import InProcess
from adabet_onnx.fleet.messages import Local
from adabet_onnx.training.head_rows import HeadRows
from adabet_onnx.training.head_start import settable_tensors

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.mark.parametrize("intercept", [True, False])
def test_a_head_from_sums_is_that_of_all_rows(intercept):
    rng = np.random.default_rng(2)
    x = (3 + rng.standard_normal((200, 12))).astype(np.float32)
    y = np.eye(4)[rng.integers(0, 4, 200)]
    cuts = [(0, 5), (5, 80), (80, 200)]
    parts = [heads.sums_of(x[a:b], y[a:b]) for a, b in cuts]
    groups = np.concatenate([[at] * (b - a) for at, (a, b) in enumerate(cuts)])
    central = ridge(table(x, y, groups, None, intercept=intercept))
    for strength in (1.0, 1e-3):
        weight, bias = central.solved(strength)
        found = heads.solve(heads.added(parts), strength, intercept=intercept)
        assert np.abs(found[0] - weight).max() < 1e-8
        assert np.abs(found[1] - bias).max() < 1e-8
    made = heads.fit(parts, intercept=intercept)
    errors = {strength: _left_out(x, y, groups, strength, intercept) for strength in heads.STRENGTHS}
    assert made.strength == min(errors, key=errors.get)
    assert made.error == pytest.approx(errors[made.strength], rel=1e-9)
    assert parts[0].bytes == heads.sums_bytes(12, 4)


def _left_out(x: np.ndarray, y: np.ndarray, groups: np.ndarray, strength: float, intercept: bool) -> float:
    """Mean squared error for each group of a fit to the rows of the others."""
    total = 0.0
    for group in np.unique(groups):
        rest, out = groups != group, groups == group
        given = table(x[rest], y[rest], np.arange(rest.sum()), None, intercept=intercept)
        weight, bias = ridge(given).solved(strength)
        total += float(((x[out] @ weight + bias - y[out]) ** 2).sum())
    return total / y.size


def test_sums_that_do_not_count():
    rng = np.random.default_rng(0)
    good = heads.sums_of(rng.standard_normal((9, 3)), rng.standard_normal((9, 2)))
    assert heads.check_sums(good, 3, 2) is None
    for bad in (
        replace(good, rows=0),
        replace(good, rows=2.5),
        replace(good, inputs=np.zeros(4)),
        replace(good, products=good.products.astype(np.float32)),
        replace(good, squares=good.squares * np.nan),
        replace(good, output_squares=math.inf),
    ):
        assert heads.check_sums(bad, 3, 2)


def test_the_federated_head_is_the_central_one(tmp_path):
    """Through clients and graphs, against ridge regression on the head's inputs of all data together."""
    opened = new_head(tiny.conv_net(classes=7), 4)
    make_artifacts(opened, select(opened, strategy="head"), tmp_path / "a", check=False)
    bench = ClientArtifacts(tmp_path / "a")
    parts = [dataset(30, seed) for seed in range(3)]
    grid = InProcess(client(at, bench, part, tmp_path) for at, part in enumerate(parts))
    values, said = fit_head(bench, grid, task(bench, 0))
    assert said.note is None
    assert said.rows == 90
    x = np.concatenate([part.rows.fetch(np.arange(30))[""] for part in parts])
    y = np.concatenate([part.labels for part in parts])
    whole = client(9, bench, Dataset(ArrayRows({"": x}), y), tmp_path)
    used = whole._data(Local())
    bench.put(bench.initial(), bench.initial_values())
    tensors = settable_tensors(bench.manifest, bench.model.head)
    rows = HeadRows(bench.manifest, bench.session, used, whole._features(used, Local()), tensors, None)
    features = rows.of(np.arange(90)).reshape(90, -1)
    weight, bias = ridge(table(features, np.eye(4)[y], np.arange(90), None)).solved(said.strength)
    made = rows.head.parameters(said.scale * weight, said.scale * bias, rows.kernel)
    for name, expected in zip((tensors.weight, tensors.bias), made, strict=True):
        assert np.abs(values[name] - expected.reshape(values[name].shape)).max() <= 1e-5 * said.scale
    assert said.scale > 1
