"""Code shared by the converters: options, comparison with the source, metadata, and writing.

A converter creates an ONNX graph in its own way, then passes it to `finish` with a function that runs the source.
Nothing is written unless both give the same output on the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnxruntime
from converting_names import restore_names

OPSET = 17  # read by every onnxruntime that adabet-onnx supports
IR_VERSION = 8
TOLERANCE = 1e-4
BATCHES = (2, 5)  # two sizes, to detect a batch dimension that became fixed
METADATA = "adabet_onnx."  # prefix of the keys that adabet-onnx reads
MOST_BYTES = 2_000_000_000  # protobuf is limited to 2 GiB

Feeds = dict[str, np.ndarray]


class ConversionError(Exception):
    """A conversion failed; the message says what to do."""


@dataclass(frozen=True)
class ModelInput:
    """An input of the model.

    Attributes:
        name: name in the graph.
        shape: shape of one sample.
        dtype: NumPy's name of its type.
        below: for integers, the upper limit (exclusive).
        mask: whether it marks the real tokens of a sequence: ones, then zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2
    mask: bool = False

    def random(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Return a batch of random samples: normally distributed numbers, or integers from 0."""
        if self.mask:
            lengths = rng.integers(1, self.shape[0] + 1, (batch, 1))
            return (np.arange(self.shape[0]) < lengths).astype(self.dtype)
        if self.dtype.startswith("float"):
            return rng.standard_normal((batch, *self.shape)).astype(self.dtype)
        return rng.integers(0, self.below, (batch, *self.shape)).astype(self.dtype)


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all converters have.

    Args:
        doc: the script's docstring, which --help shows.
    """
    argparser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    argparser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    group = argparser.add_argument_group("metadata that adabet-onnx reads from the file")
    group.add_argument(
        "--mean", type=_numbers, help="mean of images after --scale: one number, or one per channel (0.485,...)"
    )
    group.add_argument("--std", type=_numbers, help="standard deviation, in the same form")
    group.add_argument("--scale", type=float, help="scale of images; input = (x * scale - mean) / std (default 1/255)")
    group.add_argument("--classes", help="names of the outputs: a text file with one per line, or cat,dog,...")
    check = argparser.add_argument_group("the comparison with the source")
    check.add_argument(
        "--sample", type=Path, help=".npy or .npz (x or one array per input) with inputs to compare on too"
    )
    check.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest allowed difference, relative to the largest output (default %(default)g)",
    )
    check.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default %(default)d)")
    return argparser


