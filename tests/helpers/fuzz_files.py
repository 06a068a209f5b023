"""Damaged and adversarial files: models, data, images and records, made from good ones by seeded mutations.

``run(count, seed, folder)`` opens each of them in a child process with limits on memory and processor time, and reports
the outcome: success, an `AdabetError`, or a fault: another exception, a crash, too much memory, too much time. As a
script:

    python tests/helpers/fuzz_files.py COUNT [SEED] [--first NUMBER] [--all]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnx
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests, in which models is

from fuzz_models import Rng, damaged, pick, write_model
from models import tiny

from adabet_onnx.scoring.options import Scoring

MEMORY = 1 << 30  # bytes that one file may cost, over what the process has when idle
SECONDS = 10  # of processor time
_PATIENCE = 300  # of the clock, for a process that waits


@dataclass(frozen=True)
class Outcome:
    """Outcome for one file: ``success``, ``refused`` or a fault."""

    number: int
    what: str
    kind: str
    detail: str

    @property
    def good(self) -> bool:
        return self.kind in ("success", "refused")


# --- data, images, records -----------------------------------------------------------------------------------


def _npz_header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _write_npz(folder: Path, rng: Rng) -> tuple[Path, str]:
    path = folder / "data.npz"
    x, y = rng.random((40, 3, 8, 8), dtype=np.float32), np.arange(40) % 4
    kind = rng.integers(8)
    if kind == 0:
        file = BytesIO()
        np.savez(file, x=x, y=y)
        path.write_bytes(damaged(file.getvalue(), rng))
    elif kind == 1:  # an archive that claims to hold more than it does, or unpacks to a huge size
        many = int(pick((10**6, 10**9, 10**15, 2**63), rng))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", _npz_header(f"({many}, 3, 8, 8)") + bytes(1000))
    elif kind == 2:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
            stream.write(_npz_header("(3000000, 3, 8, 8)"))
            for _ in range(300):
                stream.write(bytes(1 << 20))
    elif kind == 3:
        np.savez(path, x=np.array([{"a": 1}, print], object), y=y)
    elif kind == 4:
        x[int(rng.integers(40))] = pick((np.nan, np.inf, -np.inf), rng)
        np.savez(path, x=x, y=y)
    elif kind == 5:
        shapes = ((40,), (40, 0), (0, 3, 8, 8), (40, 3), (40, 3, 8, 9), (40, 1, 1, 1, 1, 3), (2, 3, 8, 8), ())
        np.savez(
            path,
            x=np.zeros(pick(shapes, rng), pick((np.float32, np.complex64, np.uint8, np.int64, "U3", "M8[s]"), rng)),
        )
    elif kind == 6:
        with zipfile.ZipFile(path, "w") as archive:
            descr = pick(("'<f4'", "'|O'", "[('a', '<f4')]", "'<U1000000000'", "{}", "'<f99'"), rng)
            header = _npz_header("(40, 3, 8, 8)").replace(b"'<f4'", descr.encode())
            archive.writestr("x.npy", header + bytes(40 * 3 * 64 * 4))
    else:
        shape = "(" * int(pick((50, 5000), rng)) + "1" + ")" * 50
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", _npz_header(shape[:60000]) + bytes(100))
    return path, f"npz, kind {kind}"


def png(width: int, height: int) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _write_images(folder: Path, rng: Rng) -> tuple[Path, str]:
    from PIL import Image

    images = folder / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(images / name / f"{index}.png")
    victim = images / "a" / "0.png"
    kind = rng.integers(3)
    if kind == 0:
        victim.write_bytes(damaged(victim.read_bytes(), rng))
    elif kind == 1:
        size = int(pick((10_000, 60_000, 2**31 - 1), rng))
        victim.write_bytes(png(size, size))
    else:
        form = str(pick(("JPEG", "GIF", "BMP", "TIFF", "WEBP"), rng))
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).save(file, form)
        victim.write_bytes(damaged(file.getvalue(), rng))
    return images, f"images, kind {kind}"


def _mutated_json(value: object, rng: Rng) -> object:
    other = pick((None, -1, 1e308, "x", [], {}, True, 10**30, "\u0000", [[[]]]), rng)
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = pick(sorted(value), rng)
        return {**value, key: _mutated_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        return [*value[:at], _mutated_json(value[at], rng), *value[at + 1 :]]
    return other


def _write_record(folder: Path, rng: Rng) -> tuple[Path, str]:
    name = str(pick(("scores", "selection"), rng))
    path = folder / f"{name}.json"
    text = (folder.parent / "good" / f"{name}.json").read_text()
    kind = rng.integers(3)
    if kind == 0:
        path.write_bytes(damaged(text.encode(), rng))
    elif kind == 1:
        path.write_text("[" * int(pick((100, 200_000), rng)))
    else:
        path.write_text(json.dumps(_mutated_json(json.loads(text), rng)))
    return path, f"{name}, kind {kind}"


def make(number: int, seed: int, folder: Path) -> tuple[Path, str]:
    """Write the file of this number; return its path and what was done to it."""
    rng = np.random.default_rng([seed, number])
    share = rng.random()
    if share < 0.7:
        return write_model(folder, rng)
    return (_write_npz if share < 0.82 else _write_images if share < 0.9 else _write_record)(folder, rng)


# --- running -------------------------------------------------------------------------------------------------


def _open(path: Path, good: Path) -> None:
    from adabet_onnx import open_model, score
    from adabet_onnx.scoring.record import load_scores
    from adabet_onnx.selection.record import load_selection

    if path.name == "scores.json":
        load_scores(path)
    elif path.name == "selection.json":
        load_selection(path)
    elif path.suffix == ".onnx":
        model = open_model(path)
        shape = [int(extent) for extent in model.inputs[0].shape[1:]]
        if len(model.inputs) == 1 and np.prod(shape, dtype=float) <= 10_000:
            x = np.random.default_rng(0).standard_normal((8, *shape)).astype(model.inputs[0].dtype)
            score(model, x, preset="none", threads=1, scoring=Scoring(samples=8, subset_size=4, subsets=1))
    else:
        score(open_model(good), path, preset="unit", threads=1, scoring=Scoring(samples=16, subset_size=8, subsets=1))


def _serve(connection: Connection, good: Path) -> None:
    """Open files one after another and report the outcomes."""
    warnings.simplefilter("ignore")
    from adabet_onnx import AdabetError

    _open(good, good)  # everything is imported and warm
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send("ready")
    while True:
        path = connection.recv()
        if path is None:
            return
        try:
            _open(path, good)
            connection.send(("success", ""))
        except AdabetError as error:
            told = str(error)
            fine = len(told) < 2000 and "secret" not in told.replace("secret.bin", "")
            connection.send(("refused" if fine else "a long message", told[:300]))
        except MemoryError as error:
            connection.send(("memory", f"{error} {traceback.format_exc(limit=-3)}"))
        except BaseException as error:
            connection.send((type(error).__name__, f"{str(error)[:300]} {traceback.format_exc(limit=-4)}"))


class _Child:
    def __init__(self, good: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, good), daemon=True)
        self.process.start()
        there.close()
        assert self.connection.poll(_PATIENCE)
        assert self.connection.recv() == "ready"
        self._watched = psutil.Process(self.process.pid)

    def open(self, path: Path) -> tuple[str, str]:
        before = self._seconds()
        self.connection.send(path)
        deadline = time.monotonic() + _PATIENCE
        while not self.connection.poll(0.2):
            if not self.process.is_alive():
                return "crash", f"exit code {self.process.exitcode}"
            if self._seconds() - before > SECONDS or time.monotonic() > deadline:
                self.process.kill()
                self.process.join()
                return "time", f"more than {SECONDS} s"
        try:
            kind, detail = self.connection.recv()
        except EOFError:
            self.process.join()
            return "crash", f"exit code {self.process.exitcode}"
        return kind, detail

    def _seconds(self) -> float:
        try:
            times = self._watched.cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system

    def stop(self) -> None:
        if self.process.is_alive():
            self.connection.send(None)
            self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def run(count: int, seed: int, folder: Path, *, first: int = 0) -> Iterator[Outcome]:
    """Make and open ``count`` files in ``folder``, one after another."""
    from adabet_onnx import open_model, score, select

    good = folder / "good"
    good.mkdir()
    onnx.save(tiny.conv_net(), good / "model.onnx")
    scores = score(
        open_model(good / "model.onnx"),
        np.random.default_rng(0).random((32, 3, 8, 8)),
        scoring=Scoring(samples=32, subsets=2),
    )
    scores.save(good / "scores.json")
    select(scores, rho=0.4).save(good / "selection.json")
    work = folder / "work"
    work.mkdir()
    child: _Child | None = None
    for number in range(first, first + count):
        path, what = make(number, seed, work)
        if child is None or not child.process.is_alive():
            child = _Child(good / "model.onnx")
        yield Outcome(number, what, *child.open(path))
    if child is not None:
        child.stop()


def main() -> None:
    """Run, and print the faults and a count of all outcomes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every outcome")
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in run(given.count, given.seed, Path(folder), first=given.first):
            counts[outcome.kind] += 1
            if given.all or not outcome.good:
                print(outcome.number, outcome.what, "->", outcome.kind, outcome.detail, flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main()
