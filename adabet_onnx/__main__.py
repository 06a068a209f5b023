"""Entry point of ``python -m adabet_onnx``: the command line."""

from .cli import main

main()
