"""Rules for the public names: docstrings whose examples run, few parameters, types that a checker sees."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import adabet_onnx
from adabet_onnx import errors

NAMES = [name for name in adabet_onnx.__all__ if not name.startswith("_")]
MOST_PARAMETERS = 8
USER_CODE = ROOT / "tests" / "typed" / "user_code.py"


def public(name: str) -> object:
    return getattr(adabet_onnx, name)


def is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, (errors.AdabetError, Warning))


def callables() -> dict[str, object]:
    """Every public function, and every public method of a public class."""
    found: dict[str, object] = {}
    for name in NAMES:
        value = public(name)
        if not isinstance(value, type):
            found[name] = value
        elif not is_exception(value):
            if not dataclasses.is_dataclass(value):
                found[name] = value.__init__
            for key, member in vars(value).items():
                if not key.startswith("_") and inspect.isfunction(member):
                    found[f"{name}.{key}"] = member
    return found


CALLABLES = callables()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_docstring_has(name):
    value = public(name)
    text = inspect.getdoc(value) or ""
    wanted = {"Example:"}
    if inspect.isfunction(value):
        wanted |= {"Args:", "Raises:"}
        if inspect.signature(value).return_annotation not in (None, "None"):
            wanted.add("Returns:")
    elif not is_exception(value):
        wanted |= {"Raises:"} if name not in ("Outcome", "Model", "Scores", "Selection") else set()
        assert "Args:" in text or "Attributes:" in text
    assert not {section for section in wanted if section not in text}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_described(name):
    function = CALLABLES[name]
    owner = public(name) if isinstance(public(name.partition(".")[0]), type) and "." not in name else function
    text = inspect.getdoc(owner) or ""
    assert text
    if "." in name and "Args:" not in text:
        return  # a method whose summary is enough
    for parameter in inspect.signature(function).parameters:
        assert parameter == "self" or f"\n    {parameter}:" in text, f"{name} does not describe {parameter}"


@pytest.mark.parametrize("name", [name for name in NAMES if dataclasses.is_dataclass(public(name))])
def test_every_attribute_is_described(name):
    if name == "Selection":
        return  # its attributes are the entries of its file, described in its module
    text = inspect.getdoc(public(name)) or ""
    missing = [field.name for field in dataclasses.fields(public(name)) if f"\n    {field.name}:" not in text]
    assert not missing


@pytest.mark.parametrize("name", CALLABLES)
def test_few_parameters_and_no_dict_of_them(name):
    parameters = [item for key, item in inspect.signature(CALLABLES[name]).parameters.items() if key != "self"]
    assert len(parameters) <= MOST_PARAMETERS
    assert all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in parameters)
    assert all("dict[str, Any]" not in str(item.annotation) for item in parameters)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the model and the labelled data that the examples use."""
    embedded = Path(adabet_onnx.__file__).parent / "demo"
    shutil.copy(embedded / "digits.onnx", tmp_path / "model.onnx")
    shutil.copy(embedded / "digits_shifted.npz", tmp_path / "new_domain.npz")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name, here, checked_here):
    found = [test for test in doctest.DocTestFinder(recurse=True).find(public(name), name, globs={}) if test.examples]
    assert found
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for test in found:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_an_example_that_is_wrong_fails(here):
    """The test above can fail."""
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner()
    runner.run(wrong, out=lambda text: None)
    assert runner.failures == 1


@pytest.mark.slow
def test_a_type_checker_sees_the_public_types():
    """mypy --strict passes on user code in which every wrong call has an ignore comment (an unused one is an error)."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(USER_CODE)]
    command += ["--follow-imports=silent"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