def parse(argparser: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments, and check all that can be checked before a framework is loaded."""
    options = argparser.parse_args(arguments)
    if options.output.is_dir():
        argparser.error(f"--output {options.output} is a folder; give the name of a file, such as model.onnx")
    if not options.tolerance > 0:
        argparser.error(f"--tolerance must be above 0, not {options.tolerance:g}")
    if options.std is not None and 0 in options.std:
        argparser.error("--std must not be 0")
    if options.scale is not None and not (math.isfinite(options.scale) and options.scale):
        argparser.error("--scale must be a number other than 0")
    if options.sample is not None and not options.sample.is_file():
        argparser.error(f"--sample {options.sample} does not exist or is not a file")
    options.classes = _classes(options.classes, argparser)
    return options


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's main function; a failure becomes a message on stderr and exit code 1."""
    warnings.simplefilter("ignore")  # warnings of frameworks about their own internals
    try:
        main()
    except ConversionError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:  # a traceback through a framework does not help users
        print(f"Error: {type(error).__name__}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn whatever a framework raises inside into a ConversionError that starts with ``what``."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:  # frameworks and users' own code raise anything
        text = " ".join(str(error).split())
        raise ConversionError(f"{what}: {type(error).__name__}: {text[:600]}") from error


def say(text: str) -> None:
    """Print a line for the user on stderr."""
    print(text, file=sys.stderr)


def finish(
    proto: onnx.ModelProto,
    inputs: list[ModelInput],
    reference: Callable[[Feeds], np.ndarray],
    named: Feeds,
    options: argparse.Namespace,
    view: Callable[[np.ndarray], np.ndarray] = np.asarray,
    batches: tuple[int, ...] = BATCHES,
) -> None:
    """Restore parameter names, compare with the source, write metadata and file, and report what was kept.

    Args:
        proto: the graph.
        inputs: its inputs, in any order.
        reference: function that runs the source on a batch of inputs and returns its first output.
        named: the source's parameters by name, from which lost names are restored.
        options: the result of `parse`.
        view: function that converts the graph's output to the form of ``reference`` (logits to probabilities).
        batches: sizes of the random batches; a single one if the source has a fixed batch size.

    Raises:
        ConversionError: the graph is not valid, its output differs from the source's, or it cannot be written.
    """
    restore_names(proto, named)
    if proto.ByteSize() >= MOST_BYTES:
        raise ConversionError(f"the model has {proto.ByteSize() / 1e9:.1f} GB; adabet-onnx needs models below 2 GB.")
    with failing("the converted graph is not valid ONNX"):
        onnx.checker.check_model(proto, full_check=True)
    worst, shape = compare(proto, inputs, reference, options, view, batches)
    _write_metadata(proto, options, shape[-1])
    _write(proto, options.output)
    _report(proto, named, worst, options)


def compare(
    proto: onnx.ModelProto,
    inputs: list[ModelInput],
    reference: Callable[[Feeds], np.ndarray],
    options: argparse.Namespace,
    view: Callable[[np.ndarray], np.ndarray] = np.asarray,
    batches: tuple[int, ...] = BATCHES,
) -> tuple[float, tuple[int, ...]]:
    """Run the graph and the source on the same inputs.

    Returns:
        The largest difference relative to the largest output, and the output's shape.

    Raises:
        ConversionError: the difference is above the tolerance, shapes differ, or an output is not finite.
    """
    with failing("ONNX Runtime cannot load the converted graph"):
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(proto.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(options.seed)
    trials = [(f"random inputs, batch {batch}", {i.name: i.random(batch, rng) for i in inputs}) for batch in batches]
    if options.sample is not None:
        trials.append((str(options.sample), _sample(options.sample, inputs)))
    worst, shape = 0.0, ()
    for trial, feeds in trials:
        with failing(f"{trial}: the source model fails"):
            expected = np.asarray(reference(feeds))
        with failing(f"{trial}: the ONNX model fails"):
            output = session.run(None, feeds)[0]
        shape, output = output.shape, view(output)
        if output.shape != expected.shape:
            raise ConversionError(f"{trial}: the source gives shape {expected.shape}, the ONNX model {output.shape}.")
        if not np.isfinite(expected).all():
            raise ConversionError(
                f"{trial}: the source's own output has NaN or infinite values, so nothing can be compared."
            )
        largest = float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(output.astype(np.float64) - expected).max()) / largest
        if not difference <= options.tolerance:
            raise ConversionError(
                f"{trial}: the ONNX model's output differs from the source's by {difference:.2g} of the largest output "
                f"({largest:.3g}), more than --tolerance {options.tolerance:g}. Nothing was written."
            )
        worst = max(worst, difference)
    return worst, shape


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(text)
    return numbers


def _classes(text: str | None, argparser: argparse.ArgumentParser) -> list[str] | None:
    if text is None:
        return None
    try:
        parts = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else text.split(",")
    except (OSError, ValueError) as error:
        argparser.error(f"--classes {text} cannot be read: {error}")
    names = [part.strip() for part in parts if part.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if not names or repeated:
        argparser.error(f"--classes: {f'{repeated[0]!r} is there twice' if repeated else 'there are no names'}")
    return names


def _sample(path: Path, inputs: list[ModelInput]) -> Feeds:
    with failing(f"--sample {path} cannot be read"):
        loaded = np.load(path, allow_pickle=False)
        arrays = {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else {"x": loaded}
    if len(inputs) == 1 and inputs[0].name not in arrays and "x" in arrays:
        arrays[inputs[0].name] = arrays["x"]
    feeds = {}
    for expected in inputs:
        if expected.name not in arrays:
            raise ConversionError(f"--sample {path} has no array {expected.name}; it has {', '.join(sorted(arrays))}.")
        array = arrays[expected.name]
        if array.shape[1:] != expected.shape:
            raise ConversionError(
                f"--sample {path}: samples of {expected.name} have shape {array.shape[1:]}, not {expected.shape}."
            )
        feeds[expected.name] = array.astype(expected.dtype)
    return feeds


def _write_metadata(proto: onnx.ModelProto, options: argparse.Namespace, outputs: int) -> None:
    props = {entry.key: entry.value for entry in proto.metadata_props}
    if any(value is not None for value in (options.mean, options.std, options.scale)):
        scale = 1 / 255 if options.scale is None else options.scale
        mean, std = options.mean or [0.0], options.std or [1.0]
        about = {"scale": scale, "mean": mean, "std": std, "data": "integer"}
        props[METADATA + "preprocessing"] = json.dumps(about)
        if options.scale is None:
            props |= {"mean": json.dumps(mean), "std": json.dumps(std)}
    if options.classes is not None:
        if len(options.classes) != outputs:
            raise ConversionError(f"there are {len(options.classes)} classes, but the model has {outputs} outputs.")
        props[METADATA + "classes"] = json.dumps(options.classes, ensure_ascii=False)
    onnx.helper.set_model_props(proto, props)


def _write(proto: onnx.ModelProto, path: Path) -> None:
    """Write atomically: to a temporary file next to the path, which is then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(proto.SerializeToString())
        os.replace(temporary, path)
    except OSError as error:
        raise ConversionError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _report(proto: onnx.ModelProto, named: Feeds, worst: float, options: argparse.Namespace) -> None:
    names = {tensor.name for tensor in proto.graph.initializer}
    unnamed = [
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.name not in named and tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > 1
    ]
    norms = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
    print(
        f"{options.output}: {norms} batch normalisations, {len(names & set(named))} of {len(named)} parameters by name"
    )
    if unnamed:
        print(f"  not in the source: {', '.join(unnamed[:5])}{' ...' if len(unnamed) > 5 else ''}")
    print(f"  largest difference from the source: {worst:.2g} of the largest output")
