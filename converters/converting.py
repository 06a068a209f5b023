"""What the converters share: their options, the comparison with the source, metadata, and the writing.

A converter makes an ONNX graph its own way, then hands it to `finish` with a function that runs the source. Nothing
is written before both have given the same output on the same inputs.
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
BATCHES = (2, 5)  # two sizes, so that a batch dimension that got fixed shows
METADATA = "adabet_onnx."  # prefix of the keys that adabet-onnx reads
MOST_BYTES = 2_000_000_000  # protobuf ends at 2 GiB
WITH_STATISTICS = 5  # inputs of a BatchNormalization

Feeds = dict[str, np.ndarray]


class ConversionError(Exception):
    """A conversion failed; the message says what to do."""


@dataclass(frozen=True)
class Input:
    """An input of the model.

    Attributes:
        name: in the graph.
        shape: of one sample.
        dtype: NumPy's name of its type.
        below: for integers, the first number that is too large.
        mask: whether it marks the real tokens of a sequence: ones, then zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2
    mask: bool = False

    def random(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """A batch of random samples: normal numbers, or integers from 0."""
        if self.mask:
            lengths = rng.integers(1, self.shape[0] + 1, (batch, 1))
            return (np.arange(self.shape[0]) < lengths).astype(self.dtype)
        if self.dtype.startswith("float"):
            return rng.standard_normal((batch, *self.shape)).astype(self.dtype)
        return rng.integers(0, self.below, (batch, *self.shape)).astype(self.dtype)


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the options that all converters have.

    Args:
        doc: the script's docstring, which --help shows.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    group = made.add_argument_group("what adabet-onnx will read in the file")
    group.add_argument(
        "--mean", type=_numbers, help="of images times --scale: one number, or one per channel (0.485,...)"
    )
    group.add_argument("--std", type=_numbers, help="likewise")
    group.add_argument("--scale", type=float, help="images become input as (x * scale - mean) / std (default 1/255)")
    group.add_argument("--classes", help="names of the outputs: a text file with one a line, or cat,dog,...")
    check = made.add_argument_group("the comparison with the source")
    check.add_argument(
        "--sample", type=Path, help=".npy or .npz (x or one array per input): compare on these inputs too"
    )
    check.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference, as a share of the largest output (default %(default)g)",
    )
    check.add_argument("--seed", type=int, default=0, help="of the random inputs (default %(default)d)")
    return made


