"""Commands about models: inspect, check, import, new-head, surgery."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import onnx_ir as ir

from ..errors import ModelError
from ..files import check_output, replacing
from ..model.head import new_head as make_new_head
from ..model.open import Model, open_model
from ..model.saving import save_model
from ..report.tables import check_table, layers_table
from ..scoring.probes import KINDS, add_probes
from ..selection.strategies import matching
from ..trainability.choices import LOSSES
from ..trainability.decisions import decisions
from ..trainability.preflight import check_model
from .common import Bindings, bound_model, input_option, once, quiet_option, seed_option
from .parameters import FILE, OUTPUT, Extent
from .printing import show, show_json


@click.command()
@click.argument("model", type=FILE)
@input_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def inspect(model: Path, bind: Bindings, as_json: bool, quiet: bool) -> None:
    """List a model's inputs, output and layers.

    \b
    Example:
      adabet-onnx inspect model.onnx
    """
    opened = open_model(bound_model(model, bind))
    if as_json:
        show_json(_description(opened))
    else:
        show(layers_table(opened), quiet)


def _description(model: Model) -> dict[str, Any]:
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


@click.command()
@click.argument("model", type=FILE)
@click.option("--layers", multiple=True, metavar="GLOB", help="Only these layers; repeatable.")
@click.option("--loss", type=click.Choice(LOSSES), default="cross-entropy", show_default=True, help="To minimise.")
@input_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def check(model: Path, bind: Bindings, layers: tuple[str, ...], loss: str, as_json: bool, quiet: bool) -> None:
    """Say which layers can be trained, with which backend, and what stands in the way. Nothing is trained.

    The exit code is 1 if one of the layers asked about can be trained by no backend.

    \b
    Example:
      adabet-onnx check model.onnx --layers 'layer4.*'
    """
    found = check_model(open_model(bound_model(model, bind)), loss=loss)
    if layers:
        names = [layer.name for layer in found.layers]
        found = found.only({names[i] for i in matching(names, layers)})
    if as_json:
        show_json(found.to_json())
    else:
        show(check_table(found), quiet)
    lost = found.untrainable
    if lost:
        name, reason = next(iter(lost.items()))
        raise ModelError(
            f"{found.model}: no backend can train {len(lost)} of {len(found.layers)} layers. Layer {name!r}: {reason}"
        )


@click.command("import")
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The .onnx file to write.")
@click.option("--logits", metavar="NAME", help="The output, or value inside, that a loss is computed from.")
@click.option(
    "--dim",
    "dims",
    type=Extent(),
    multiple=True,
    metavar="NAME=SIZE",
    help="The size of a dimension that the file leaves open; repeatable.",
)
@input_option
@quiet_option
def import_(
    model: Path, output: Path, logits: str | None, dims: tuple[tuple[str, int], ...], bind: Bindings, quiet: bool
) -> None:
    """Write a model as it is opened here: in float32, with the outputs made from its logits, only the batch open.

    For models that the other commands cannot take as they are, and to see what opening changes.

    \b
    Example:
      adabet-onnx import bert.onnx -o fixed.onnx --logits logits --dim sequence=64
      adabet-onnx import vad.onnx -o fixed.onnx --dim samples=576 --input sr=16000
    """
    check_output(output)
    opened = open_model(model, logits=logits, dims=dict(dims), bind=once(bind))
    save_model(opened, output)
    for note in opened.notes:
        show(note, quiet)
    shapes = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in opened.inputs)
    show(f"{output}: {len(opened.layers)} layers, input {shapes}, logits {opened.logits}", quiet)


@click.command("new-head")
@click.argument("model", type=FILE)
@click.option("--num-classes", type=int, required=True, help="Outputs of the new head.")
@click.option("-o", "--output", type=OUTPUT, required=True, help="The .onnx file to write.")
@click.option("--keep-tail", is_flag=True, help="Keep what follows the old head: a normalisation, activation, scale.")
@click.option("--append", is_flag=True, help="Keep every layer, and put a linear classifier on the outputs.")
@input_option
@seed_option
@quiet_option
def new_head(
    model: Path,
    bind: Bindings,
    num_classes: int,
    output: Path,
    keep_tail: bool,
    append: bool,
    seed: int,
    quiet: bool,
) -> None:
    """Give the last layer a new number of outputs, with fresh weights.

    A final Softmax or Sigmoid is dropped, and what belongs to the old outputs: the normalisation of an embedding, an
    activation, a temperature. ConvTranspose layers that only enlarge what the last layer gives enlarge the new
    outputs.

    \b
    Example:
      adabet-onnx new-head model.onnx --num-classes 5 -o model5.onnx
      adabet-onnx new-head faces.onnx --num-classes 5 -o model5.onnx --append   # a classifier on an embedding
    """
    opened = open_model(bound_model(model, bind))
    made = make_new_head(opened, num_classes, seed=seed, keep_tail=keep_tail, append=append)
    with replacing(output) as part:
        part.write_bytes(made.proto().SerializeToString())
    for note in made.notes[len(opened.notes) :]:
        show(note, quiet)
    show(
        f"{output}: new head {made.head.name if made.head else ''} with {num_classes} outputs, which are logits", quiet
    )


@click.command()
@click.argument("model", type=FILE)
@click.option("--outputs", type=click.Choice(KINDS), required=True, help="What to expose of every layer.")
@click.option("-o", "--output", type=OUTPUT, required=True, help="The .onnx file to write.")
@input_option
@quiet_option
def surgery(model: Path, bind: Bindings, outputs: str, output: Path, quiet: bool) -> None:
    """Expose every layer's activation, or its centred Gram matrix, as an output of the graph.

    The outputs' names, by layer, stand in the file's metadata under adabet_onnx.probes.

    \b
    Example:
      adabet-onnx surgery model.onnx --outputs gram -o probed.onnx
    """
    probed, names = add_probes(open_model(bound_model(model, bind)), outputs)
    with replacing(output) as part:
        part.write_bytes(ir.to_proto(probed).SerializeToString())
    show(f"{output}: {len(names)} outputs ({outputs})", quiet)
