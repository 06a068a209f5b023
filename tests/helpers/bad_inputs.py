"""Helpers of the tests of bad input (test_bad_*.py).

Bad input goes through the real command line: the right exit code, one clear message, nothing half-written. Every case
runs in a copy of a valid folder (`good`) in which one thing was damaged. The message must name the culprit and say what
to do; `refused` checks what all cases have in common.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TRAINING
from models import tiny

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.cli.main import main
from adabet_onnx.scoring.options import Scoring

needs_training = pytest.mark.skipif(not TRAINING, reason="onnxruntime-training exists for Python 3.10 to 3.12 only")


USAGE, FAILURE = 2, 1


@dataclass(frozen=True)
class Result:
    """The output and exit code of a command."""

    code: int
    out: str
    err: str


def listing(folder: Path) -> dict[str, str]:
    """All files below a folder, including hidden ones, with a hash of their content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def message(result: Result) -> str:
    """The message on stderr, without click's usage and progress output before it."""
    text = re.sub(r"\A(Usage: .*\nTry '.*' for help\.\n\n|(epoch \d+/\d+, .*\n|[a-z ]+ \.\.\.\n)*)", "", result.err)
    assert text.startswith("Error: "), result.err
    assert text.count("\n") == 1, f"one line, not:\n{result.err}"
    return text.removeprefix("Error: ").rstrip("\n")


def check(result: Result, code: int, *words: str) -> None:
    said = message(result)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert "bug in adabet-onnx" not in result.err, result.err
    assert len(said) < 700, "a message, not a dump"
    for word in words:
        assert word in said, f"{word!r} is not in: {said}"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Model, data, scores, selection, and (where training is possible) artifacts trained for an epoch."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    onnx.save(tiny.conv_net(), folder / "model.onnx")
    onnx.save(tiny.conv_net(seed=1), folder / "other.onnx")
    x, y = rng.random((48, 3, 8, 8), dtype=np.float32), np.arange(48) % 4
    np.savez(folder / "data.npz", x=x, y=y)
    model = open_model(folder / "model.onnx")
    scores = score(model, folder / "data.npz", scoring=Scoring(samples=32, subsets=2))
    scores.save(folder / "scores.json")
    selection = select(scores, strategy="last", rho=0.4)
    selection.save(folder / "selection.json")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    if TRAINING:
        make_artifacts(model, selection, folder / "ort", backend="ort", check=False)
    return folder


@pytest.fixture
def work(good, tmp_path, monkeypatch) -> Path:
    """A copy of `good` as the working directory."""
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    return folder


@contextlib.contextmanager
def limited_files(size: int | None) -> Iterator[None]:
    """Limit the size of files that this process may write, as briefly as possible: pytest's own output may be a file.

    Python must not write bytecode meanwhile: it would be truncated for all later processes.
    """
    if size is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def refused(work, monkeypatch, capfd, tmp_path) -> Callable[..., Result]:
    """Run a command in this process and check what all rejections have in common."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run(
        command: str, code: int, *words: str, leaves: Sequence[str] = (), file_size_limit: int | None = None
    ) -> Result:
        before = listing(work)
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["adabet-onnx", *command.split()])
        with pytest.raises(SystemExit) as left, limited_files(file_size_limit):
            main()
        result = Result(left.value.code, *capfd.readouterr())
        check(result, code, *words)
        after = listing(work)
        for name in leaves:
            del after[name]
        assert after == before
        assert listing(temporary) == {}
        return result

    return run


@dataclass(frozen=True)
class Case:
    """An error case: the damage, the command, the exit code, and parts of the message."""

    name: str
    command: str
    code: int
    words: tuple[str, ...]
    spoil: Callable[[], Any] | None = None


def cases(*given: Case) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in given])


def write(name: str, content: bytes) -> Callable[[], Any]:
    return lambda: Path(name).write_bytes(content)


def cut(name: str, share: float = 0.6) -> Callable[[], Any]:
    def spoil() -> None:
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[: int(share * len(content))])

    return spoil


def saved(make: Callable[[], onnx.ModelProto]) -> Callable[[], Any]:
    return lambda: Path("bad.onnx").write_bytes(make().SerializeToString())


def changed(change: Callable[[onnx.ModelProto], Any], **settings: Any) -> Callable[[], Any]:
    """The good model after a change to its proto."""

    def make() -> onnx.ModelProto:
        proto = tiny.conv_net(**settings)
        change(proto)
        return proto

    return saved(make)


RANDOM = np.random.default_rng(0).bytes(4000)


def npz(**arrays: Any) -> Callable[[], Any]:
    return lambda: np.savez("bad.npz", **arrays)


X, Y = np.random.default_rng(1).random((48, 3, 8, 8), dtype=np.float32), np.arange(48) % 4


SCORE, TRAIN, EVALUATE = (
    "score model.onnx bad.npz -o out.json",
    "train artifacts bad.npz",
    "evaluate model.onnx bad.npz",
)


def empty_folder() -> None:
    Path("photos").mkdir()


def trained(work: Path) -> None:
    from adabet_onnx import Trainer

    Trainer(work / "artifacts").fit(work / "data.npz", epochs=1)


SELECT = "select scores.json -o out.json"


ARTIFACTS = "artifacts model.onnx selection.json -o out"


def entry(name: str, **changes: Any) -> Callable[[], Any]:
    def spoil() -> None:
        value = json.loads(Path(name).read_text())
        value.update(changes)
        Path(name).write_text(json.dumps(value))

    return spoil


def process(work: Path, *arguments: str, limit: int | None = None, **environment: str) -> Result:
    """Run the command line in another process in `work`, maybe with a limit on file sizes (and without bytecode)."""
    if limit is not None:
        environment = {**environment, "PYTHONDONTWRITEBYTECODE": "1"}

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "adabet_onnx", *arguments],
        cwd=work,
        env={**os.environ, "PYTHONWARNINGS": "default", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=limited if limit is not None else None,
    )
    return Result(done.returncode, done.stdout, done.stderr)