def parse(made: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse, and check what can be checked before a framework is loaded."""
    options = made.parse_args(arguments)
    if options.output.is_dir():
        made.error(f"--output {options.output} is a folder; give the name of a file, such as model.onnx")
    if not options.tolerance > 0:
        made.error(f"--tolerance must be above 0, not {options.tolerance:g}")
    if options.std is not None and 0 in options.std:
        made.error("--std must not be 0")
    if options.scale is not None and not (math.isfinite(options.scale) and options.scale):
        made.error("--scale must be a number other than 0")
    if options.sample is not None and not options.sample.is_file():
        made.error(f"--sample {options.sample} does not exist or is not a file")
    options.classes = _classes(options.classes, made)
    return options


def run(main: Callable[[], None]) -> NoReturn:
    """Run a script's main function; a failure becomes a sentence on stderr and exit code 1."""
    warnings.simplefilter("ignore")  # of frameworks, about their own insides
    try:
        main()
    except ConversionError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:  # a traceback through a framework helps nobody who converts a model
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
    """A line for the user, on stderr."""
    print(text, file=sys.stderr)


def finish(
    proto: onnx.ModelProto,
    inputs: list[Input],
    reference: Callable[[Feeds], np.ndarray],
    named: Feeds,
    options: argparse.Namespace,
    view: Callable[[np.ndarray], np.ndarray] = np.asarray,
    batches: tuple[int, ...] = BATCHES,
) -> None:
    """Give parameters their names, compare with the source, write metadata and file, and say what was kept.

    Args:
        proto: the graph.
        inputs: its inputs, in any order.
        reference: runs the source on a batch of inputs and gives its first output.
        named: the source's parameters by name, from which lost names are restored.
        options: of `parse`.
        view: makes of the graph's output what ``reference`` gives (probabilities of logits).
        batches: sizes of the random batches; one, where the source itself takes only that.

    Raises:
        ConversionError: the graph is not valid, its output differs from the source's, or it cannot be written.
    """
    restore_names(proto, named)
    if proto.ByteSize() >= MOST_BYTES:
        raise ConversionError(f"the model has {proto.ByteSize() / 1e9:.1f} GB; adabet-onnx takes models below 2 GB.")
    with failing("the graph that was made is not valid ONNX"):
        onnx.checker.check_model(proto, full_check=True)
    worst, shape = compare(proto, inputs, reference, options, view, batches)
    _write_metadata(proto, options, shape[-1])
    _write(proto, options.output)
    _report(proto, named, worst, options)


def compare(
    proto: onnx.ModelProto,
    inputs: list[Input],
    reference: Callable[[Feeds], np.ndarray],
    options: argparse.Namespace,
    view: Callable[[np.ndarray], np.ndarray] = np.asarray,
    batches: tuple[int, ...] = BATCHES,
) -> tuple[float, tuple[int, ...]]:
    """Run both on the same inputs.

    Returns:
        The largest difference as a share of the largest output, and the output's shape.

    Raises:
        ConversionError: it is above the tolerance, shapes differ, or an output is not finite.
    """
    with failing("ONNX Runtime cannot load the graph that was made"):
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(proto.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(options.seed)
    trials = [(f"random inputs, batch {batch}", {i.name: i.random(batch, rng) for i in inputs}) for batch in batches]
    if options.sample is not None:
        trials.append((str(options.sample), _sample(options.sample, inputs)))
    worst, shape = 0.0, ()
    for what, feeds in trials:
        with failing(f"{what}: the source model fails"):
            expected = np.asarray(reference(feeds))
        with failing(f"{what}: the ONNX model fails"):
            found = session.run(None, feeds)[0]
        shape, found = found.shape, view(found)
        if found.shape != expected.shape:
            raise ConversionError(f"{what}: the source gives shape {expected.shape}, the ONNX model {found.shape}.")
        if not np.isfinite(expected).all():
            raise ConversionError(
                f"{what}: the source's own output has NaN or infinite values, so nothing can be compared."
            )
        largest = float(np.abs(expected).max()) or 1.0
        difference = float(np.abs(found.astype(np.float64) - expected).max()) / largest
        if not difference <= options.tolerance:
            raise ConversionError(
                f"{what}: the ONNX model's output differs from the source's by {difference:.2g} of the largest output "
                f"({largest:.3g}), more than --tolerance {options.tolerance:g}. Nothing was written."
            )
        worst = max(worst, difference)
    return worst, shape


def _numbers(text: str) -> list[float]:
    numbers = [float(part) for part in text.split(",")]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(text)
    return numbers


def _classes(text: str | None, made: argparse.ArgumentParser) -> list[str] | None:
    if text is None:
        return None
    try:
        parts = Path(text).read_text(encoding="utf-8").splitlines() if Path(text).is_file() else text.split(",")
    except (OSError, ValueError) as error:
        made.error(f"--classes {text} cannot be read: {error}")
    names = [part.strip() for part in parts if part.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if not names or repeated:
        made.error(f"--classes: {f'{repeated[0]!r} is there twice' if repeated else 'there are no names'}")
    return names


def _sample(path: Path, inputs: list[Input]) -> Feeds:
    with failing(f"--sample {path} cannot be read"):
        loaded = np.load(path, allow_pickle=False)
        arrays = {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else {"x": loaded}
    if len(inputs) == 1 and inputs[0].name not in arrays and "x" in arrays:
        arrays[inputs[0].name] = arrays["x"]
    feeds = {}
    for wanted in inputs:
        if wanted.name not in arrays:
            raise ConversionError(f"--sample {path} has no array {wanted.name}; it has {', '.join(sorted(arrays))}.")
        array = arrays[wanted.name]
        if array.shape[1:] != wanted.shape:
            raise ConversionError(
                f"--sample {path}: samples of {wanted.name} have shape {array.shape[1:]}, not {wanted.shape}."
            )
        feeds[wanted.name] = array.astype(wanted.dtype)
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
    """Write beside, then rename: there is never half a file under the name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(proto.SerializeToString())
        os.replace(beside, path)
    except OSError as error:
        raise ConversionError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


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
        print(f"  not among the source's: {', '.join(unnamed[:5])}{' ...' if len(unnamed) > 5 else ''}")
    print(f"  largest difference from the source: {worst:.2g} of the largest output")
