"""Defer the import of SymPy, which `onnx_ir` imports for arithmetic on symbolic dimensions, until it is used.

The import takes longer than the rest of what most commands do, and few of them calculate with symbolic dimensions.
While `onnx_ir` is imported, stand-ins take the place of SymPy and of the one module that uses it at import. Afterwards,
`sys.modules` has no trace of them, so that other code imports SymPy as usual; the stand-ins that `onnx_ir` holds import
the modules when an attribute is requested.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NAMES = ("sympy", "onnx_ir._symbolic_shapes")


class _StandIn(ModuleType):
    """A module that is imported when an attribute is requested."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextmanager
def _stand_ins() -> Iterator[None]:
    made = [_StandIn(name) for name in _NAMES if "sympy" not in sys.modules]
    sys.modules.update({module.__name__: module for module in made})
    try:
        yield
    finally:
        for module in made:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]


class _Finder(MetaPathFinder):
    """Finds `onnx_ir` as the other finders do, but has it executed with stand-ins."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "onnx_ir":
            return None
        specs = (other.find_spec(fullname, path, target) for other in sys.meta_path if other is not self)
        spec = next((each for each in specs if each is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_with_stand_ins(module: ModuleType) -> None:
            with _stand_ins():
                execute(module)

        spec.loader.exec_module = execute_with_stand_ins  # type: ignore[method-assign]
        return spec


def defer_sympy() -> None:
    """Defer the import of SymPy by `onnx_ir`, unless one of them has been imported already."""
    if "onnx_ir" not in sys.modules and "sympy" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
