"""From Python to the command line: texts of the API speak of parameters and calls, a terminal of options and commands.

    `preset='unit'`                                    --preset unit
    `learning_rate`                                    --lr
    `Scoring(max_memory='2GB')`                        --scoring-memory 2GB
    `bind={'sr': 16000}`                               --input sr=16000
    `open_model('m.onnx', dims={'steps': SIZE})`       adabet-onnx import m.onnx -o fixed.onnx --dim steps=SIZE

A piece (see `pieces`) with anything in it that is no parameter or function of ours stays as it is.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..pieces import replaced

PROGRAM = "adabet-onnx"

_SAME = (  # the option is called as the parameter is
    "accumulate aggregation allow_resize append augment backend base batch_norm batch_size batches bgr "
    "channel_rho channels check class_axis class_weights client_memory clients clip_norm costs embeddings entries "
    "entry epochs estimator features features_memory fisher frozen frozen_precision groups head head_init "
    "ignore_label keep_features keep_tail label_smoothing layers layout local_epochs local_steps logits loss "
    "malicious max_accumulate max_memory max_norm max_step_time max_update mean measure minimum model momentum "
    "num_classes optimizer order ort_format partition patience per_round personal preset privacy_clip "
    "privacy_noise profile provider proximal ray recompute resume retries rho rounds samples save_predictions scale "
    "schedule seed seeds server_rate sketch start std strategies strategy subset_size subsets threads "
    "train_samples validation views weight_decay weights "
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
OF_CLASSES: dict[str, dict[str, str]] = {  # options classes; what a name means in one of them alone
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
_SHARES = frozenset({"max_memory_share", "max_step_time"})  # of what training all layers takes: 0.5x
_LISTS = frozenset(
    {"augment", "class_weights", "client_memory", "mean", "rates", "rhos", "std", "strategies", "weights"}
)  # with commas; others are given again


class Command(NamedTuple):
    """A command, and the parameters of its function by position; ``-o`` is what it writes."""

    words: str
    takes: tuple[str, ...]
    writes: str | None = None


COMMANDS = {
    "adapt": Command("run", ("model", "data", "-o")),
    "apply_delta": Command("delta apply", ("folder", "delta", "-o")),
    "check_model": Command("check", ("model",)),
    "compare": Command("compare", ("model", "data", "-o")),
    "evaluate": Command("evaluate", ("model", "data")),
    "export_model": Command("export", ("folder", "-o")),
    "fit": Command("train", ("folder", "data")),
    "load_delta": Command("delta show", ("path",)),
    "make_artifacts": Command("artifacts", ("model", "selection", "-o")),
    "make_device": Command("device", ("folder", "-o")),
    "make_menu": Command("menu", ("model", "-o")),
    "merge_deltas": Command("fleet round", ("folder", "deltas", "-o")),
    "new_head": Command("new-head", ("model", "--num-classes"), "headed.onnx"),
    "open_model": Command("import", ("model",), "fixed.onnx"),
    "predict": Command("predict", ("model", "inputs")),
    "save_delta": Command("delta save", ("folder", "-o")),
    "save_model": Command("import", ("model", "-o")),
    "score": Command("score", ("model", "data"), "scores.json"),
    "select": Command("select", ("scores",), "selection.json"),
    "simulate_fleet": Command("fleet simulate", ("model", "data", "-o")),
    "stability": Command("stability", ("model", "data"), "stability.json"),
    "write_predictions": Command("evaluate", ("model", "data", "--save-predictions")),
    "write_report": Command("report", ("folder", "-o")),
}
_ANY = ast.Constant(...)
_ELSEWHERE = {"model.layers": f"{PROGRAM} inspect"}
_TOLD = frozenset(
    {
        "advice",
        "because",
        "features",
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


class _UnknownError(Exception):
    """A piece that is not ours."""


def translate(text: str) -> str:
    """A text of the API for who types commands."""
    return replaced(text, _said) if "`" in text else text


def translated(value: Any, *, told: bool = False) -> Any:
    """What a command prints as JSON: texts under the keys that hold what people are told, such as ``notes``.

    Args:
        value: of JSON.
        told: whether it stands under such a key.
    """
    if isinstance(value, dict):
        return {key: translated(item, told=told or key in _TOLD) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [translated(item, told=told) for item in value]
    return translate(value) if told and isinstance(value, str) else value


def _said(piece: ast.Call) -> str | None:
    try:
        return _joined([_item(item) for item in piece.args], piece.keywords, {})
    except _UnknownError:
        return None


def _joined(words: Sequence[str], keywords: Sequence[ast.keyword], known: dict[str, str]) -> str:
    """Words and options, as they are typed; where options have no values, as they are listed."""
    listed = all(isinstance(item.value, ast.Constant) and item.value.value is ... for item in keywords)
    return (", " if listed else " ").join([*words, *(_option(item.arg, item.value, known) for item in keywords)])


def _item(node: ast.expr) -> str:
    """What stands for itself: a parameter's name, a function's, a call."""
    if isinstance(node, ast.Name) and node.id in OPTIONS:
        return OPTIONS[node.id]
    if isinstance(node, ast.Name) and node.id in COMMANDS:
        return f"{PROGRAM} {COMMANDS[node.id].words}"
    if isinstance(node, ast.Attribute) and ast.unparse(node) in _ELSEWHERE:
        return _ELSEWHERE[ast.unparse(node)]
    if not isinstance(node, ast.Call):
        raise _UnknownError
    if isinstance(node.func, ast.Name) and node.func.id in OF_CLASSES:
        return _of_class(node)
    return _command(node)


def _of_class(call: ast.expr) -> str:
    """The options of an object that holds them: ``Choices(loss='mse')``."""
    known = OF_CLASSES.get(call.func.id) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else None
    if not isinstance(call, ast.Call) or known is None or (call.args and ast.unparse(call.func) != "Data"):
        raise _UnknownError
    return _joined([], call.keywords, known)


def _command(call: ast.Call) -> str:
    """A call of a function as a command; of calls in it, the commands before it."""
    name, given = _function(call)
    if name not in COMMANDS:
        raise _UnknownError
    command, before, rest = COMMANDS[name], [], []
    if len(given) > len(command.takes):
        raise _UnknownError
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
    """The name of what is called, and what it is called with by position; of `Trainer(folder).fit(data)`, both."""
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Call) and call.func.attr == "fit":
        return "fit", [*call.func.value.args, *call.args]
    return call.func.id if isinstance(call.func, ast.Name) else "", call.args


def _options_last(words: Sequence[str]) -> Iterable[str]:
    """Arguments, what is written, then options, as they stand in examples."""
    return sorted(words, key=lambda word: 2 if word.startswith("--") else word.startswith("-o "))


def _made(call: ast.Call) -> tuple[list[str], str, list[str]]:
    """An argument that is itself a call: the commands before it, the argument, and options that come with it."""
    name = ast.unparse(call.func)
    if name == "Data" and len(call.args) == 1:
        return [], _placed(call.args[0], "data"), [_of_class(call)]
    if name == "open_model" and len(call.args) == 1 and not call.keywords:
        return [], _placed(call.args[0], "model"), []
    if name not in COMMANDS:
        raise _UnknownError
    written = COMMANDS[name].writes
    if written is None:
        raise _UnknownError
    return [_command(call)], written, []


def _placed(value: ast.expr, parameter: str) -> str:
    """An argument; a variable's name, in capitals, is a placeholder."""
    if isinstance(value, ast.Constant) and value.value is ...:
        return parameter.upper()
    return value.id.upper() if isinstance(value, ast.Name) else _text(value)


def _option(name: str | None, value: ast.expr, known: dict[str, str]) -> str:
    """An argument with a name as an option, or several; ``known``: what names mean in a class of options."""
    if name in _HOLDERS or (name == "threads" and isinstance(value, ast.Call)):  # of `threads=Runtime(...)`
        return _of_class(value)
    option = known.get(name or "") or OPTIONS.get(name or "")
    if option is None or name is None:
        raise _UnknownError
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
    """``NAME=VALUE``: of a value of JSON, a path, a placeholder, or any."""
    if not isinstance(key, ast.Constant):
        raise _UnknownError
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
        raise _UnknownError from error


def _text(value: ast.expr) -> str:
    """One value, quoted for a shell where needed."""
    if isinstance(value, ast.Name) and value.id.isupper():
        return value.id
    try:
        found = ast.literal_eval(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _UnknownError from error
    if isinstance(found, bool) or not isinstance(found, (str, int, float)):
        raise _UnknownError
    return shlex.quote(f"{found:.9g}" if isinstance(found, float) else str(found))
