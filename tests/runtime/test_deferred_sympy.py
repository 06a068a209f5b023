"""SymPy is imported when a symbolic dimension is calculated with, and not before; other code imports it as usual."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAMS = {
    "a command does not import it": """
        from pathlib import Path
        import adabet_onnx
        adabet_onnx.open_model(Path(adabet_onnx.__file__).parent / "demo" / "digits.onnx")
        assert "onnx_ir" in sys.modules and "sympy" not in sys.modules
    """,
    "arithmetic imports it": """
        import adabet_onnx, onnx_ir
        total = onnx_ir.SymbolicDim("N") * 2 + 1
        import sympy
        assert str(total) == "2*N + 1" and sympy.__file__
        assert isinstance(total._expr, sympy.Expr)
        assert sys.modules["onnx_ir._symbolic_shapes"].parse_symbolic_expression("max(N, 2)").func is sympy.Max
    """,
    "dimensions are made of expressions": """
        import adabet_onnx, onnx_ir, sympy
        assert onnx_ir.SymbolicDim(sympy.Symbol("N") + 1).value == "N + 1"
    """,
    "other code imports parts of it": """
        import adabet_onnx, onnx_ir
        import sympy.core.expr
        from sympy import Symbol
        assert sympy.core.expr.Expr is sympy.Expr and str(Symbol("x")) == "x"
    """,
    "code that imported it before keeps it": """
        import sympy as before
        import adabet_onnx, onnx_ir, sympy
        assert sympy is before and onnx_ir._core.sympy is before
    """,
    "a search for the package finds it": """
        import adabet_onnx
        from importlib.util import find_spec
        assert find_spec("onnx_ir").origin.endswith("__init__.py") and find_spec("onnx_ir.passes") is not None
        import onnx_ir.passes
        assert "sympy" not in sys.modules
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    lines = [line.removeprefix(" " * 8) for line in PROGRAMS[name].splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
