"""Commands for models: inspect, check, import, new-head, surgery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..vocabulary import PROBES
from . import options, scoring_options
from .common import Bindings, bound_model, once
from .layout import Command, Declared
from .parameters import FILE, Extent
from .printing import show, show_json

if TYPE_CHECKING:
    from ..model.open import Model


_DESCRIBED = (
    "model, sha256, ir_version, opset, inputs (name, dtype, shape), outputs, logits, head, new_head, parameter_count, "
    "frozen, notes, decisions, layers (name, op_type, parameters, parameter_count, applied, activation, "
    "activation_shape, activation_size)"
)


@click.command(cls=Command, epilog=f"JSON: {_DESCRIBED}.")
@click.argument("model", type=FILE)
@options.printed
@options.bind
def inspect(model: Path, bind: Bindings, as_json: bool, quiet: bool) -> None:
    """List a model's inputs, outputs and layers.

    \b
    Example:
      adabet-onnx inspect model.onnx
    """
    from ..model.open import open_model
    from ..report.tables import layers_table

    opened = open_model(bound_model(model, bind))
    if as_json:
        show_json(_description(opened))
    else:
        show(layers_table(opened), quiet)


def _description(model: Model) -> dict[str, Any]:
    from ..trainability.decisions import decisions

    head = model.head
    return {
        "model": model.name,
        "sha256": model.sha256,
        "ir_version": model.graph.ir_version,
        "opset": model.graph.opset_imports.get(""),
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in model.inputs],
        "outputs": [value.name for value in model.graph.graph.outputs],
        "logits": model.logits,
        "head": head.name if head else None,
        "new_head": model.new_head,
        "parameter_count": model.parameter_count,
        "frozen": [asdict(item) for item in model.frozen],
        "notes": list(model.notes),
        "decisions": [asdict(decision) for decision in decisions(model)],
        "layers": [
            {
                "name": layer.name,
                "op_type": layer.op_type,
                "parameters": [parameter.name for parameter in layer.parameters],
                "parameter_count": layer.parameter_count,
                "applied": layer.applied,
                "activation": layer.activation,
                "activation_shape": list(layer.activation_shape or ()),
                "activation_size": layer.activation_size,
            }
            for layer in model.layers
        ],
    }


@click.command(
    cls=Command,
    epilog="JSON: format, version, model, model_sha256, loss, backends (installed, obstacle), layers (name, op_type, "
    "trainable, backend, portable, ort), nodes, decisions.",
)
@click.argument("model", type=FILE)
@options.printed
@options.bind
@Declared(
    "--only", "layers", multiple=True, metavar="GLOB", group="Choosing", help="Check these layers only; repeatable."
).varied(aliases=("--layers",), shown="all")
@options.loss
def check(model: Path, bind: Bindings, layers: tuple[str, ...], loss: str, as_json: bool, quiet: bool) -> None:
    """Report which layers can be trained, and why others cannot.

    For each layer: the backend that can train it, and the repairs made before. Nothing is trained. The exit code is 1
    if no backend can train one of the checked layers.

    \b
    Example:
      adabet-onnx check model.onnx --only 'layer4.*'
    """
    from ..errors import ModelError
    from ..model.open import open_model
    from ..report.tables import check_table
    from ..selection.pool import matching
    from ..trainability.preflight import check_model

    report = check_model(open_model(bound_model(model, bind)), loss=loss)
    if layers:
        names = [layer.name for layer in report.layers]
        report = report.only({names[i] for i in matching(names, layers)})
    if as_json:
        show_json(report.to_json())
    else:
        show(check_table(report), quiet)
    lost = report.untrainable
    if lost:
        name, reason = next(iter(lost.items()))
        raise ModelError(
            f"{report.model}: no backend can train {len(lost)} of {len(report.layers)} layers. Layer {name!r}: {reason}"
        )


@click.command("import", cls=Command, epilog="JSON: output, and what inspect --json prints of the model.")
@click.argument("model", type=FILE)
@options.file.varied(required=True)
@options.printed
@Declared(
    "--logits", metavar="NAME", group="Model", help="The output, or inner value, that the loss is computed from."
).varied(shown="the only output, or the one with that name")
@Declared(
    "--dim",
    "dims",
    type=Extent(),
    multiple=True,
    metavar="NAME=SIZE",
    group="Model",
    help="Size of a dimension that is dynamic in the file; repeatable.",
)
@options.bind
def import_(
    model: Path,
    output: Path,
    logits: str | None,
    dims: tuple[tuple[str, int], ...],
    bind: Bindings,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a model as the other commands see it, in plain float32.

    It keeps the outputs that are computed from its logits, and only the batch stays dynamic. For models that the other
    commands cannot open unchanged, and to see what opening changes.

    \b
    Example:
      adabet-onnx import bert.onnx -o fixed.onnx --logits logits --dim sequence=64
      adabet-onnx import vad.onnx -o fixed.onnx --dim samples=576 --input sr=16000
    """
    from ..files import check_output
    from ..model.open import open_model
    from ..model.saving import save_model

    check_output(output)
    opened = open_model(model, logits=logits, dims=dict(dims), bind=once(bind))
    save_model(opened, output)
    if as_json:
        show_json({"output": str(output), **_description(opened)})
        return
    for note in opened.notes:
        show(note, quiet)
    shapes = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in opened.inputs)
    show(f"{output}: {len(opened.layers)} layers, input {shapes}, logits {opened.logits}", quiet)


