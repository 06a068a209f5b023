"""The random numbers of device packages, which are the same in every language.

All arithmetic is modulo 2^32; docs/device-package.md gives it line by line.
"""

from __future__ import annotations

from ..errors import UsageError

_MASK = (1 << 32) - 1
_MOST = 1 << 21  # upper limit of `below`: beyond it, JavaScript's numbers could not hold the product exactly


class RandomNumbers:
    """A generator for a seed and stream.

    Args:
        seed: from 0 to 2^32 - 1.
        stream: 0 for the subsets of scoring; the epoch number for the order of samples.

    Example:
        >>> from adabet_onnx.device.random import RandomNumbers
        >>> random = RandomNumbers(0, 1)
        >>> [random.next() for _ in range(4)]
        [2049673234, 658261152, 3573920880, 3099447095]
    """

    def __init__(self, seed: int, stream: int = 0) -> None:
        if not 0 <= seed <= _MASK:
            raise UsageError(f"the seed must be from 0 to {_MASK}, not {seed}.")
        self._state = (seed + stream * 0x6C078965) & _MASK

    def next(self) -> int:
        """The next number, from 0 to 2^32 - 1."""
        self._state = (self._state + 0x9E3779B9) & _MASK
        z = self._state
        z ^= z >> 16
        z = (z * 0x85EBCA6B) & _MASK
        z ^= z >> 13
        z = (z * 0xC2B2AE35) & _MASK
        return z ^ (z >> 16)

    def below(self, n: int) -> int:
        """The next number from 0 to n - 1."""
        if not 1 <= n <= _MOST:
            raise UsageError(f"random numbers are below 1 to {_MOST}, not below {n}.")
        return (self.next() * n) >> 32

    def subset(self, n: int, m: int) -> list[int]:
        """``m`` of the numbers 0 to n - 1, ascending."""
        every = list(range(n))
        for i in range(m):
            other = i + self.below(n - i)
            every[i], every[other] = every[other], every[i]
        return sorted(every[:m])


def shuffle(n: int, seed: int, stream: int) -> list[int]:
    """The numbers 0 to n - 1 in the random order of a stream, for example of an epoch of training."""
    random, order = RandomNumbers(seed, stream), list(range(n))
    for i in range(n - 1, 0, -1):
        other = random.below(i + 1)
        order[i], order[other] = order[other], order[i]
    return order
