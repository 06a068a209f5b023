"""Which differences between strategies are more than chance.

Two settings were trained with the same seeds and measured on the same test samples. Their mean accuracies differ by
chance for two reasons, which add:

* training: the variance of the difference over seeds, s^2 / n for n paired seeds;
* the test data: a finite sample. With p the mean accuracy of both, the difference of two accuracies on the same m
  samples has at most the variance 2 p (1 - p) / m (that of independent errors; on the same samples it is smaller).

A difference is called a tie if it is within t times the root of their sum, t being the two-sided 95 % point of
Student's t with n - 1 degrees of freedom for the part of training (W. S. Gosset, "The probable error of a mean",
Biometrika 6, 1908), and 1.96 for the part of the test data. With one seed the part of training is unknown, and only
the test data's is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def tied(first: Sequence[float], second: Sequence[float], test_samples: int) -> bool:
    """Whether two settings' accuracies (0 to 1, one per seed, in the same order) differ by no more than chance.

    Args:
        first: of one setting.
        second: of the other.
        test_samples: how many samples they were measured on.
    """
    return abs(_mean(first) - _mean(second)) <= tolerance(first, second, test_samples)


def tolerance(first: Sequence[float], second: Sequence[float], test_samples: int) -> float:
    """How far apart two mean accuracies may be and still be a tie."""
    from scipy.stats import t  # slow to import

    paired = [a - b for a, b in zip(first, second, strict=False)]
    training = 0.0
    if len(paired) > 1:
        mean = _mean(paired)
        variance = sum((value - mean) ** 2 for value in paired) / (len(paired) - 1)
        training = float(t.ppf(0.975, len(paired) - 1)) * math.sqrt(variance / len(paired))
    both = (_mean(first) + _mean(second)) / 2
    data = 1.96 * math.sqrt(max(0.0, 2 * both * (1 - both) / max(1, test_samples)))
    return math.hypot(training, data)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
