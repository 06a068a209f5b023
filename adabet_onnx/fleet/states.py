"""Storage of a client's states: a file for each of its last rounds."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from ..files import make_folder, replacing
from ..portable import checkpoint
from ..portable.checkpoint import TrainingState

_SUFFIX = ".state"


class FolderStates(MutableMapping[int, TrainingState]):
    """States by round, in a folder.

    Args:
        folder: the folder, created when the first state is stored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}{_SUFFIX}"

    def __getitem__(self, number: int) -> TrainingState:
        if not self._path(number).is_file():
            raise KeyError(number)
        return checkpoint.load(self._path(number), [])

    def __setitem__(self, number: int, state: TrainingState) -> None:
        make_folder(self._folder)
        with replacing(self._path(number)) as part:
            checkpoint.save(part, state)

    def __delitem__(self, number: int) -> None:
        self._path(number).unlink()

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(int(path.stem) for path in self._folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()))

    def __len__(self) -> int:
        return sum(1 for _ in self)
