"""Time and memory of the gradients of convolutions: every strategy, on layers of real networks.

    python tests/benchmarks/bench_conv_rules.py [--batch 8] [--only TEXT] [--seconds 0.4]

The basis of `adabet_onnx/portable/rules/conv_strategy.py` and of the choice between Conv and ConvTranspose. Prints two
tables in Markdown, of the weight's and the image's gradient. Times are ratios to the forward Conv with a constant
weight (one thread, the fastest of many runs); memory is the peak growth of the process in a run, in MB, above inputs
and forward Conv's output. ``**`` marks the choice of the rules. Linux only; ten minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from adabet_onnx.model.dims import dims
from adabet_onnx.portable.builder import Builder
from adabet_onnx.portable.rules import conv as rules
from adabet_onnx.portable.rules.conv_geometry import Geometry
from adabet_onnx.portable.rules.conv_matrix import image_by_matrix
from adabet_onnx.portable.rules.conv_strategy import by_matrix, strategy
from adabet_onnx.portable.rules.conv_weight import weight_gradient

_C = ctypes.CDLL(None)
_MMAP_THRESHOLD = -3  # of mallopt
Make = Callable[..., ir.Value]


def layer(
    channels: int, features: int, size: int, kernel: int, stride: int = 1, groups: int = 1, pad: int | None = None
) -> Geometry:
    """A square 2-D convolution with the padding that keeps the size."""
    pad = (kernel - 1) // 2 if pad is None else pad
    out = (size + 2 * pad - kernel) // stride + 1
    return Geometry(
        channels, features, groups, (kernel,) * 2, (stride,) * 2, (1, 1), (pad,) * 2, (size,) * 2, (out,) * 2
    )


LAYERS = {
    "ResNet-18": [
        layer(3, 64, 224, 7, 2),
        layer(64, 64, 56, 3),
        layer(128, 128, 28, 3),
        layer(256, 256, 14, 3),
        layer(512, 512, 7, 3),
        layer(64, 128, 56, 3, 2),
        layer(256, 512, 14, 3, 2),
        layer(64, 128, 56, 1, 2),
        layer(256, 512, 14, 1, 2),
    ],
    "ResNet-20": [layer(3, 16, 32, 3), layer(16, 16, 32, 3), layer(32, 32, 16, 3), layer(64, 64, 8, 3)],
    "small maps": [
        layer(256, 256, 3, 3, 1, 256),
        layer(336, 336, 4, 3, 1, 336),
        layer(240, 240, 8, 3, 2, 240),
        layer(192, 192, 8, 3, 1, 192),
        layer(672, 672, 7, 5, 1, 672),
        layer(384, 384, 14, 3, 2, 384),
    ],
    "MobileNetV2": [
        layer(3, 32, 224, 3, 2),
        layer(16, 96, 112, 1),
        layer(24, 144, 56, 1),
        layer(32, 192, 28, 1),
        layer(96, 576, 14, 1),
        layer(576, 96, 14, 1),
        layer(960, 160, 7, 1),
        layer(320, 1280, 7, 1),
        layer(32, 32, 112, 3, 1, 32),
        layer(96, 96, 112, 3, 2, 96),
        layer(144, 144, 56, 3, 1, 144),
        layer(144, 144, 56, 3, 2, 144),
        layer(192, 192, 28, 3, 1, 192),
        layer(192, 192, 28, 3, 2, 192),
        layer(576, 576, 14, 3, 1, 576),
        layer(576, 576, 14, 3, 2, 576),
        layer(960, 960, 7, 3, 1, 960),
    ],
    "EfficientNet": [
        layer(144, 144, 56, 5, 2, 144),
        layer(240, 240, 28, 5, 1, 240),
        layer(480, 480, 14, 5, 1, 480),
        layer(32, 32, 64, 5, 1, 32),
    ],
    "ResNeXt": [
        layer(128, 128, 56, 3, 1, 32),
        layer(256, 256, 56, 3, 2, 32),
        layer(512, 512, 14, 3, 1, 32),
        layer(1024, 1024, 7, 3, 1, 32),
    ],
    "VGG": [layer(128, 256, 7, 7, pad=0)],
    "ConvNeXt": [layer(3, 96, 224, 4, 4, pad=0), layer(96, 192, 56, 2, 2, pad=0), layer(96, 96, 56, 7, 1, 96)],
    "ViT": [layer(3, 192, 224, 16, 16, pad=0)],
    "SE": [layer(240, 10, 1, 1), layer(10, 240, 1, 1)],
    "U-Net": [layer(1, 16, 128, 3), layer(8, 16, 64, 3), layer(64, 32, 64, 3), layer(16, 16, 64, 5)],
}


def describe(g: Geometry) -> str:
    """Such as ``64>128 3x3/2 @56``."""
    stride = f"/{g.strides[0]}" if g.strided else ""
    groups = "" if g.groups == 1 else " depthwise" if g.depthwise else f" {g.groups} groups"
    return f"{g.channels}>{g.features} {'x'.join(map(str, g.kernel))}{stride}{groups} @{g.size[0]}"


def shapes(g: Geometry) -> dict[str, list]:
    """Of what the graphs take."""
    return {"x": ["N", g.channels, *g.size], "dy": ["N", g.features, *g.out], "w": list(g.weight_shape)}


def session(make: Make, g: Geometry, inputs: Sequence[str], frozen: np.ndarray | None, *, measured: bool):
    """A graph of the inputs; ``frozen`` is the weight as a constant. With ``measured``, for the memory of a run."""
    values = {n: ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shapes(g)[n])) for n in inputs}
    graph = ir.Graph(list(values.values()), [], nodes=[], opset_imports={"": 17}, name="conv")
    if frozen is not None:
        values["w"] = ir.Value(name="w", const_value=ir.tensor(frozen))
        values["w"].dtype, values["w"].shape = ir.DataType.FLOAT, ir.Shape(frozen.shape)
        graph.register_initializer(values["w"])
    build = Builder(graph, opset=17, batch=values[inputs[0]])
    result = make(build, *values.values())
    if measured:  # the result itself, kept for the caller, does not count
        result = build.op("ReduceSum", result, keepdims=0)
    for value in build.initializers:
        graph.register_initializer(value)
    graph.extend(build.nodes)
    graph.outputs.append(result)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena = not measured
    proto = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    return onnxruntime.InferenceSession(proto, settings, providers=["CPUExecutionProvider"])


def fastest(made: Sequence, feeds: Sequence[dict[str, np.ndarray]], seconds: float) -> list[float]:
    """The fastest of many runs of each session, in turns, into preallocated outputs."""
    bindings, times = [], [[] for _ in made]
    for one, given in zip(made, feeds, strict=True):
        binding = one.io_binding()
        for name, array in given.items():
            binding.bind_cpu_input(name, array)
        for value, array in zip(one.get_outputs(), one.run(None, given), strict=True):
            binding.bind_ortvalue_output(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        bindings.append(binding)
    begin = time.perf_counter()
    while len(times[0]) < 5 or (time.perf_counter() - begin < seconds * len(made) and len(times[0]) < 200):
        for one, binding, found in zip(made, bindings, times, strict=True):
            start = time.perf_counter()
            one.run_with_iobinding(binding)
            found.append(time.perf_counter() - start)
    return [min(found) for found in times]


def growth(made, feeds: dict[str, np.ndarray]) -> int:
    """Bytes by which resident memory grows during a run."""
    made.run(None, feeds)
    _C.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present
    before = _status("VmRSS")
    made.run(None, feeds)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def row(g: Geometry, ways: dict[str, tuple[Make, list[str], bool]], chosen: Sequence[str], batch: int, seconds: float):
    """A line of a table: time relative to the forward Conv's, and MB, of every variant."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in shapes(g).items():
        arrays[name] = rng.standard_normal([batch if d == "N" else d for d in shape]).astype(np.float32)

    def forward(build, x, w):
        return build.op(
            "Conv", x, w, group=g.groups, strides=list(g.strides), pads=[*g.begins, *(max(e, 0) for e in g.ends)]
        )

    _C.mallopt(_MMAP_THRESHOLD, 1 << 25)
    every = {"forward": (forward, ["x"], True), **ways}
    weights = [arrays["w"] if frozen else None for _, _, frozen in every.values()]
    feeds = [{k: arrays[k] for k in inputs} for _, inputs, _ in every.values()]
    made = [
        session(make, g, inputs, w, measured=False)
        for (make, inputs, _), w in zip(every.values(), weights, strict=True)
    ]
    results = [one.run(None, given)[0] for one, given in zip(made, feeds, strict=True)]
    taken = fastest(made, feeds, seconds)
    del made
    _C.mallopt(_MMAP_THRESHOLD, 1 << 16)  # freed memory is returned immediately
    cells = []
    for position, (name, (make, inputs, _)) in enumerate(ways.items(), 1):
        error = float(np.abs(results[position] - results[1]).max() / np.abs(results[1]).max())
        assert error < 1e-4, (describe(g), name, error)
        grown = growth(session(make, g, inputs, weights[position], measured=True), feeds[position])
        if "x" not in inputs:  # the image's gradient is not a temporary
            grown -= results[position].nbytes
        mark = "**" if name in chosen else ""
        cells.append(f"{mark}{name} {taken[position] / taken[0]:.2f}{mark} ({max(grown, 0) / 1e6:.1f})")
    print(f"| {describe(g)} | {taken[0] * 1e3:.2f} ms | {', '.join(cells)} |", flush=True)


