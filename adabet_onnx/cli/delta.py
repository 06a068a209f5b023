"""Commands for what a training changed: delta save, show, apply, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..showing import counted
from ..sizes import size_text
from . import options
from .layout import Command
from .parameters import FILE, FOLDER
from .printing import show, show_json

if TYPE_CHECKING:
    from ..device.delta import Delta


@click.command(
    "save",
    cls=Command,
    epilog="JSON: output, model_sha256, entry (the choice of layers), sha256 (of the numbers), tensors (name, shape).",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.file.varied(required=True)
@options.printed
def save(folder: Path, output: Path, as_json: bool, quiet: bool) -> None:
    """Write what a training changed, to be sent elsewhere.

    Of the folder of artifacts DIR: the best checkpoint, else the last. The file is a safetensors file that knows the
    model it is for.

    \b
    Example:
      adabet-onnx delta save artifacts/ -o personal.safetensors
    """
    from ..device.deltas import save_delta

    delta = save_delta(folder, output)
    if as_json:
        show_json({"output": str(output), **_about(delta)})
        return
    show(f"{output}: {_amount(delta)}, for the model {delta.model_sha256}", quiet)


@click.command(
    "show",
    cls=Command,
    epilog="JSON: model_sha256, entry (the choice of layers), sha256 (of the numbers, as they are), tensors (name, "
    "shape), whole (whether that is the SHA-256 they were written with), finite (whether all numbers are).",
)
@click.argument("delta", metavar="FILE", type=FILE)
@options.printed
def show_(delta: Path, as_json: bool, quiet: bool) -> None:
    """Say what a delta holds and which model it is for.

    A file whose numbers were altered is shown as well, and is said to be one.

    \b
    Example:
      adabet-onnx delta show personal.safetensors
    """
    from ..device.delta import all_finite, inspect_delta

    inspected = inspect_delta(delta)
    found, finite = inspected.delta, all_finite(inspected.delta.tensors)
    if as_json:
        show_json({**_about(found), "whole": inspected.whole, "finite": finite})
        return
    show(f"model: {found.model_sha256}", quiet)
    show(f"entry: {found.entry}", quiet)
    for name, array in found.tensors.items():
        show(f"{name}  {list(array.shape)}  {size_text(array.nbytes)}", quiet)
    show(_amount(found), quiet)
    show("SHA-256: right" if inspected.whole else "SHA-256: WRONG, the file was altered", quiet)
    if not finite:
        show("numbers: some are NaN or infinite", quiet)


@click.command(
    "apply", cls=Command, epilog="JSON: output, written (model, an ONNX model, or selected, a file of a package)."
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("delta", type=FILE)
@options.file.varied(required=True)
@options.printed
def apply(folder: Path, delta: Path, output: Path, as_json: bool, quiet: bool) -> None:
    """Put a delta into the model that it belongs to.

    DIR is a folder of artifacts, of which the adapted ONNX model is written, or a device package, of which the file is
    written that its personal model reads trained values from.

    \b
    Example:
      adabet-onnx delta apply artifacts/ personal.safetensors -o adapted.onnx
      adabet-onnx delta apply device/ personal.safetensors -o selected.bin
    """
    from ..device.deltas import MODEL, apply_delta

    written = apply_delta(folder, delta, output)
    if as_json:
        show_json({"output": str(output), "written": written})
        return
    what = "the adapted model" if written == MODEL else "the trained values that the package's personal model reads"
    show(f"{output}: {what}", quiet)


@click.command(
    "diff",
    cls=Command,
    epilog="JSON: same_model, same_entry, tensors (name, shapes, distance, relative: to the norm in A, null where that "
    "is 0 or shapes differ), only_first, only_second.",
)
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@options.printed
def diff(first: Path, second: Path, as_json: bool, quiet: bool) -> None:
    """Say how far two deltas are apart, tensor by tensor.

    Distances are Euclidean, and relative to the norm of the tensor in A.

    \b
    Example:
      adabet-onnx delta diff monday.safetensors tuesday.safetensors
    """
    from ..device.delta import load_delta
    from ..device.deltas import compare_deltas

    found = compare_deltas(load_delta(first), load_delta(second))
    if as_json:
        show_json(
            {
                "same_model": found.same_model,
                "same_entry": found.same_entry,
                "tensors": [apart.to_json() for apart in found.tensors],
                "only_first": list(found.only_first),
                "only_second": list(found.only_second),
            }
        )
        return
    if not found.same_model:
        show("They are for different models.", quiet)
    if not found.same_entry:
        show("They are of different choices of layers.", quiet)
    for apart in found.tensors:
        if apart.distance is None:
            said = f"shapes {list(apart.shapes[0])} and {list(apart.shapes[1])}"
        else:
            share = "" if apart.relative is None else f"  {apart.relative:.3g} of its norm"
            said = f"distance {apart.distance:.4g}{share}"
        show(f"{apart.name}  {said}", quiet)
    for path, names in ((first, found.only_first), (second, found.only_second)):
        for name in names:
            show(f"{name}  only in {path}", quiet)


def _about(delta: Delta) -> dict[str, object]:
    tensors = [{"name": name, "shape": list(array.shape)} for name, array in delta.tensors.items()]
    return {
        "model_sha256": delta.model_sha256,
        "entry": delta.entry,
        "sha256": delta.sha256,
        "tensors": tensors,
    }


def _amount(delta: Delta) -> str:
    arrays = delta.tensors.values()
    size = size_text(sum(array.nbytes for array in arrays))
    return f"{sum(array.size for array in arrays):,} numbers in {counted(len(arrays), 'tensor')}, {size}"
