"""Translation of messages for the command line: parameters and calls of the API become options and commands.

    `preset='unit'`                                    --preset unit
    `learning_rate`                                    --lr
    `Scoring(max_memory='2GB')`                        --scoring-memory 2GB
    `bind={'sr': 16000}`                               --input sr=16000
    `open_model('m.onnx', dims={'steps': SIZE})`       adabet-onnx import m.onnx -o fixed.onnx --dim steps=SIZE

A piece (see `pieces`) that contains anything but our own parameters and functions is left unchanged.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..pieces import replaced

PROGRAM = "adabet-onnx"

_SAME = (  # the option has the name of the parameter
    "accumulate aggregation allow_resize append augment backend base batch_norm batch_size batches bgr channel_rho "
    "channels check class_axis class_weights client_memory clients clip_norm costs embeddings entries entry epochs "
    "estimator features features_memory fisher frozen frozen_precision groups head head_init ignore_label "
    "keep_features keep_tail label_smoothing layers layout local_epochs local_steps logits loss malicious "
    "max_accumulate max_memory max_norm max_step_time max_update mean measure minimum model momentum num_classes "
    "optimizer order ort_format partition patience per_round personal preset privacy_clip privacy_noise profile "
    "provider proximal ray recompute resume retries rho rounds samples save_predictions scale schedule scores seed "
    "seeds server_rate sketch start std strategies strategy subset_size subsets threads train_samples validation "
    "views weight_decay weights "
)
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in _SAME.split()} | {
    "bind": "--input",
    "calibrate": "--data",
    "dims": "--dim",
    "full_precision": "--float",
    "learning_rate": "--lr",
    "max_memory_share": "--max-memory",
    "max_samples": "--group-size",
    "old_domain": "--old-domain",
    "points": "--subset-size",
    "processes": "--jobs",
    "provider_options": "--provider-option",
    "rates": "--rates",
    "rhos": "--rhos",
}
OF_CLASSES: dict[str, dict[str, str]] = {  # options classes, with the names that have another option in the class
    "Adapting": {},
    "Budget": {},
    "Choices": {},
    "Choosing": {},
    "Data": {},
    "DeviceScoring": {},
    "Fleet": {},
    "Packing": {},
    "Plan": {},
    "Preprocessing": {},
    "Repeats": {"max_memory": "--scoring-memory", "seeds": "--shuffles"},
    "Runtime": {},
    "Scoring": {"batch_size": "--batch-points", "max_memory": "--scoring-memory"},
    "Settings": {},
}
OFF = {"check": "--no-check", "measure": "--no-measure", "fisher": "--no-fisher", "costs": "--no-costs", "bgr": "--rgb"}
_HOLDERS = frozenset(name.lower() for name in OF_CLASSES)  # parameters that take such an object
_SHARES = frozenset({"max_memory_share", "max_step_time"})  # relative to training all layers: 0.5x
_LISTS = frozenset(
    {"augment", "class_weights", "client_memory", "mean", "rates", "rhos", "std", "strategies", "weights"}
)  # separated by commas; other options are repeated


class CommandSyntax(NamedTuple):
    """A command, the positional parameters of its function (``-o``: the output path) and its default output file."""

    words: str
    takes: tuple[str, ...]
    writes: str | None = None


COMMANDS = {
    "adapt": CommandSyntax("run", ("model", "data", "-o")),
    "apply_delta": CommandSyntax("delta apply", ("folder", "delta", "-o")),
    "check_model": CommandSyntax("check", ("model",)),
    "compare": CommandSyntax("compare", ("model", "data", "-o")),
    "evaluate": CommandSyntax("evaluate", ("model", "data")),
    "export_model": CommandSyntax("export", ("folder", "-o")),
    "fit": CommandSyntax("train", ("folder", "data")),
    "load_delta": CommandSyntax("delta show", ("path",)),
    "make_artifacts": CommandSyntax("artifacts", ("model", "selection", "-o")),
    "make_device": CommandSyntax("device", ("folder", "-o")),
    "make_menu": CommandSyntax("menu", ("model", "-o")),
    "merge_deltas": CommandSyntax("fleet round", ("folder", "deltas", "-o")),
    "new_head": CommandSyntax("new-head", ("model", "--num-classes"), "headed.onnx"),
    "open_model": CommandSyntax("import", ("model",), "fixed.onnx"),
    "predict": CommandSyntax("predict", ("model", "inputs")),
    "save_delta": CommandSyntax("delta save", ("folder", "-o")),
    "save_model": CommandSyntax("import", ("model", "-o")),
    "score": CommandSyntax("score", ("model", "data"), "scores.json"),
    "select": CommandSyntax("select", ("scores",), "selection.json"),
    "simulate_fleet": CommandSyntax("fleet simulate", ("model", "data", "-o")),
    "stability": CommandSyntax("stability", ("model", "data"), "stability.json"),
    "write_predictions": CommandSyntax("evaluate", ("model", "data", "--save-predictions")),
    "write_report": CommandSyntax("report", ("folder", "-o")),
}
_ANY = ast.Constant(...)
_ELSEWHERE = {"model.layers": f"{PROGRAM} inspect"}
_TEXT_KEYS = frozenset(
    {
        "advice",
        "because",
        "features",
        "hint",
        "left_out",
        "notes",
        "not_measured",
        "reason",
        "refused",
        "remedy",
        "repairs",
        "untrainable",
        "warnings",
    }
)


class _ForeignPieceError(Exception):
    """A piece refers to something that is not part of the API."""


def translate(text: str) -> str:
    """Translate a message of the API for the command line."""
    return replaced(text, _translation) if "`" in text else text


def translated(value: Any, *, told: bool = False) -> Any:
    """Translate the messages in the JSON output of a command, found under keys such as ``notes``.

    Args:
        value: the JSON value.
        told: whether the value is under such a key.
    """
    if isinstance(value, dict):
        return {key: translated(item, told=told or key in _TEXT_KEYS) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [translated(item, told=told) for item in value]
    return translate(value) if told and isinstance(value, str) else value


def _translation(piece: ast.Call) -> str | None:
    try:
        return _joined([_item(item) for item in piece.args], piece.keywords, {})
    except _ForeignPieceError:
        return None


def _joined(words: Sequence[str], keywords: Sequence[ast.keyword], known: dict[str, str]) -> str:
    """Join words and options as they are typed, or with commas if no option has a value."""
    listed = all(isinstance(item.value, ast.Constant) and item.value.value is ... for item in keywords)
    return (", " if listed else " ").join([*words, *(_option(item.arg, item.value, known) for item in keywords)])


def _item(node: ast.expr) -> str:
    """Translate a single expression: the name of a parameter or function, or a call."""
    if isinstance(node, ast.Name) and node.id in OPTIONS:
        return OPTIONS[node.id]
    if isinstance(node, ast.Name) and node.id in COMMANDS:
        return f"{PROGRAM} {COMMANDS[node.id].words}"
    if isinstance(node, ast.Attribute) and ast.unparse(node) in _ELSEWHERE:
        return _ELSEWHERE[ast.unparse(node)]
    if not isinstance(node, ast.Call):
        raise _ForeignPieceError
    if isinstance(node.func, ast.Name) and node.func.id in OF_CLASSES:
        return _of_class(node)
    return _command(node)


def _of_class(call: ast.expr) -> str:
    """Translate the construction of an options object: ``Choices(loss='mse')``."""
    known = OF_CLASSES.get(call.func.id) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else None
    if not isinstance(call, ast.Call) or known is None or (call.args and ast.unparse(call.func) != "Data"):
        raise _ForeignPieceError
    return _joined([], call.keywords, known)


def _command(call: ast.Call) -> str:
    """Translate a function call into a command, preceded by the commands of the calls among its arguments."""
    name, given = _function(call)
    if name not in COMMANDS:
        raise _ForeignPieceError
    command, before, rest = COMMANDS[name], [], []
    if len(given) > len(command.takes):
        raise _ForeignPieceError
    given = [*given, *(_ANY for parameter in command.takes[len(given) :] if not parameter.startswith("--"))]
    words, output = [PROGRAM, command.words], command.writes
    for parameter, value in zip(command.takes, given, strict=False):
        if isinstance(value, ast.Call):
            first, argument, options = _made(value)
            before += first
            words.append(argument)
            rest += options
        elif parameter == "-o":
            output = _placed(value, "folder")
        else:
            words.append(f"{parameter} {_text(value)}" if parameter.startswith("-") else _placed(value, parameter))
    rest += [_option(item.arg, item.value, {}) for item in call.keywords]
    words += [f"-o {output}"] if output else []
    return " && ".join([*before, " ".join(_options_last([*words, *rest]))])


def _function(call: ast.Call) -> tuple[str, list[ast.expr]]:
    """Return the function's name and positional arguments; for `Trainer(folder).fit(data)`, those of both calls."""
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call) and call.func.attr == "fit":
        return "fit", [*call.func.value.args, *call.args]
    return call.func.id if isinstance(call.func, ast.Name) else "", call.args


