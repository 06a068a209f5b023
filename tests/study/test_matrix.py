"""A few rows of the support matrix (tests/benchmarks/bench_matrix.py; make matrix prints all of it)."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "kinds"), [("resnet18", ("10 %",)), ("gpt", ("first", "last")), ("lstm", ("all",))])
def test_check_foresees_what_happens(name, kinds, torch_oracle, training):
    from benchmarks.bench_matrix import BACKENDS, rows, table

    found = list(rows(name, "torchscript", kinds))
    assert len(found) == len(kinds) * len(BACKENDS)
    for row in found:
        assert row.agrees, row
        if row.trained:
            assert row.by == "torch"
            assert row.gradient <= 1e-4
            assert row.forward <= 1e-5
            assert row.others
            assert row.export <= 1e-5
    assert all(row.trained for row in found if row.backend == "portable")
    assert f"{len(kinds)} of {len(kinds)} selections of 1 models train" in table(found)
