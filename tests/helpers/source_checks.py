"""Checks of source text: sizes of functions and modules, phrases, names, and which modules change graphs.

Each check takes files or a folder and returns its findings, one line each: an empty list means that nothing was found.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

FUNCTION_LINES, MODULE_LINES = 60, 400
# Phrases that no text of the repository contains: riddles, and translations of standard terms.
PHRASES = (
    "way back",
    "refused with a word",
    "of all that is random",
    "parts of a batch",
    "has not got",
    "have not got",
    "how much of a difference is noise",
    "left open is said",
    "the least that would do",
    "to be had",
    "without a word",
    "goes its way",
    "begun with",
    "comes out of",
    "a room of its own",
    "rooms of their own",
)
SUFFIXES = (".py", ".md", ".ts", ".html", ".kt", ".swift", ".cs", ".c", ".h", ".toml")
# Identifiers that say nothing about what they hold.
NAMES = ("why_not", "take_if_there")
CLASSES = ("Look", "Spent", "Material", "Way")
VARIABLES = ("found",)
# Modules that have the same role in several folders: charts of results, options of a step, files that a step writes.
ROLES = ("drawing", "options", "record")
# Methods of onnx_ir that change a graph, and those of lists, which do if the list is part of a graph.
_CHANGES = {
    "insert_after",
    "insert_before",
    "register_initializer",
    "replace_all_uses_with",
    "replace_input_with",
    "replace_nodes_and_values",
    "resize_inputs",
    "resize_outputs",
}
_OF_LISTS = {"append", "clear", "extend", "insert", "pop", "remove", "sort"}
_PARTS = {"initializer", "initializers", "input", "inputs", "node", "output", "outputs"}
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = ast.Module | ast.ClassDef | _FUNCTIONS
# Between two words of a phrase: a space, a name's underline, or the end of a line of text, comment or string.
_BETWEEN = r"(?:[ _]|\s*[\"']?\s*\n\s*(?:#|//|\*|>)*\s*(?:[frb]?[\"'])?)"


def python_files(*folders: Path) -> list[Path]:
    """The Python files of folders, without those of installed packages."""
    return [path for folder in folders for path in sorted(folder.rglob("*.py")) if "node_modules" not in path.parts]


def tracked_texts(root: Path) -> list[Path]:
    """The tracked text files of a git repository, of the kinds that people wrote."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [root / name for name in names if name.endswith(SUFFIXES) or name.rpartition("/")[2] == "Makefile"]
    return [path for path in paths if path.is_file()]


# --- sizes -----------------------------------------------------------------------------------------------------------


def long_functions(files: Iterable[Path], root: Path, limit: int = FUNCTION_LINES) -> list[str]:
    """Functions of more lines of code than allowed; docstrings, comments and blank lines do not count."""
    results = []
    for path in files:
        source = path.read_text(encoding="utf-8")
        tree, code = ast.parse(source), _code_lines(source)
        code -= {line for node in ast.walk(tree) if isinstance(node, _DOCUMENTED) for line in _docstring_lines(node)}
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS):
                assert node.end_lineno is not None
                lines = len(code & set(range(node.lineno, node.end_lineno + 1)))
                if lines > limit:
                    results.append(f"{path.relative_to(root).as_posix()}: {node.name} has {lines} lines of code")
    return results


def long_modules(files: Iterable[Path], root: Path, limit: int = MODULE_LINES) -> list[str]:
    """Modules of more lines than allowed, of whatever kind."""
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    return [f"{path.relative_to(root).as_posix()} has {n} lines" for path, n in sizes.items() if n > limit]


