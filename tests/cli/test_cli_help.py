"""The texts of --help: headings, nothing truncated, one meaning per option name; and the imports at startup."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT

import adabet_onnx
from adabet_onnx import vocabulary
from adabet_onnx.cli.commands import ENTRIES, SECTIONS
from adabet_onnx.cli.layout import GROUPS, Option
from adabet_onnx.cli.main import cli
from adabet_onnx.portable.profiles import PROFILES
from adabet_onnx.selection.rankings import _SCORED
from adabet_onnx.training.schedule import SCHEDULES

# Modules that are slow to import, and those of the actual work.
HEAVY = [
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "sympy",
    "scipy",
    "matplotlib",
    "ripser",
    "multiprocessing",
    "rich",
    "PIL",
    "jinja2",
    "psutil",
    "safetensors",
    "tomllib",
    "tomli",
    "tomli_w",
]
INSIDE = [
    "model",
    "data",
    "scoring",
    "selection",
    "portable",
    "training",
    "cost",
    "device",
    "fleet",
    "outcome",
    "pipeline",
    "adaptation",
    "study",
    "report",
    "demo",
    "runtime",
    "records",
    "files",
]
# Where commands may differ in more than the default of an option, and what differs.
VARIED = {
    "-o/--output": {"help", "metavar"},
    "--data": {"help"},  # read for other purposes
    "--epochs": {"help"},  # cost does not train
    "--lr": {"help"},  # a fleet has no search
    "--profile": {"type"},  # devices have more profiles
    "--sketch": {"help", "metavar"},  # off only where scores are computed
}
# Names that options had before, by command.
ALIASES = {
    "score": {"--max-memory": "scoring_memory", "--batch-size": "batch_points"},
    "check": {"--layers": "layers"},
    "compare": {"--rho": "rho", "--lr": "rates", "--source": "old_domain"},
    "stability": {"--samples": "max_samples", "--seeds": "seeds"},
}


def help_of(*words: str) -> str:
    """What --help prints at 80 columns."""
    found = CliRunner().invoke(cli, [*words, "--help"], prog_name="adabet-onnx", terminal_width=80)
    assert found.exit_code == 0
    return found.output


def options_of(command: str) -> list[Option]:
    return [option for option in cli.commands[command].params if isinstance(option, Option)]


def imported_by(code: str) -> set[str]:
    """The modules loaded after some code in a new process, which may end with SystemExit."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('\\n', *sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ADABET_DEBUG": "1"}  # no process is forked
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.splitlines()[-1].split())


# --- starting up -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [None, ["--version"], ["--help"], *([*name.split(), "--help"] for name in ENTRIES), ["run", "--epochs", "none"]],
)
def test_starting_up_imports_little(words):
    code = "import adabet_onnx"
    if words is not None:
        code = f"sys.argv = {['adabet-onnx', *words]!r}; from adabet_onnx.cli import main; main()"
    found = imported_by(code)
    assert "adabet_onnx" in found
    assert ("click" in found) == (words is not None)
    assert {name for name in found if name.split(".")[0] in HEAVY} == set()
    assert {name for name in found if name.startswith("adabet_onnx.") and name.split(".")[1] in INSIDE} == set()


def test_help_of_the_group_imports_no_command():
    found = imported_by("sys.argv = ['adabet-onnx', '--help']; from adabet_onnx.cli import main; main()")
    assert not found & {f"adabet_onnx.cli.{entry.module}" for entry in ENTRIES.values()}


