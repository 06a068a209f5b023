"""Commands for deltas, the values that training changed: delta save, show, apply, diff."""

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
    epilog="JSON: output, model_sha256, entry (the choice of layers), sha256 (of the values), tensors (name, shape).",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.file.varied(required=True)
@options.printed
def save(folder: Path, output: Path, as_json: bool, quiet: bool) -> None:
    """Write the values that training changed, to be sent elsewhere.

    They are read from the best checkpoint in the artifacts folder DIR, or the last one. The safetensors file records
    which model it is for.

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
    epilog="JSON: model_sha256, entry (the choice of layers), sha256 (of the values in the file), tensors (name, "
    "shape), whole (whether this is the SHA-256 recorded on writing), finite (whether all values are finite).",
)
@click.argument("delta", metavar="FILE", type=FILE)
@options.printed
def show_(delta: Path, as_json: bool, quiet: bool) -> None:
    """Show what a delta contains and which model it is for.

    A file whose values were altered is shown too, with a warning.

    \b
    Example:
      adabet-onnx delta show personal.safetensors
    """
    from ..device.delta import all_finite, inspect_delta

    inspected = inspect_delta(delta)
    content, finite = inspected.delta, all_finite(inspected.delta.tensors)
    if as_json:
        show_json({**_about(content), "whole": inspected.whole, "finite": finite})
        return
    show(f"model: {content.model_sha256}", quiet)
    show(f"entry: {content.entry}", quiet)
    for name, array in content.tensors.items():
        show(f"{name}  {list(array.shape)}  {size_text(array.nbytes)}", quiet)
    show(_amount(content), quiet)
    show("SHA-256: correct" if inspected.whole else "SHA-256: WRONG, the file was altered", quiet)
    if not finite:
        show("values: some are NaN or infinite", quiet)


@click.command(
    "apply",
    cls=Command,
    epilog="JSON: output, written (model: an ONNX model; selected: a file for a device package), replaces (the file of "
    "the package that it takes the place of, or null).",
)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("delta", type=FILE)
@options.file.varied(required=True)
@options.printed
def apply(folder: Path, delta: Path, output: Path, as_json: bool, quiet: bool) -> None:
    """Apply a delta to the model that it belongs to.

    For an artifacts folder DIR, the adapted ONNX model is written; for a device package DIR, its file of trained
    values, which the package's personal model reads, if it has one: selected.bin, or HEAD.selected.bin for the choice
    HEAD of a menu.

    \b
    Example:
      adabet-onnx delta apply artifacts/ personal.safetensors -o adapted.onnx
      adabet-onnx delta apply device/ personal.safetensors -o device/selected.bin
    """
    from ..device.delta import load_delta
    from ..device.deltas import MODEL, apply_delta
    from ..device.description import load_device

    loaded = load_delta(delta)
    written = apply_delta(folder, loaded, output)
    entry = None if written == MODEL else load_device(folder, verify=False).entry(loaded.entry)
    if as_json:
        replaces = None if entry is None else entry.selected
        show_json({"output": str(output), "written": written, "replaces": replaces})
        return
    content = "the adapted model"
    if entry is not None:
        use = "" if entry.model is None else f": in its place, {entry.model} is the personal model"
        content = f"the trained values of {entry.name}, in the form of {entry.selected}{use}"
    show(f"{output}: {content}", quiet)


@click.command(
    "diff",
    cls=Command,
    epilog="JSON: same_model, same_entry, tensors (name, shapes, distance, relative: to the norm in A, null if that is "
    "0 or shapes differ), only_first, only_second.",
)
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@options.printed
def diff(first: Path, second: Path, as_json: bool, quiet: bool) -> None:
    """Compare two deltas, tensor by tensor.

    Prints Euclidean distances, also relative to the norm of the tensor in A.

    \b
    Example:
      adabet-onnx delta diff monday.safetensors tuesday.safetensors
    """
    from ..device.delta import load_delta
    from ..device.deltas import compare_deltas

    comparison = compare_deltas(load_delta(first), load_delta(second))
    if as_json:
        show_json(
            {
                "same_model": comparison.same_model,
                "same_entry": comparison.same_entry,
                "tensors": [apart.to_json() for apart in comparison.tensors],
                "only_first": list(comparison.only_first),
                "only_second": list(comparison.only_second),
            }
        )
        return
    if not comparison.same_model:
        show("The deltas are for different models.", quiet)
    if not comparison.same_entry:
        show("The deltas are for different choices of layers.", quiet)
    for apart in comparison.tensors:
        if apart.distance is None:
            text = f"shapes {list(apart.shapes[0])} and {list(apart.shapes[1])}"
        else:
            share = "" if apart.relative is None else f"  {apart.relative:.3g} of its norm"
            text = f"distance {apart.distance:.4g}{share}"
        show(f"{apart.name}  {text}", quiet)
    for path, names in ((first, comparison.only_first), (second, comparison.only_second)):
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
