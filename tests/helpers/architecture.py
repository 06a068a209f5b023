"""The allowed imports between modules, and the scan of a package's source that finds the actual ones.

Read from the source, never by importing: plain and relative imports, those inside functions and behind
``if TYPE_CHECKING``, and ``importlib.import_module`` and ``__import__`` with literal names. Type-only imports count
like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# From the top: each folder or module may import itself and those that come after it. CONTRIBUTING.md quotes this list.
ORDER = (
    "cli",
    "demo",
    "report",
    "study",
    "pipeline",
    "adaptation",
    "fleet",
    "measuring",
    "outcome",
    "adapting",
    "device",
    "cost",
    "training",
    "selection",
    "scoring",
    "trainability",
    "portable",
    "fitting",
    "data",
    "model",
    "training_runtime",
    "quantiser",
    "runtime",
    "records",
    "drawing",
    "file_names",
    "files",
    "frames",
    "isolation",
    "kendall",
    "options",
    "option_places",
    "pieces",
    "placement",
    "progress",
    "seeds",
    "showing",
    "sizes",
    "version",
    "vocabulary",
    "errors",
    "deferred_sympy",
)
# The only modules that touch a library.
DOORS = {
    "onnxruntime": {"runtime.py", "training_runtime.py", "quantiser.py"},
    "onnxruntime.training": {"training_runtime.py"},
    "ripser": {"scoring/betti.py"},
    "flwr": {"fleet/flower.py", "fleet/flower_client.py", "fleet/flower_server.py"},
    "ray": {"study/ray_cluster.py"},
}
# The only folders and modules that change the nodes, initializers, inputs or outputs of graphs: CONTRIBUTING.md names
# them.
REWRITERS = (
    "model",
    "portable",
    "scoring",
    "device/graphs.py",
    "cost/optimized.py",
    "cost/pieces.py",
    "study/fisher.py",
)
# What a function may import when it is called: libraries that are slow to import and that not every call needs, and
# what not every system has.
LATE = {
    "flwr",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "polars",
    "ray",
    "ripser",
    "safetensors",
    "scipy",
    "sklearn",
    "umap",
    "resource",
}
# Folders and modules that import on demand, also by names in a table, so that little is loaded at startup: the public
# names, the commands, and the stand-ins for SymPy.
LAZY = ("", "cli", "deferred_sympy")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
UNKNOWN = "?"  # imported, by a name that is computed


@dataclass(frozen=True)
class Import:
    """One import of one module.

    Attributes:
        source: the module that imports, dotted.
        target: the imported module of the package, or the other name as written.
        line: line number.
        late: whether it is made when a function is called.
    """

    source: str
    target: str
    line: int
    late: bool = False

    def of(self, library: str) -> bool:
        """Whether it imports a library or a part of it."""
        return self.target == library or self.target.startswith(f"{library}.")


@dataclass(frozen=True)
class Package:
    """A package's modules and imports.

    Attributes:
        name: of the package.
        files: by dotted name of a module, its path inside the package.
        imports: all of them, in the order of the files.
    """

    name: str
    files: Mapping[str, str]
    imports: tuple[Import, ...]

    def room(self, module: str) -> str:
        """The folder or file under the package that a module belongs to; "" for the package itself."""
        return module.removeprefix(self.name).lstrip(".").split(".")[0]

    def upward(self, order: Sequence[str]) -> list[str]:
        """Imports that violate an order, and folders or modules that it does not name, one line each."""
        top = "", "__main__"  # the public names, and what runs them
        strange = sorted({self.room(module) for module in self.files} - {*order, *top})
        found = [f"{room} has no place in the order" for room in strange]
        rank = {room: place for place, room in enumerate(order)} | dict.fromkeys(top, -1)
        for made in self.imports:
            rooms = self.room(made.source), self.room(made.target)
            if made.target in self.files and all(room in rank for room in rooms) and rank[rooms[1]] < rank[rooms[0]]:
                found.append(f"{self._where(made)} imports {made.target}, which is above it")
        return found

    def unplaced(self, order: Sequence[str]) -> list[str]:
        """Entries of an order that do not exist in the package."""
        return sorted({*order} - {self.room(module) for module in self.files})

    def cycles(self) -> list[str]:
        """Sets of modules that import each other, directly or indirectly, one line each.

        An ``__init__`` module counts only if it is imported by name. That importing a module runs the ``__init__`` of
        its parent packages does not count.
        """
        graph = {module: {made.target for made in self.imports if made.source == module} for module in self.files}
        return [" and ".join(sorted(ring)) + " import each other" for ring in _rings(graph)]

    def beside_doors(self, doors: Mapping[str, Collection[str]]) -> list[str]:
        """Imports of a library outside the modules that may import it, one line each."""
        return [
            f"{self._where(made)} imports {made.target}, which only {', '.join(sorted(places))} may"
            for made in self.imports
            for library, places in doors.items()
            if made.of(library) and self.files[made.source] not in places
        ]

    def unreadable(self, lazy: Collection[str]) -> list[str]:
        """Imports by a computed name outside these folders and modules, one line each."""
        return [
            f"{self._where(made)} imports a module by a computed name"
            for made in self.imports
            if made.target == UNKNOWN and self.room(made.source) not in lazy
        ]

    def late(self, allowed: Collection[str], lazy: Collection[str]) -> list[str]:
        """Imports inside functions, except in lazy modules and of allowed libraries, one line each."""
        return [
            f"{self._where(made)} imports {made.target} inside a function"
            for made in self.imports
            if made.late and self.room(made.source) not in lazy and not any(made.of(library) for library in allowed)
        ]

    def _where(self, made: Import) -> str:
        return f"{self.files[made.source]}:{made.line}"


def read(folder: Path) -> Package:
    """Find all modules and imports of the package in a folder."""
    name = folder.name
    files = {}
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder)
        files[".".join((name, *inner.with_suffix("").parts)).removesuffix(".__init__")] = inner.as_posix()
    imports = []
    for module, file in files.items():
        around = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        tree = ast.parse((folder / file).read_text(encoding="utf-8"), file)
        late = {
            id(node) for function in ast.walk(tree) if isinstance(function, _FUNCTIONS) for node in ast.walk(function)
        }
        for target, node in _imported(tree, around):
            imports.append(Import(module, _resolved(target, files, name), node.lineno, id(node) in late))
    return Package(name, files, tuple(imports))


def _imported(tree: ast.AST, around: str) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Absolute names that are imported anywhere in a module, and the nodes that import them."""
    importers = {"__import__", "import_module"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "importlib":
            importers.update(alias.asname or alias.name for alias in node.names if alias.name in importers)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), around)
            yield from ((base if alias.name == "*" else f"{base}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Call) and _last(node.func) in importers and node.args:
            yield _computed(node, around), node


def _last(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _computed(call: ast.Call, around: str) -> str:
    """The name that a call imports: a literal, or the literal part before the first placeholder."""
    name = call.args[0]
    if isinstance(name, ast.JoinedStr) and name.values:
        name = name.values[0]
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        return UNKNOWN
    given = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "package")]
    anchor = given[0].value if given and isinstance(given[0], ast.Constant) else around
    return _absolute(name.value, anchor).rstrip(".") or UNKNOWN


def _absolute(name: str, around: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if level == 0:
        return name
    anchor = around.split(".")
    return ".".join(part for part in (*anchor[: len(anchor) - level + 1], name.lstrip(".")) if part)


def _resolved(target: str, files: Collection[str], package: str) -> str:
    """The module of the package that a name belongs to; other names unchanged."""
    parts = target.split(".")
    if parts[0] != package:
        return target
    return next(name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in files)


def _rings(graph: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, or of one with an edge to itself (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in graph:
                continue
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            ring, stack[at:] = stack[at:], []
            if len(ring) > 1 or node in graph[node]:
                found.append(ring)

    for node in graph:
        if node not in index:
            visit(node)
    return found