@click.command("new-head", cls=Command, epilog="JSON: output, and what inspect --json prints of the model.")
@click.argument("model", type=FILE)
@options.file.varied(required=True)
@options.printed
@options.num_classes.varied(required=True)
@options.keep_tail
@options.append
@options.bind
@options.seed
def new_head(
    model: Path,
    bind: Bindings,
    num_classes: int,
    output: Path,
    keep_tail: bool,
    append: bool,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Give a model a new last layer, for another number of classes.

    Its weights are random. A final Softmax or Sigmoid is removed, as is what belongs to the old outputs: the
    normalisation of an embedding, an activation, a temperature. ConvTranspose layers that only upsample the output of
    the last layer upsample the new outputs.

    \b
    Example:
      adabet-onnx new-head model.onnx --num-classes 5 -o model5.onnx
      adabet-onnx new-head faces.onnx --num-classes 5 -o model5.onnx --append
    """
    from ..files import replacing
    from ..model.head import new_head as make_new_head
    from ..model.open import open_model

    opened = open_model(bound_model(model, bind))
    made = make_new_head(opened, num_classes, seed=seed, keep_tail=keep_tail, append=append)
    with replacing(output) as part:
        part.write_bytes(made.proto().SerializeToString())
    if as_json:
        show_json({"output": str(output), **_description(made)})
        return
    for note in made.notes[len(opened.notes) :]:
        show(note, quiet)
    show(
        f"{output}: new head {made.head.name if made.head else ''} with {num_classes} outputs, which are logits", quiet
    )


@click.command(cls=Command, epilog="JSON: output, kind, outputs (their names, by layer).")
@click.argument("model", type=FILE)
@options.file.varied(required=True)
@Declared("--outputs", type=click.Choice(PROBES), required=True, group="Output", help="What to expose for every layer.")
@scoring_options.sketch.varied(metavar="K", help="Size of the sketches that distances are computed from.")
@options.seed
@options.printed
@options.bind
def surgery(
    model: Path,
    bind: Bindings,
    outputs: str,
    sketch: int | str,
    seed: int,
    output: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Expose activations, Gram matrices or sketches as outputs.

    For every layer, the output is its activation, the centred Gram matrix of a batch of activations, or a sketch of
    each sample's activation: numbers whose distances approximate those of the activations. The file's metadata has the
    outputs' names by layer under adabet_onnx.probes, and the size and seed of sketches under adabet_onnx.sketch.

    \b
    Example:
      adabet-onnx surgery model.onnx --outputs gram -o probed.onnx
      adabet-onnx surgery model.onnx --outputs sketch -o probed.onnx
    """
    import onnx_ir as ir

    from ..errors import UsageError
    from ..files import replacing
    from ..model.open import open_model
    from ..scoring.options import check_sketch
    from ..scoring.probes import add_probes
    from ..scoring.sketch import SKETCH

    if outputs != "sketch" and sketch != "auto":
        raise UsageError(f"--sketch is for --outputs sketch, not for {outputs}: leave it out, or use --outputs sketch.")
    if sketch == "off":
        raise UsageError("--sketch off means exact distances, which follow from Gram matrices: use --outputs gram.")
    check_sketch(sketch)
    size = SKETCH if isinstance(sketch, str) else sketch
    probed, names = add_probes(open_model(bound_model(model, bind)), outputs, sketch=size, seed=seed)
    with replacing(output) as part:
        part.write_bytes(ir.to_proto(probed).SerializeToString())
    if as_json:
        show_json({"output": str(output), "kind": outputs, "outputs": names})
        return
    show(f"{output}: {len(names)} outputs ({outputs})", quiet)
