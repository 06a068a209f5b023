"""The geometry of a convolution: which element of the image is multiplied by which element of the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .registry import NodeView


@dataclass(frozen=True)
class Geometry:
    """A convolution of an image with a kernel.

    A ConvTranspose is described by the convolution that it transposes: its output is the image, its input the result.
    Output o and kernel element k correspond to image element ``o * stride + k * dilation - begin``, on each spatial
    axis.

    Attributes:
        channels: channels of the image.
        features: channels of the result.
        groups: groups of channels.
        kernel: size of the kernel.
        strides: strides; 1 on axes where the result has one element, since they have no effect there.
        dilations: dilations; 1 on axes where the kernel has one element.
        begins: padding before the image.
        size: size of the image.
        out: size of the result.
    """

    channels: int
    features: int
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Number of kernel elements."""
        return math.prod(self.kernel)

    @property
    def positions(self) -> int:
        """Number of elements of a channel of the result."""
        return math.prod(self.out)

    @property
    def pixels(self) -> int:
        """Number of elements of a channel of the image."""
        return math.prod(self.size)

    @property
    def group_channels(self) -> int:
        """Channels of the image in a group."""
        return self.channels // self.groups

    @property
    def group_features(self) -> int:
        """Channels of the result in a group."""
        return self.features // self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the kernel with its channels."""
        return (self.features, self.group_channels, *self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every group has one channel on both sides."""
        return self.group_channels == self.group_features == 1

    @property
    def strided(self) -> bool:
        """Whether any stride is more than 1."""
        return max(self.strides) > 1

    @property
    def reach(self) -> tuple[int, ...]:
        """Number of elements of the padded image that the windows span."""
        rows = zip(self.out, self.strides, self.kernel, self.dilations, strict=True)
        return tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in rows)

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding that the windows need after the image; negative where they leave its last elements out."""
        return tuple(r - b - n for r, b, n in zip(self.reach, self.begins, self.size, strict=True))


def geometry(view: NodeView) -> Geometry:
    """The geometry of a Conv or ConvTranspose that `check` accepts."""
    transposed = view.node.op_type == "ConvTranspose"
    image, result = (view.out_shape(), view.shape(0)) if transposed else (view.shape(0), view.out_shape())
    kernel = _numbers(view.shape(1)[2:])
    size, out = _numbers(image[2:]), _numbers(result[2:])
    strides, dilations = _attributes(view)
    begins, _ = _pads(view)
    return Geometry(
        channels=int(image[1]),
        features=int(result[1]),
        groups=view.int("group", 1),
        kernel=kernel,
        strides=tuple(1 if o == 1 else s for o, s in zip(out, strides, strict=True)),
        dilations=tuple(1 if k == 1 else d for k, d in zip(kernel, dilations, strict=True)),
        begins=begins,
        size=size,
        out=out,
    )


def check(view: NodeView) -> str | None:
    """Why a Conv or ConvTranspose cannot be differentiated, or None."""
    x, w, y = view.shape(0), view.shape(1), view.out_shape()
    if any(isinstance(d, str) for d in (*x[1:], *y[1:])):
        return f"has dynamic axes besides the batch (input {list(x)}, output {list(y)}), and its gradient needs numbers"
    if any(isinstance(d, str) for d in w):
        return f"has a weight of dynamic shape ({list(w)})"
    auto = view.string("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return f"has auto_pad {auto}, which must be written as pads"
    if 0 in (*x, *w, *y):
        return "has a value without elements"
    if len(x) < 3:
        return "has an input without spatial axes"
    transposed = view.node.op_type == "ConvTranspose"
    size, out = (_numbers(d[2:]) for d in ((y, x) if transposed else (x, y)))
    strides, dilations = _attributes(view)
    begins, ends = _pads(view)
    if min(*begins, *ends) < 0:
        return "has negative pads"
    extra = view.ints("output_padding", [0] * len(size)) or []
    for n, o, k, s, d, b, e, more in zip(
        size, out, _numbers(w[2:]), strides, dilations, begins, ends, extra, strict=True
    ):
        span = (k - 1) * d + 1
        expected = (o - 1) * s + span + more - b - e if transposed else (n + b + e - span) // s + 1
        if expected != (n if transposed else o):
            return f"has a shape that does not follow from its attributes (input {list(x)}, output {list(y)})"
    return None


def _numbers(extents: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(int(d) for d in extents)


def _attributes(view: NodeView) -> tuple[list[int], list[int]]:
    """Strides and dilations."""
    ones = [1] * (len(view.shape(0)) - 2)
    return view.ints("strides", ones) or ones, view.ints("dilations", ones) or ones


def _pads(view: NodeView) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after the spatial axes."""
    shape, out = view.shape(0), view.out_shape()
    rank = len(shape) - 2
    pads = view.ints("pads", [0] * 2 * rank) or [0] * 2 * rank
    if view.string("auto_pad", "NOTSET") == "VALID":
        pads = [0] * 2 * rank
    if view.node.op_type == "ConvTranspose" and view.ints("output_shape"):
        pads = _pads_for_output_shape(view, _numbers(shape[2:]), _numbers(out[2:]))
    return tuple(pads[:rank]), tuple(pads[rank:])


def _pads_for_output_shape(view: NodeView, size: tuple[int, ...], out: tuple[int, ...]) -> list[int]:
    """The pads of a ConvTranspose with output_shape: the surplus of its full output.

    The larger half comes before.
    """
    strides, dilations = _attributes(view)
    extra = view.ints("output_padding", [0] * len(size)) or []
    totals = []
    for n, o, k, s, d, more in zip(size, out, _numbers(view.shape(1)[2:]), strides, dilations, extra, strict=True):
        totals.append((n - 1) * s + (k - 1) * d + 1 + more - o)
    return [*(total - total // 2 for total in totals), *(total // 2 for total in totals)]
