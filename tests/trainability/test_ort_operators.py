"""The table of operators that onnxruntime-training differentiates, against onnxruntime-training itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import HELPERS
from operator_cases import CASES

from adabet_onnx import check_model
from adabet_onnx.portable.rules import differentiable_operators as ours
from adabet_onnx.trainability.ort_operators import differentiable_operators

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4
# It trains these, but a piecewise constant loss has no gradient to compare.
FLAT = ("Ceil", "Floor", "Round", "Sign", "ArgMax")


@pytest.fixture(scope="module")
def happened():
    """For each case: the error of each backend or None, and the difference of the two gradients.

    The cases run in separate processes: if one dies, the next continues after it.
    """
    found: dict[str, dict] = {}
    left = list(CASES)
    while left:
        command = [sys.executable, str(HELPERS / "operator_cases.py"), *left]
        done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                row = json.loads(line)
                found[row.pop("case")] = row
        rest = [name for name in left if name not in found]
        if rest and done.returncode >= 0:
            pytest.fail(done.stderr[-2000:])
        if rest:
            found[rest[0]] = {"portable": None, "ort": f"died of signal {-done.returncode}", "difference": None}
        left = [name for name in left if name not in found]
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_table_says_what_happens(name, happened, training):
    verdict = check_model(CASES[name].model(), loss="mse").layers[0]
    assert verdict.name == "a"
    row = happened[name]
    assert verdict.portable.trainable == (row["portable"] is None), (verdict.portable.reason, row)
    if name in FLAT:
        assert not verdict.ort.trainable
        return
    right = row["ort"] is None and (row["difference"] is None or row["difference"] <= TOLERANCE)
    assert verdict.ort.trainable == right, (verdict.ort.reason, row)


def test_every_operator_of_the_table_has_a_case():
    tried = {made.op_type for case in CASES.values() for made in case.nodes}
    assert set(differentiable_operators()) <= tried
    assert set(ours()) - tried <= {"ScatterND", "Swish"}  # Swish is not an operator; ScatterND's case repeats the batch