def _options_last(words: Sequence[str]) -> Iterable[str]:
    """Sort into arguments, the output, then options, as in the examples."""
    return sorted(words, key=lambda word: 2 if word.startswith("--") else word.startswith("-o "))


def _made(call: ast.Call) -> tuple[list[str], str, list[str]]:
    """Translate an argument that is a call into preceding commands, the argument, and accompanying options."""
    name = ast.unparse(call.func)
    if name == "Data" and len(call.args) == 1:
        return [], _placed(call.args[0], "data"), [_of_class(call)]
    if name == "open_model" and len(call.args) == 1 and not call.keywords:
        return [], _placed(call.args[0], "model"), []
    if name not in COMMANDS:
        raise _ForeignPieceError
    written = COMMANDS[name].writes
    if written is None:
        raise _ForeignPieceError
    return [_command(call)], written, []


def _placed(value: ast.expr, parameter: str) -> str:
    """Translate an argument; the name of a variable becomes a placeholder in capitals."""
    if isinstance(value, ast.Constant) and value.value is ...:
        return parameter.upper()
    return value.id.upper() if isinstance(value, ast.Name) else _text(value)


def _option(name: str | None, value: ast.expr, known: dict[str, str]) -> str:
    """Translate a keyword argument into one or more options; ``known``: names that are special in an options class."""
    if name in _HOLDERS or (name == "threads" and isinstance(value, ast.Call)):  # of `threads=Runtime(...)`
        return _of_class(value)
    option = known.get(name or "") or OPTIONS.get(name or "")
    if option is None or name is None:
        raise _ForeignPieceError
    constant = value.value if isinstance(value, ast.Constant) else None
    if constant is True or constant is ...:
        return option
    if constant is False and name in OFF:
        return OFF[name]
    if isinstance(value, ast.Dict):
        pairs = [_pair(key, each) for key, each in zip(value.keys, value.values, strict=True)]
        return " ".join(f"{option} {pair}" for pair in pairs)
    if isinstance(value, (ast.List, ast.Tuple)):
        each = [_text(item) for item in value.elts]
        return f"{option} {','.join(each)}" if name in _LISTS else " ".join(f"{option} {item}" for item in each)
    return f"{option} {_text(value)}{'x' if name in _SHARES else ''}"


def _pair(key: ast.expr | None, value: ast.expr) -> str:
    """Return ``NAME=VALUE`` for a JSON value, a path, a placeholder, or an ellipsis."""
    if not isinstance(key, ast.Constant):
        raise _ForeignPieceError
    if isinstance(value, ast.Name) and value.id.isupper():
        written = value.id
    elif isinstance(value, ast.Constant) and (value.value is ... or isinstance(value.value, str)):
        written = "..." if value.value is ... else str(value.value)
    else:
        written = _json(value)
    return shlex.quote(f"{key.value!s}={written}")


def _json(value: ast.expr) -> str:
    try:
        return json.dumps(ast.literal_eval(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise _ForeignPieceError from error


def _text(value: ast.expr) -> str:
    """Return one value, quoted for a shell if needed."""
    if isinstance(value, ast.Name) and value.id.isupper():
        return value.id
    try:
        literal = ast.literal_eval(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _ForeignPieceError from error
    if isinstance(literal, bool) or not isinstance(literal, (str, int, float)):
        raise _ForeignPieceError
    return shlex.quote(f"{literal:.9g}" if isinstance(literal, float) else str(literal))
