"""The one door to onnxruntime's static quantiser."""

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
    """A float32 graph with 8-bit integers: QuantizeLinear and DequantizeLinear around each operator.

    Weights are int8 of 7 bits (-64 to 64), with a scale for each output channel; activations uint8, with the range that
    they have on samples. Of 8 bits, sums of two products overflow the 16 bits that x86 processors without VNNI have for
    them, and results are far off there without a word.

    Args:
        model: the graph, of opset 13 or newer.
        feeds: batches of samples by input.
        name: what to call the model in an error message.
        left_out: names of nodes that stay in float32.

    Raises:
        ModelError: it cannot be quantised.
        OutputError: there is no room for its temporary files.
        RuntimeMissingError: the quantiser lacks something.
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
        except Exception as error:  # whatever its Python code raises
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
            f"`frozen_precision='int8'` needs onnxruntime's quantiser, which cannot be imported: {error}. Install what "
            "it lacks (pip install sympy, or another release of onnx), or use `frozen_precision='float32'`."
        ) from error


def _reader(api: Any, feeds: Iterable[Mapping[str, np.ndarray]]) -> Any:
    left = iter(feeds)

    class Reader(api.CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch after the other."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next batch; None at the end."""
            batch = next(left, None)
            return None if batch is None else dict(batch)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice, which is not for who adapts a model."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
