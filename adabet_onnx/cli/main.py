"""The command group, and the translation of errors into one message and an exit code."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from typing import TextIO

import click

from ..errors import AdabetError, ProviderWarning
from ..version import __version__
from .commands import Commands, LazyGroup

_EPILOG = """\b
For completion with the Tab key, add this to ~/.bashrc (zsh: zsh_source in ~/.zshrc):
  eval "$(_ADABET_ONNX_COMPLETE=bash_source adabet-onnx)"
"""
_as_usual = warnings.showwarning


@click.group(
    cls=LazyGroup,
    commands=Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="adabet-onnx")
def cli() -> None:
    """Choose the few layers of an ONNX model worth retraining on new data, and retrain just those.

    \b
    Example:
      adabet-onnx run model.onnx new_domain.npz -o adapted/
    """


def main() -> None:
    """Run the command line; exit with 2 for usage errors, 1 for failures, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):  # characters that the stream cannot encode become ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # damaged files are reported by our own errors
    warnings.showwarning = _warned
    sys.exit(_run())


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as one line, any other as Python does."""
    if issubclass(category, ProviderWarning):
        from .translate import translate

        click.echo(f"Note: {translate(str(message))}", err=True)
    else:
        _as_usual(message, category, filename, lineno, file, line)


def _run() -> int:
    try:
        code = cli.main(prog_name="adabet-onnx", standalone_mode=False)  # a number if a command exited
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AdabetError as error:
        from .translate import translate

        click.echo(f"Error: {translate(str(error))}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        from .next_steps import after_interruption

        command = after_interruption(sys.argv[1:])
        click.echo("Interrupted." if command is None else f"Interrupted. Resume with: {command}", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        click.echo("Error: out of memory. Give a smaller batch size or less data.", err=True)
        return 1
    except Exception as error:  # a bug: one sentence for users, the traceback on request
        if os.environ.get("ADABET_DEBUG"):
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}. This is a bug in adabet-onnx. Please report it, with the output "
            "of ADABET_DEBUG=1.",
            err=True,
        )
        return 1
    return code if isinstance(code, int) else 0