def weight_ways(g: Geometry) -> dict[str, tuple[Make, list[str], bool]]:
    """Every strategy that supports this geometry."""
    names = ["windows", "merged", "exchanged"] if g.taps <= 64 else ["exchanged"]
    if g.groups == 1 and g.channels <= 8:
        names.insert(1, "columns")
    if g.depthwise and g.taps > 1:
        names.append("rows")
        if by_matrix(g):
            names.append("matrix")
    if g.positions == 1:
        names.append("whole")
    return {
        how: (lambda build, x, dy, how=how: weight_gradient(build, x, dy, g, how), ["x", "dy"], False) for how in names
    }


def image_ways(g: Geometry) -> tuple[dict[str, tuple[Make, list[str], bool]], list[str]]:
    """Conv and ConvTranspose, of a frozen (f) and a trained (t) weight; and which are chosen."""
    made: dict[str, Make] = {"ConvTranspose": lambda build, dy, w: rules.by_conv_transpose(build, dy, w, g)}
    if by_matrix(g):
        made["MatMul"] = lambda build, dy, w: image_by_matrix(build, dy, w, g)
    if not g.strided:
        made["Conv"] = lambda build, dy, w: rules.by_conv(build, dy, w, g)
        if g.taps == 1 and g.groups == 1:
            made["MatMul"] = lambda build, dy, w: _product(build, dy, w, g)
    ways: dict[str, tuple[Make, list[str], bool]] = {}
    chosen = []
    for frozen in (True, False):
        for name, make in made.items():
            ways[f"{name} {'f' if frozen else 't'}"] = (make, ["dy"] if frozen else ["dy", "w"], frozen)
        graph = ir.Graph([], [], nodes=[], opset_imports={"": 17}, name="choice")
        build = Builder(graph, opset=17)
        dy, w = (
            ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shapes(g)[n])) for n in ("dy", "w")
        )
        rules.image_gradient(build, dy, w, g, frozen=frozen)
        operators = {node.op_type for node in build.nodes}
        name = min(operators & {"Conv", "ConvTranspose", "MatMul"})
        chosen.append(f"{name} {'f' if frozen else 't'}")
    return ways, chosen