def test_public_names_are_imported_where_they_are():
    """Import statements for type checkers, and a table for lazy imports: the two agree."""
    tree = ast.parse(Path(adabet_onnx.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: f".{node.module}" for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert homes == adabet_onnx._HOMES
    assert all(getattr(adabet_onnx, name).__name__ == name for name in homes)
    assert set(dir(adabet_onnx)) >= set(adabet_onnx.__all__)
    with pytest.raises(AttributeError, match="'adabet_onnx' has no attribute 'scores'"):
        adabet_onnx.scores  # noqa: B018


def test_words_are_those_that_are_known():
    assert tuple(PROFILES) == vocabulary.PROFILES
    assert tuple(SCHEDULES) == vocabulary.SCHEDULES
    assert set(vocabulary.STRATEGIES) > set(_SCORED)


# --- help ------------------------------------------------------------------------------------------------------------


def test_summaries_are_the_first_sentences_of_the_commands():
    for name, entry in ENTRIES.items():
        first = (cli.commands[name].help or "").split("\n\n")[0]
        assert entry.summary == first
        assert entry.summary.endswith(".")
        assert len(entry.summary) <= 62, "a line at 80 columns"


def test_commands_stand_under_headings_in_the_order_of_the_work():
    text = help_of()
    places = [text.index(f"\n{title}:\n") for title in SECTIONS]
    assert places == sorted(places)
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line.split("  ")[0] in ENTRIES]
    assert found == [f"{name:<14}  {entry.summary}" for name, entry in ENTRIES.items()]


@pytest.mark.parametrize("command", ENTRIES)
def test_help_at_80_columns(command):
    text = help_of(*command.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in re.sub(r"\w+,\.\.\.", "", text), "nothing is cut"
    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == [group for group in GROUPS if group in headings]
    assert headings[-1] == "Runtime"
    words = " ".join(text.split())
    for option in options_of(command):
        assert option.group in GROUPS
        assert option.help
        assert option.help in words, f"{option.name} is all there"
        beginning = text.index(f"{option.group}:\n")
        assert re.search(rf"^  (-\w, )?{option.opts[-1]}\b", text[beginning:], re.MULTILINE)


@pytest.mark.parametrize("command", ENTRIES)
def test_defaults_are_shown(command):
    """Of all options that have one; switches that are off and absent limits have none."""
    context = click.Context(cli.commands[command])
    for option in options_of(command):
        shown = option.get_help_extra(context).get("default")
        default = option.get_default(context)
        if option.is_flag and not option.secondary_opts:
            assert shown is None
        elif isinstance(default, (str, int, float)):
            assert shown, option.name
            assert option.secondary_opts or shown == str(default) or isinstance(option.show_default, str)


# --- one meaning per name --------------------------------------------------------------------------------------------


def test_an_option_means_the_same_in_every_command():
    meanings: dict[str, dict[str, set[object]]] = defaultdict(lambda: defaultdict(set))
    for command in ENTRIES:
        for option in options_of(command):
            found = meanings["/".join([*option.opts, *option.secondary_opts])]
            found["help"].add(option.help)
            found["metavar"].add(option.metavar)
            found["type"].add(str(option.type.to_info_dict()))
            found["group"].add(option.group)
            found["name"].add(option.name)
            found["how"].add((option.is_flag, option.multiple, option.nargs))
    differing = {name: {what for what, seen in found.items() if len(seen) > 1} for name, found in meanings.items()}
    assert {name: what for name, what in differing.items() if what} == VARIED
    names = [name for joined in meanings for name in joined.split("/")]
    assert len(set(names)) == len(names), "no name stands for two options"


def test_names_from_before_still_work():
    found = {
        command: {alias: option.name for option in options_of(command) for alias in option.aliases}
        for command in ENTRIES
    }
    assert {command: aliases for command, aliases in found.items() if aliases} == ALIASES
    for command, aliases in ALIASES.items():
        text = help_of(command)
        for alias, name in aliases.items():
            (option,) = [option for option in options_of(command) if option.name == name]
            assert not re.search(rf"^ +(-\w, )?{alias}\b", text, re.MULTILINE), "no help shows it"
            value = {"--max-memory": "64MB", "--source": str(ROOT)}.get(alias, "7")
            given = [
                cli.commands[command].make_context(command, [str(Path(__file__))] * 2 + more, resilient_parsing=True)
                for more in ([alias, value], [option.opts[-1], value])
            ]
            assert given[0].params[name] == given[1].params[name] != option.get_default(given[0])
