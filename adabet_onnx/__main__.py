"""``python -m adabet_onnx`` is the command line."""

from .cli import main

main()