def _product(build: Builder, dy: ir.Value, w: ir.Value, g: Geometry) -> ir.Value:
    batch = dims(dy)[0]
    turned = build.transpose(build.reshape(w, [g.features, g.channels]), [1, 0])
    found = build.op("MatMul", turned, build.reshape(dy, [batch, g.features, g.positions]))
    return build.reshape(found, [batch, g.channels, *g.size])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.4, help="of timed runs for each strategy")
    parser.add_argument("--only", default="", help="networks or layers whose name has this")
    parser.add_argument("--table", choices=["weight", "image", "both"], default="both")
    options = parser.parse_args()
    chosen = [g for name, found in LAYERS.items() for g in found if options.only in name or options.only in describe(g)]
    print(f"onnxruntime {onnxruntime.__version__}, one thread, batch {options.batch}\n")
    if options.table != "image":
        print("| layer | forward | gradient of the weight: time / forward (temporary MB) |\n|---|---|---|")
        for g in chosen:
            row(g, weight_ways(g), [strategy(g)], options.batch, options.seconds)
    if options.table != "weight":
        print("\n| layer | forward | gradient of the image: time / forward (temporary MB) |\n|---|---|---|")
        for g in chosen:
            row(g, *image_ways(g), options.batch, options.seconds)


if __name__ == "__main__":
    main()
