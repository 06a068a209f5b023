"""Which differences between strategies are larger than chance.

Two settings were trained with the same seeds and measured on the same test samples. Two sources of chance add up in the
difference of their mean accuracies:

* training: the variance of an accuracy over seeds, pooled over all compared settings (a single setting has too
  few seeds), s^2; the difference of two means over n and m seeds has the variance s^2 (1 / n + 1 / m);
* the test data: a finite sample. With p the mean accuracy of both, the difference of two accuracies on the same k
  samples has at most the variance 2 p (1 - p) / k (that of independent errors; on the same samples it is smaller).

A difference is called a tie if it is within the root of the sum of squares of t times the first's root (t: the
two-sided 95 % point of Student's t with the pooled variance's degrees of freedom; "Student", "The probable error of a
mean", Biometrika 6, 1908) and 1.96 times the second's. With one seed the first is unknown, and only the second counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chance:
    """How much accuracies differ by chance.

    Attributes:
        variance: variance of an accuracy (0 to 1) over seeds, pooled over settings.
        freedom: degrees of freedom of the variance; 0 if it is unknown.
        test_samples: number of samples that accuracies were measured on.
    """

    variance: float
    freedom: int
    test_samples: int

    @classmethod
    def of(cls, settings: Sequence[Sequence[float]], test_samples: int) -> Chance:
        """Estimate it from the accuracies of every setting, one per seed."""
        freedom = sum(max(0, len(values) - 1) for values in settings)
        squares = sum((value - _mean(values)) ** 2 for values in settings for value in values)
        return cls(squares / freedom if freedom else 0.0, freedom, test_samples)

    def of_training(self, first: Sequence[float], second: Sequence[float]) -> float | None:
        """How far two settings' mean accuracies may differ by the chance of training; None if that is unknown."""
        if not self.freedom:
            return None
        from scipy.stats import t  # slow to import

        return float(t.ppf(0.975, self.freedom)) * math.sqrt(self.variance * (1 / len(first) + 1 / len(second)))

    def of_data(self, first: Sequence[float], second: Sequence[float]) -> float:
        """How far they may differ because the test samples are only some of all possible ones."""
        both = (_mean(first) + _mean(second)) / 2
        return 1.96 * math.sqrt(max(0.0, 2 * both * (1 - both) / max(1, self.test_samples)))

    def tolerance(self, first: Sequence[float], second: Sequence[float]) -> float:
        """The largest difference of two settings' mean accuracies that is still a tie."""
        return math.hypot(self.of_training(first, second) or 0.0, self.of_data(first, second))

    def tied(self, first: Sequence[float], second: Sequence[float]) -> bool:
        """Whether two settings differ by no more than chance."""
        return abs(_mean(first) - _mean(second)) <= self.tolerance(first, second)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
