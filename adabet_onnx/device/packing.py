"""The form of a package for devices, and how they score layers and train by default."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UsageError
from ..options import check_fields
from ..showing import changed
from ..training.settings import parse_rate
from ..vocabulary import DEVICE_PROFILES


@dataclass(frozen=True)
class DeviceScoring:
    """How a device scores layers: the method of `score`, with sketches small enough for a phone.

    Its rankings agree with those of `score` about as well as rankings from two different samples agree: Kendall's tau
    was 0.92 to 0.95 (tests/benchmarks/bench_device_scoring.py).

    Attributes:
        samples: maximum number of samples.
        subset_size: number of points for one Betti number.
        subsets: number of Betti numbers per layer.
        sketch: k, the approximate number of values that represent an activation; see `Scoring`.
        seed: random seed of sketches and subsets.

    Raises:
        UsageError: a number is out of range.

    Example:
        >>> from adabet_onnx import DeviceScoring
        >>> DeviceScoring(samples=32).samples
        32
    """

    samples: int = 128
    subset_size: int = 32
    subsets: int = 64
    sketch: int = 1024
    seed: int = 0

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least, most in (
            ("samples", 8, 128),
            ("subset_size", 4, 128),
            ("subsets", 1, 4096),
            ("sketch", 16, 1 << 20),
            ("seed", 0, (1 << 32) - 1),
        ):
            number = getattr(self, name)
            if not least <= number <= most:
                raise UsageError(f"`{name}` must be from {least} to {most}, not {number}.")


@dataclass(frozen=True)
class Packing:
    """The form of a package.

    Attributes:
        scoring: how a device scores layers; None: it cannot score.
        profile: ``webgpu``: only operators and forms that ONNX Runtime's WebGPU provider supports. ``mobile``: graphs
            without a backward pass take one sample at a time, because Core ML, NNAPI and XNNPACK need fixed shapes.
            None: all of ONNX, any number of samples.
        ort_format: write ``.ort`` files instead of ``.onnx``, with required_operators.config, for reduced builds of
            ONNX Runtime.
        learning_rate: the rate for training on a device, unless its program chooses another; None: that of the
            artifacts' last training, else the optimizer's usual rate.
        batch_size: samples per training step, likewise; None: that of the last training, else 32.
        epochs: passes over the device's data, likewise.

    Raises:
        UsageError: the profile is unknown, or a number is out of range.

    Example:
        >>> from adabet_onnx import Packing
        >>> Packing(profile="webgpu", learning_rate=0.03).epochs
        5
    """

    scoring: DeviceScoring | None = field(default_factory=DeviceScoring)
    profile: str | None = None
    ort_format: bool = False
    learning_rate: float | None = None
    batch_size: int | None = None
    epochs: int = 5

    __repr__ = changed

    def __post_init__(self) -> None:
        check_fields(self)
        if self.profile is not None and self.profile not in DEVICE_PROFILES:
            raise UsageError(f"unknown `profile` {self.profile!r}: choose one of {', '.join(DEVICE_PROFILES)}.")
        parse_rate(self.learning_rate)
        for name in ("batch_size", "epochs"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"`{name}` must be at least 1, not {number}.")
