"""Random number streams: every seeded choice draws from its own named stream.

So choices with the same seed are independent of each other, and a seed gives the same numbers in every release: a new
stream gets an unused number. Choices without a seed, such as which images of a folder are held out for testing, are
always the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import UsageError

_VALIDATION, _TEST, _SUBSETS, _EPOCH, _LABELS, _FISHER, _RATES = 1, 2, 3, 4, 5, 7, 8
_VIEW, _VIEWS = 11, 12
_FOLDS, _ROWS = 21, 22
_SIGNS = 31
_PARTITION, _PARTICIPANTS, _LOCAL = 41, 42, 43


def check_seed(seed: int) -> None:
    """Check that a seed is valid.

    Raises:
        UsageError: the seed is below 0.
    """
    if seed < 0:
        raise UsageError(f"the seed must be at least 0, not {seed}.")


def _stream(seed: int, *parts: int) -> np.random.Generator:
    check_seed(seed)
    return np.random.default_rng([seed, *parts] if parts else seed)


def head(seed: int) -> np.random.Generator:
    """Weights of a new head."""
    return _stream(seed)


def samples(seed: int) -> np.random.Generator:
    """Which samples are scored."""
    return _stream(seed)


def subsets(seed: int, *group: int) -> np.random.Generator:
    """Which points of a group of samples each Betti number is computed from, by the numbers that identify the group."""
    return _stream(seed, _SUBSETS, *group)


def signs(seed: int) -> np.random.Generator:
    """Signs of the elements of activations in a sketch."""
    return _stream(seed, _SIGNS)


def layers(seed: int) -> np.random.Generator:
    """Which layers the strategy ``random`` selects."""
    return _stream(seed)


def fisher(seed: int) -> np.random.Generator:
    """Which samples Fisher information is computed on."""
    return _stream(seed, _FISHER)


def kept_pictures() -> np.random.Generator:
    """Which images of a folder are held out for testing, the same for all commands."""
    return np.random.default_rng(_TEST)


def validation(seed: int) -> np.random.Generator:
    """Which samples are held out for validation."""
    return _stream(seed, _VALIDATION)


def epoch(seed: int, number: int) -> np.random.Generator:
    """The order of the samples in an epoch."""
    return _stream(seed, _EPOCH, number)


def view(seed: int, sample: int, number: int) -> np.random.Generator:
    """How a view of a sample differs from it."""
    return _stream(seed, _VIEW, sample, number)


def views(seed: int) -> np.random.Generator:
    """Which of its views each sample starts with."""
    return _stream(seed, _VIEWS)


def rate_search(seed: int, *part: int) -> np.random.Generator:
    """Which samples a search for a learning rate trains on and is evaluated on."""
    return _stream(seed, _RATES, *part)


def folds(seed: int) -> np.random.Generator:
    """Which samples are left out together in cross-validation when a head is fitted."""
    return _stream(seed, _FOLDS)


def rows(seed: int) -> np.random.Generator:
    """Which pixels or tokens a head is fitted to."""
    return _stream(seed, _ROWS)


def partition(seed: int) -> np.random.Generator:
    """How data is distributed among the clients of a fleet."""
    return _stream(seed, _PARTITION)


def participants(seed: int, number: int, attempt: int) -> np.random.Generator:
    """Which clients of a fleet take part in a round."""
    return _stream(seed, _PARTICIPANTS, number, attempt)


def local_order(seed: int, client: int, number: int, epoch: int) -> np.random.Generator:
    """The order of a client's samples in an epoch of a round."""
    return _stream(seed, _LOCAL, client, number, epoch)


def check_inputs(seed: int) -> np.random.Generator:
    """Inputs for checking and measuring artifacts."""
    return _stream(seed)


def check_labels(seed: int) -> np.random.Generator:
    """Labels for checking and measuring artifacts."""
    return _stream(seed, _LABELS)


def gradient_point(seed: Sequence[int]) -> np.random.Generator:
    """Parameter values at which gradients are checked."""
    return np.random.default_rng(seed)


def gradient_direction(seed: Sequence[int], number: int, parameter: int) -> np.random.Generator:
    """A direction along which a parameter's gradient is checked."""
    return np.random.default_rng([*seed, number, parameter])


def trial() -> np.random.Generator:
    """Inputs on which a rewritten graph is compared with the original."""
    return np.random.default_rng(0)


def rounding() -> np.random.Generator:
    """Directions in which the last bits of a model's values are perturbed."""
    return np.random.default_rng(0)
