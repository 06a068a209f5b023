"""Which strategy computes the gradient of a convolution's weight, chosen by geometry from measurements.

Measured by tests/benchmarks/bench_conv_rules.py: ONNX Runtime 1.32, x86-64 with AVX-512, one thread, batches of 8. A
strategy was preferred to a faster one if it takes about 15 % more time and far less memory. C channels of the image, O
of the result, P positions in it, g groups:

- ``windows``: for each kernel element, the window of the image it is applied to, the product of the result's gradient
  with that window in each sample, and the sum over samples. Little memory while products (O C / g) are smaller than
  images (P (O + C)). For depthwise convolutions these are products of two vectors, for which ONNX Runtime has a special
  kernel on x86-64 (0.6 times the time of Mul and ReduceSum, two thirds of the memory); other machines have no such
  kernel and were not measured.
- ``merged``: the same with the batch inside the product, which is then computed once; both operands are transposed
  first. For many channels, small images and short rows.
- ``columns``: like ``windows``, several kernel elements at a time. For few channels, whose products would be thin.
- ``whole``: a single window is a matrix product, its elements being the channels of a 1x1 convolution.
- ``matrix``: depthwise on the smallest images, up to 7x7: see `conv_matrix`. With 32 samples it takes 0.1 to 0.5 times
  the time of ``rows``, with one sample about half.
- ``rows``: depthwise on small images, or with a wide kernel: products of whole rows of image and gradient, whose
  diagonals are summed. It multiplies more than necessary, and takes half the time of ``windows`` at 14x14.
- ``exchanged``: a Conv of the transposed image with the transposed gradient as its kernel, stride and dilation swapped.
  One node for any kernel size: for large kernels of few channels, and for groups whose windows are slow to cut out
  because of strides.
"""

from __future__ import annotations

from .conv_geometry import Geometry

_MANY_TAPS = 64  # more would make too many nodes in the graph; a product with so many columns is efficient
_FEW_CHANNELS = 8
# From this many kernel elements on, ``exchanged`` is efficient for few channels: without and with strides.
_TAPS_AS_COLUMNS = 32, 16
# From this many positions on, a window of a group is worth a node, and a strided one is slow to cut out.
_WIDE = 28 * 28
_WIDE_KERNEL = 5
_LONG = 512  # from this many positions on, a product for each sample is as efficient as one for all
_LONG_ROW = 24  # from this many elements on, a row is copied fast
_MATRIX = 49 * 49  # elements of a channel's matrix; at 8x8 a single sample takes longer than with ``rows``


def strategy(g: Geometry) -> str:
    """The name of the strategy for this geometry."""
    if g.taps == 1:
        return _product(g)
    if g.positions == 1:
        return "whole"
    if by_matrix(g):
        return "matrix"
    if g.depthwise:
        return _depthwise(g)
    if g.taps > _MANY_TAPS:
        return "exchanged"
    if g.groups > 1:
        slow = g.group_channels == 1 or (g.strided and g.positions >= _WIDE)
        return "exchanged" if slow else _product(g)
    if g.channels <= _FEW_CHANNELS:
        return "exchanged" if g.taps >= _TAPS_AS_COLUMNS[g.strided] else "columns"
    return "merged" if g.positions < _LONG or g.out[-1] < _LONG_ROW else _product(g)


def by_matrix(g: Geometry) -> bool:
    """Whether it is depthwise and its image is so small that writing each channel's kernel as a matrix is fastest."""
    return g.depthwise and g.taps > 1 and g.positions * g.pixels <= _MATRIX


def _product(g: Geometry) -> str:
    """One product for each sample, unless products of all samples are larger than half of image and gradient."""
    small = g.features * g.group_channels <= g.positions * (g.features + g.channels) / 2
    return "windows" if small else "merged"


def _depthwise(g: Geometry) -> str:
    wide = g.positions >= _WIDE
    if g.rank == 1:
        return "exchanged" if g.strided else "windows" if wide else "merged"
    if g.strided:
        return "exchanged" if wide else "rows"
    return "windows" if wide and g.kernel[-1] < _WIDE_KERNEL else "rows"
