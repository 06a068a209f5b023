"""Check the gradient of every trained parameter against finite differences of the loss.

A gradient g that lacks a component m orthogonal to it is still right along itself, so directions are random. Along a
direction d with components of +-1, the slope of the loss differs from g.d by m.d, whose mean square over directions is
|m|^2. Ten directions and a limit of 0.004 |g|^2 miss an m of |m|^2 = 0.03 |g|^2 in 6 of 10,000 cases (chi-squared).
Each direction also has a component along the gradient (twice its length, with random sign), so that a gradient a few
percent too long or too short exceeds the limit as well.

The measurement must be more precise than that limit. The loss is computed in double precision from the logits, and
slopes are taken over steps of several lengths: a long step crosses kinks (Relu), a short one is lost in the network's
rounding. Agreement at one length passes the gradient: noise adds to a difference, it does not hide one. Only a precise
measurement fails it: the slopes of two lengths must differ far less from each other than from the gradient, at each of
several points (other samples, other values near the stored ones; a trained network may lie exactly on kinks, with
channels of zeros).

Parameters are measured in groups, each scaled to the same slope. A group that does not pass is split, down to single
parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import seeds
from ..errors import CheckError
from .exact_loss import exact_loss
from .manifest import Manifest, TrainingSession
from .samples import integer_ceilings, sample_feeds, sample_labels

DIRECTIONS = 10
TOLERANCE = 0.004  # of |g|^2
_LEAN = 2.0  # a direction's component along the gradient, in lengths of the gradient
_STEPS = (1e-4, 3e-5, 3e-4, 1e-3, 3e-3, 1e-5, 1e-2)  # relative to the parameters' own size, the most promising first
_STEPS_OF_GROUPS = 3  # tried before a group is split
_POINTS = (0.01, 0.003, 0.03)  # how far from the stored values each point is, relative to the parameters' own size
_GROUP, _GROUPS = 16, 3  # parameters in a group, and the most groups at first
_PARTS = 4  # into which a group that does not pass is split
_PRECISE = 9.0  # a difference fails a gradient from this multiple of the measurement error on
_FAINT = 0.03  # of a parameter's largest effect on the loss: smaller gradients are scaled by that effect, not their own
_NIL = 1e-5  # relative change of the loss for a change as large as the parameter; below it a gradient counts as zero
_UNKNOWN = 0.25  # of |g|^2: a larger difference fails even if it cannot be measured precisely
_SMALL = 0.02  # size assumed for parameters that are zero, and the least for vectors (biases start at zero)


@dataclass(frozen=True)
class Measured:
    """How far a group's slopes are from its gradient.

    Attributes:
        difference: mean square over directions relative to |g|^2, the least over all step lengths.
        fails: whether the most precise measurement differs.
        slope: root mean square of its slopes along directions with components of +-1 (for a single parameter).
        expected: the same according to the gradient; NaN for a gradient that is not finite.
        deviation: the same for their difference.
    """

    difference: float
    fails: bool
    slope: float
    expected: float
    deviation: float


def check_gradients(session: TrainingSession, manifest: Manifest, batch: int, seed: int = 0) -> dict[str, Any] | None:
    """Measure the gradients of all trained parameters; the session's values are restored and its gradients cleared.

    Args:
        session: holds the parameter values to check at.
        manifest: the manifest of the folder.
        batch: samples in a forward pass.
        seed: random seed of samples and directions.

    Returns:
        ``parameters``: how many agree; ``error``: largest relative difference (root mean square); ``parameter``: the
            first parameter of its group; ``unmeasured``: names of parameters for which no measurement was precise
            enough. None if neither the gradients nor the loss's slopes exceed rounding.

    Raises:
        CheckError: a gradient is wrong, or not finite.
    """
    stored = {name: session.parameter(name) for name in manifest.parameters}
    pending, verdicts = _in_model_order(manifest), dict[str, list[Measured]]()
    worst, worst_name, moves = 0.0, "", False
    ceilings = integer_ceilings(manifest, lambda feeds: _logits(session, manifest, feeds), batch)
    try:
        for number, distance in enumerate(_POINTS):
            if number == len(_POINTS) - 1:
                ceilings = {}
            point = _Point(session, manifest, stored, batch, [seed, number], distance, ceilings)
            moves = moves or point.moves
            left = []
            for names, measured in _tested(point, _groups(pending)):
                if measured.difference <= TOLERANCE:
                    if measured.difference >= worst:
                        worst, worst_name = measured.difference, names[0]
                    continue
                left += names
                verdicts.setdefault(names[0], []).append(measured)
            pending = left
            if not pending:
                break
    finally:
        for name, value in stored.items():
            session.set_parameter(name, value)
        session.forget_gradients()
    for name in pending:
        _judge(name, verdicts[name], manifest)
    if not moves:
        return None
    return {
        "parameters": len(stored) - len(pending),
        "error": math.sqrt(worst),
        "parameter": worst_name,
        "unmeasured": pending,
    }


def _judge(name: str, measured: Sequence[Measured], manifest: Manifest) -> None:
    """Raise an error for a parameter that passed at no point, unless it merely could not be measured."""
    last = measured[-1]
    if not math.isfinite(last.expected):
        raise CheckError(
            f"the gradient of {name!r} is not finite for random inputs. Nothing was written; select later layers, or "
            "report this with the model."
        )
    disagreement = (
        f"the gradient of {name!r} disagrees with finite differences of the loss: along {DIRECTIONS} random "
        f"directions the slope is {last.slope:.3g} (root mean square), by the gradient it is {last.expected:.3g}, and "
        f"the two differ by {last.deviation:.2g}"
    )
    other = "ort" if manifest.backend == "portable" else "portable"
    if all(item.fails for item in measured):
        raise CheckError(
            f"{disagreement}. An operator between it and the loss has a wrong gradient. Nothing was written: select "
            f"layers after that operator, use `backend={other!r}`, or report this with the model."
        )
    if min(item.difference for item in measured) > _UNKNOWN:
        raise CheckError(
            f"{disagreement}, but the loss is too rough around these values for a precise measurement. Nothing was "
            "written: select other layers or, if you know that the gradient is right, use `check=False`."
        )


def _groups(names: Sequence[str]) -> list[list[str]]:
    size = max(_GROUP, -(-len(names) // _GROUPS))
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def _tested(point: _Point, groups: list[list[str]]) -> Iterator[tuple[list[str], Measured]]:
    """Yield groups that pass, and single parameters that do not."""
    waiting = groups[::-1]
    while waiting:
        names = waiting.pop()
        measured = point.measure(names)
        if measured.difference <= TOLERANCE or len(names) == 1:
            yield names, measured
        else:
            size = -(-len(names) // _PARTS)
            waiting += [names[start : start + size] for start in range(0, len(names), size)][::-1]


class _Point:
    """A point to measure at: samples, labels and parameter values, with the gradients there."""

    def __init__(
        self,
        session: TrainingSession,
        manifest: Manifest,
        stored: dict[str, np.ndarray],
        batch: int,
        seed: Sequence[int],
        distance: float,
        ceilings: dict[str, int],
    ) -> None:
        rng = seeds.gradient_point(seed)
        self._session, self._manifest, self._seed = session, manifest, seed
        self._sizes = {name: _size(value) for name, value in stored.items()}
        self._values = {
            name: value + np.float32(distance * self._sizes[name]) * rng.standard_normal(value.shape, np.float32)
            for name, value in stored.items()
        }
        self._set(self._values)
        sample_seed = int(sum(seed))
        self._feeds = sample_feeds(manifest, batch, sample_seed, ceilings)
        logits = _logits(session, manifest, self._feeds)
        self._labels = sample_labels(manifest, logits, sample_seed)
        session.forget_gradients()
        session.gradients(self._feeds, self._labels)
        self._gradients = {name: session.gradient(name) for name in stored}
        lengths = {name: _length(gradient) for name, gradient in self._gradients.items()}
        effects = {name: lengths[name] * self._sizes[name] for name in stored}
        nil = _NIL * max(1.0, abs(self._loss()))
        least = max(nil, _FAINT * max((e for e in effects.values() if math.isfinite(e)), default=0.0))
        self._scales = {name: 1 / max(lengths[name], least / self._sizes[name]) for name in stored}
        self._lengths, self._steps = lengths, list(_STEPS)
        self.moves = any(effect > nil for effect in effects.values())

    def measure(self, names: Sequence[str]) -> Measured:
        """Compare slopes with the gradient, trying step lengths until one agrees."""
        if not all(math.isfinite(self._lengths[name]) for name in names):
            return Measured(math.inf, True, math.nan, math.nan, math.nan)
        unit = min(self._sizes[name] / self._scales[name] for name in names)
        expected = np.array([self._expected(names, number) for number in range(DIRECTIONS)])
        slopes: dict[float, np.ndarray] = {}
        least = math.inf
        for step in self._steps if len(names) == 1 else self._steps[:_STEPS_OF_GROUPS]:
            slopes[step] = np.array([self._slope(names, number, step * unit) for number in range(DIRECTIONS)])
            difference = _mean_square(slopes[step] - expected)
            least = min(least, difference) if math.isfinite(difference) else least
            if least <= TOLERANCE:  # the next parameters try this length first
                self._steps = [step, *(other for other in self._steps if other != step)]
                break
        self._set({name: self._values[name] for name in names})
        best, fails = self._most_precise(slopes, expected)
        scale = self._scales[names[0]]
        return Measured(
            least,
            fails,
            math.sqrt(_mean_square(best)) / scale,
            math.sqrt(_mean_square(expected)) / scale,
            math.sqrt(_mean_square(best - expected)) / scale,
        )

    @staticmethod
    def _most_precise(slopes: dict[float, np.ndarray], expected: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the slopes that differ least from those of the next longer step, and whether the gradient differs."""
        ordered = sorted(slopes)
        pairs = [(_mean_square(slopes[short] - slopes[long]), short) for short, long in itertools.pairwise(ordered)]
        if not pairs:
            return slopes[ordered[0]], False
        error, step = min(pairs)
        return slopes[step], _mean_square(slopes[step] - expected) > max(TOLERANCE, _PRECISE * error)

    def _direction(self, name: str, number: int) -> np.ndarray:
        """Return a direction, scaled for the parameter: +-1 in each component plus the part along the gradient."""
        gradient = self._gradients[name]
        rng = seeds.gradient_direction(self._seed, number, self._manifest.parameters.index(name))
        bits = np.unpackbits(np.frombuffer(rng.bytes(-(-gradient.size // 8)), np.uint8), count=gradient.size)
        direction = bits.reshape(gradient.shape).astype(np.float32) * 2 - 1
        if self._lengths[name] > 0:
            lean = _LEAN if rng.random() < 0.5 else -_LEAN
            unit = gradient.astype(np.float64) / self._lengths[name]  # in float32 a gradient of 1e-40 has no inverse
            direction += (lean * unit).astype(np.float32)
        return np.asarray(direction * np.float32(self._scales[name]))

    def _expected(self, names: Sequence[str], number: int) -> float:
        return sum(
            float(np.vdot(self._direction(name, number).astype(np.float64), self._gradients[name].astype(np.float64)))
            for name in names
        )

    def _slope(self, names: Sequence[str], number: int, step: float) -> float:
        losses = []
        directions = {name: self._direction(name, number) for name in names}
        for sign in (1, -1):
            self._set({name: self._values[name] + np.float32(sign * step) * directions[name] for name in names})
            losses.append(self._loss())
        return (losses[0] - losses[1]) / (2 * step)

    def _loss(self) -> float:
        return exact_loss(
            self._manifest, _logits(self._session, self._manifest, self._feeds, self._labels), self._labels
        )

    def _set(self, values: dict[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._session.set_parameter(name, value)


def _logits(
    session: TrainingSession, manifest: Manifest, feeds: dict[str, np.ndarray], labels: np.ndarray | None = None
) -> np.ndarray:
    """Return the logits that match the gradient: with stored statistics, or with those of the batch."""
    if labels is None:
        batch = len(next(iter(feeds.values())))
        labels = sample_labels(manifest, np.zeros([batch, *map(int, manifest.logits_shape[1:])], np.float32))
    if not manifest.uses_batch_statistics:
        return session.evaluate(feeds, labels)[1]
    session.forget_gradients()
    return session.gradients(feeds, labels)[1]


def _size(value: np.ndarray) -> float:
    """Root mean square of a parameter's elements, with a lower bound for vectors and zeros."""
    size = _length(value) / math.sqrt(value.size)
    return max(size, _SMALL) if value.ndim < 2 or size == 0 else size


def _length(value: np.ndarray) -> float:
    return float(np.linalg.norm(value.astype(np.float64)))


def _mean_square(values: np.ndarray) -> float:
    return float(np.square(values).mean())


def _in_model_order(manifest: Manifest) -> list[str]:
    trainable = set(manifest.parameters)
    selected = [name for name in manifest.selection_entry["parameters"] if name in trainable]
    return selected + [name for name in manifest.parameters if name not in selected]
