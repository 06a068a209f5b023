"""docs/adding-a-rule.md: its example rule and the tests of it work."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

from adabet_onnx.portable.rules import registry

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-rule.md"
RULE, TESTS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
CASES = [(axis, wrt) for axis in (1, 2, -1) for wrt in (["x"], ["scale"], ["x", "scale"])]


def run(code: str, name: str) -> types.ModuleType:
    """Execute a block of the page as a module of this name."""
    module = types.ModuleType(name)
    module.__package__ = name.rpartition(".")[0]
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return module


@pytest.fixture
def page_tests(monkeypatch):
    """The tests of the page, with its rule in a copy of the registry."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    assert registry.find_rule("RMSNormalization") is None
    run(RULE, "adabet_onnx.portable.rules.rms_normalization")
    assert registry.find_rule("RMSNormalization") is not None
    return run(TESTS, "rms_normalization_tests")


@pytest.mark.parametrize(("axis", "wrt"), CASES)
def test_the_rule_agrees_with_finite_differences(page_tests, axis, wrt):
    page_tests.test_rms_normalization(axis, wrt)


def test_the_check_rejects_what_the_rule_cannot_do(page_tests):
    page_tests.test_rms_normalization_over_the_batch()


def test_a_wrong_rule_fails(page_tests, monkeypatch):
    """The tests of the page notice a gradient that is 1 % off."""
    right = registry.find_rule("RMSNormalization")

    def wrong(context):
        return {position: context.build.scale(value, 1.01) for position, value in right.rule(context).items()}

    monkeypatch.setitem(registry._RULES, "RMSNormalization", registry.GradientRule(wrong, None, None, None))
    with pytest.raises(AssertionError, match="from finite differences"):
        page_tests.test_rms_normalization(-1, ["x"])
