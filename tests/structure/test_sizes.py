"""Functions and modules stay short."""

from __future__ import annotations

import pytest
from conftest import ROOT
from source_checks import FUNCTION_LINES, MODULE_LINES, long_functions, long_modules, python_files

FILES = python_files(ROOT / "adabet_onnx", ROOT / "converters", ROOT / "samples")


def test_no_function_is_long():
    results = long_functions(FILES, ROOT)
    assert not results, "\n".join(results)


def test_no_module_is_long():
    results = long_modules(FILES, ROOT)
    assert not results, "\n".join(results)


# --- planted ---------------------------------------------------------------------------------------------------------

CODE = "    number += 1\n"


def planted(folder, lines: int, head: str = "def long(number):\n"):
    """A function with this many lines of code besides its head, comments and blank lines among them."""
    docstring = '    """A docstring\n\n    of many lines.\n    """\n'
    (folder / "module.py").write_text(head + docstring + "    # a comment\n\n" + (CODE + "\n") * lines)
    return [folder / "module.py"]


@pytest.mark.parametrize("head", ["def long(number):\n", "async def long(number):\n"])
def test_a_long_function_is_found(head, tmp_path):
    assert long_functions(planted(tmp_path, FUNCTION_LINES - 1, head), tmp_path) == []
    expected = f"module.py: long has {FUNCTION_LINES + 1} lines of code"
    assert long_functions(planted(tmp_path, FUNCTION_LINES, head), tmp_path) == [expected]


def test_a_long_method_and_a_function_inside_a_function_are_found(tmp_path):
    body = "        x = (\n            1\n        )\n" * 20
    (tmp_path / "a.py").write_text(f"class C:\n    def method(self):\n{body}")
    (tmp_path / "b.py").write_text(f"def outer():\n    def inner():\n{body}    return inner\n")
    assert long_functions(python_files(tmp_path), tmp_path) == [
        "a.py: method has 61 lines of code",
        "b.py: outer has 63 lines of code",
        "b.py: inner has 61 lines of code",
    ]


def test_a_long_string_counts_where_it_is_no_docstring(tmp_path):
    (tmp_path / "a.py").write_text('def f():\n    x = """\n' + "\n" * FUNCTION_LINES + '    """\n')
    assert long_functions(python_files(tmp_path), tmp_path) == ["a.py: f has 63 lines of code"]


def test_a_long_module_is_found(tmp_path):
    (tmp_path / "short.py").write_text("# a line\n" * MODULE_LINES)
    (tmp_path / "long.py").write_text("# a line\n" * (MODULE_LINES + 1))
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "other.py").write_text("\n" * 1000)
    assert long_modules(python_files(tmp_path), tmp_path) == [f"long.py has {MODULE_LINES + 1} lines"]
