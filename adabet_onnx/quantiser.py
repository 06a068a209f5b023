"""The only module that uses onnxruntime's static quantiser."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from . import runtime
from .errors import ModelError, RuntimeMissingError
from .files import temporary_folder
from .isolation import during


def quantised(
    model: onnx.ModelProto,
    feeds: Iterable[Mapping[str, np.ndarray]],
    name: str,
    left_out: Sequence[str] = (),
) -> onnx.ModelProto:
    """Quantise a float32 graph to 8-bit integers: QuantizeLinear and DequantizeLinear around each operator.

    Weights are int8 limited to 7 bits (-64 to 64), with a scale for each output channel; activations are uint8, with
    the range measured on samples. With 8 bits, sums of two products overflow the 16 bits that x86 processors without
    VNNI have for them, and results would silently be far off there.

    Args:
        model: the graph, of opset 13 or newer.
        feeds: batches of samples by input.
        name: name of the model in error messages.
        left_out: names of nodes that stay in float32.

    Raises:
        ModelError: the model cannot be quantised.
        OutputError: there is no space for temporary files.
        RuntimeMissingError: a dependency of the quantiser is missing.
    """
    api = _quantiser()
    with temporary_folder() as folder, _quiet(), during(f"quantising {name}"):
        source, target = folder / "float.onnx", folder / "quantised.onnx"
        source.write_bytes(model.SerializeToString())
        try:
            api.quantize_static(
                str(source),
                str(target),
                _reader(api, feeds),
                quant_format=api.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                nodes_to_exclude=list(left_out),
                activation_type=api.QuantType.QUInt8,
                weight_type=api.QuantType.QInt8,
            )
        except OSError:
            raise
        except Exception as error:  # the quantiser's Python code may raise anything
            raise ModelError(
                f"onnxruntime's quantiser cannot handle {name}: {runtime.first_line(error)} Use "
                "`frozen_precision='float32'`."
            ) from error
        return onnx.load(target)


def _quantiser() -> Any:
    runtime.onnxruntime()
    try:
        return importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise RuntimeMissingError(
            f"`frozen_precision='int8'` needs onnxruntime's quantiser, which cannot be imported: {error}. Install the "
            "missing package (pip install sympy, or another release of onnx), or use `frozen_precision='float32'`."
        ) from error


def _reader(api: Any, feeds: Iterable[Mapping[str, np.ndarray]]) -> Any:
    remaining = iter(feeds)

    class CalibrationFeeds(api.CalibrationDataReader):  # type: ignore[misc]
        """Iterator over the batches, in the quantiser's interface."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next batch; None at the end."""
            batch = next(remaining, None)
            return None if batch is None else dict(batch)

    return CalibrationFeeds()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's warnings, which do not concern users of this package."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