def _code_lines(source: str) -> set[int]:
    """Lines with a token other than a comment."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def _docstring_lines(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    if ast.get_docstring(node, clean=False) is None:
        return range(0)
    text = node.body[0]
    assert text.end_lineno is not None
    return range(text.lineno, text.end_lineno + 1)


# --- words -----------------------------------------------------------------------------------------------------------


def phrases_in(text: str, phrases: Collection[str] = PHRASES) -> Iterator[tuple[int, str]]:
    """Phrases that a text contains, also across lines and inside names: (line, phrase)."""
    for phrase in phrases:
        pattern = r"(?<![A-Za-z])" + _BETWEEN.join(map(re.escape, phrase.split())) + r"(?![A-Za-z])"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, phrase


def forbidden_phrases(files: Iterable[Path], root: Path, phrases: Collection[str] = PHRASES) -> list[str]:
    """Every place of a forbidden phrase. Of a changelog, only what is not released yet counts."""
    results = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.name == "CHANGELOG.md":
            text = re.split(r"^## \[\d", text, maxsplit=1, flags=re.MULTILINE)[0]
        name = path.relative_to(root).as_posix()
        results += [f'{name}:{line}: "{phrase}"' for line, phrase in sorted(phrases_in(text, phrases))]
    return results


# --- names -----------------------------------------------------------------------------------------------------------


def forbidden_names(files: Iterable[Path], root: Path) -> list[str]:
    """Assignments to forbidden variables, and forbidden names of anything else."""
    results = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = _forbidden(node)
            if name is not None:
                results.append(f"{path.relative_to(root).as_posix()}:{node.lineno}: {name}")
    return sorted(results)


def _forbidden(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store) and node.id in VARIABLES:
            return node.id
        return node.id if node.id in NAMES else None
    if isinstance(node, ast.ClassDef):
        return node.name if node.name in CLASSES else None
    name = {ast.arg: "arg", ast.Attribute: "attr", ast.FunctionDef: "name", ast.keyword: "arg"}.get(type(node))
    return getattr(node, name) if name is not None and getattr(node, name) in NAMES else None


def repeated_classes(files: Iterable[Path], root: Path) -> list[str]:
    """Public classes that share a name."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in files:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(root).as_posix())
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]


def repeated_modules(files: Iterable[Path], root: Path, commands: Collection[str]) -> list[str]:
    """Names of three or more modules, except roles, and modules of `cli` and `report` named after a command."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in files:
        inner = path.relative_to(root)
        command = inner.parts[0] in ("cli", "report") and inner.stem in commands
        if inner.stem not in ("__init__", *ROLES) and not command:
            places[inner.stem].append(inner.as_posix())
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 2]


# --- graphs ----------------------------------------------------------------------------------------------------------


def graph_changes(folder: Path) -> dict[str, list[int]]:
    """By module, the lines that change nodes, initializers, inputs or outputs of a graph.

    Both of onnx_ir's graphs and of onnx's messages. Values of weights, types and shapes may change anywhere.
    """
    lines = {}
    for path in python_files(folder):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        changing = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.expr) and _changes(node)]
        if changing:
            lines[path.relative_to(folder).as_posix()] = sorted(changing)
    return lines


def _changes(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        method, owner = node.func.attr, node.func.value
        return method in _CHANGES or (method in _OF_LISTS and _of_a_graph(owner))
    if isinstance(node, ast.Assign | ast.Delete):
        return any(isinstance(target, ast.Subscript) and _of_a_graph(target.value) for target in node.targets)
    return False


def _of_a_graph(node: ast.expr) -> bool:
    """Whether an expression is a graph, or a list of a graph's nodes, initializers, inputs or outputs."""
    if isinstance(node, ast.Attribute) and node.attr in _PARTS:
        return _of_a_graph(node.value)
    return (isinstance(node, ast.Attribute) and node.attr == "graph") or (
        isinstance(node, ast.Name) and (node.id == "graph" or node.id.endswith("_graph"))
    )


def outside(changes: dict[str, list[int]], allowed: Collection[str]) -> list[str]:
    """Modules that change graphs without being allowed, one line each."""
    return [
        f"{module} changes a graph in lines {', '.join(map(str, lines))}"
        for module, lines in changes.items()
        if not any(module == place or module.startswith(f"{place}/") for place in allowed)
    ]


# --- files and records -----------------------------------------------------------------------------------------------


def written_out(folder: Path, names: Collection[str], allowed: Collection[str]) -> list[str]:
    """File names that modules write as literals although there is a constant, one line each.

    Args:
        folder: of the package.
        names: the names.
        allowed: modules where literals are allowed, relative to the folder; docstrings are allowed anywhere.
    """
    results = []
    for path in python_files(folder):
        module = path.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if module not in allowed else ():
            if isinstance(node, ast.Constant) and node.value in names:
                results.append(f"{module}:{node.lineno}: {node.value!r}")
    return results


def manifest_contents(folder: Path, allowed: Collection[str]) -> list[str]:
    """Uses of a manifest's `content` outside the modules of its class, one line each."""
    results = []
    for path in python_files(folder):
        module = path.relative_to(folder).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if module not in allowed else ():
            if isinstance(node, ast.Attribute) and node.attr == "content" and "manifest" in ast.unparse(node.value):
                results.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return results
