"""Runs commands in the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from bad_inputs import Result

from adabet_onnx.cli.main import main

Command = Callable[..., Result]


def command_of(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command; it must end with the given exit code."""

    def run(*words: object, code: int = 0) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        result = Result(left.value.code, *capfd.readouterr())
        assert result.code == code, result.err
        assert "Traceback" not in result.err
        return result

    return run
