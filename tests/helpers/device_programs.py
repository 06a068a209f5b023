"""What the tests of the samples for devices need of each language: its command line program, and its checks.

Each language has a subclass of `DeviceProgram` and of `DeviceChecks`; class attributes are what differs between them.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from conftest import SHARED, missing
from device_commands import checked
from device_damages import Damage
from device_rules import description

import adabet_onnx
from adabet_onnx import Choices, make_artifacts, make_device, open_model, select

DEMO = Path(adabet_onnx.__file__).parent / "demo"
RESNET = SHARED / "models" / "resnet20_cifar10_bn.onnx"
KEPT = ("parameter", "statistic")
TOLERANCE = 1e-5


def words_of(package: Path, command: str, options: Mapping[str, object]) -> list[str]:
    """The program's arguments: options are keywords, with _ for -."""
    words = [str(package), command]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@dataclass(frozen=True)
class DeviceProgram(ABC):
    """The program adabet-device in a language, with one package."""

    package: Path

    highest_status: ClassVar[int] = 63
    stopped: ClassVar[str] = r"cancelled: training was stopped in epoch \d"
    newer_runtime: ClassVar[str] = r"runtime: this is ONNX Runtime 1\.\S+; the package needs 1\.999 or newer"
    no_space: ClassVar[str] = "storage: {path} cannot be written: File too large"
    refusals: ClassVar[Mapping[str, str]]  # patterns of messages; names are those of device_mistakes
    with_small_files: ClassVar[Mapping[str, str]] = {}  # environment variables, where files are limited in size
    written_accuracy: ClassVar[str | None] = None  # the format of an accuracy, if it is not the shortest

    @abstractmethod
    def command(self, command: str, **options: object) -> list[str]:
        """The command that runs it in a process of its own: options are keywords, with _ for -."""

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The environment of this process, in which it finds ONNX Runtime."""

    def of(self, package: Path) -> DeviceProgram:
        """The same program with another package."""
        return replace(self, package=package)

    def run(self, command: str, **options: object) -> list[str]:
        """The lines it prints; it must succeed."""
        return checked(*self.command(command, **options), env=self.environment).stdout.splitlines()

    def failing(self, command: str, **options: object) -> tuple[list[str], str]:
        """The lines it prints, and the error message; it must fail."""
        words = self.command(command, **options)
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=self.environment, check=False)
        assert 0 < done.returncode <= self.highest_status, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stdout.splitlines(), done.stderr.strip()

    def fails(self, command: str, **options: object) -> str:
        """The error message; it must fail."""
        return self.failing(command, **options)[1]

    def place(self, name: str) -> Path:
        """A file beside the package."""
        return self.package.parent / name

    def data(self, part: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The samples and labels beside the package; part: ``held_`` for those held out."""
        shape = description(self.package)["inputs"][0]["shape"][1:]
        x = np.fromfile(self.place(f"{part}x"), "<f4").reshape(-1, *shape)
        return x, np.fromfile(self.place(f"{part}y"), "<i8")


@dataclass(frozen=True)
class MenuAnswer:
    """The choice from a menu, or the message that nothing fits; in some languages, the least that an entry needs."""

    chosen: str | None
    message: str = ""
    smallest: int | None = None


class DeviceChecks(ABC):
    """A program of the tests that tries many packages in one process."""

    damages: ClassVar[Mapping[str, tuple[Damage, str]]]  # and what the message must contain
    no_error: ClassVar[str] = "ok"
    ending: ClassVar[str] = ""  # of each message
    written: ClassVar[tuple[str, ...]] = ("delta", "progress", "selected")  # for a package that works
    failing_predictions: ClassVar[range] = range(1, 5)  # of how many damages only predictions fail

    @abstractmethod
    def tried(self, x: Path, y: Path, out: Path, folders: Mapping[str, Path]) -> list[tuple[str, str, str]]:
        """The last stage, the error's name, and the message for each package: those are in folders by name."""


class RuleChecks(DeviceChecks):
    """One that also applies rules of the format to the test data that is the same for every language."""

    nothing_fits: ClassVar[str] = "no memory: .* at a batch size of {batch}: the smallest needs {smallest}"

    @abstractmethod
    def menu(self, file: Path) -> list[MenuAnswer]:
        """The answer for each case."""

    @abstractmethod
    def random_numbers(self) -> list[list[int]]:
        """The first four numbers of the seed 0 and the stream 1, and what else it prints."""

    def further_random_numbers(self) -> list[list[int]]:
        """What else it must print."""
        return []

    @abstractmethod
    def betti_numbers(self, file: Path, subsets: Path) -> tuple[list[int], list[list[int]] | None]:
        """The number of each matrix, and those of its subsets if it counts them."""


@functools.cache
def demo_files(base: Path) -> Path:
    """A folder with a package of the demo's model, whose batch statistics are updated, and its data in files."""
    folder = base / "device-demo"
    model = open_model(DEMO / "digits.onnx")
    selection = select(model, layers=["block3.conv2", "block3.bn2", "block4.conv1", "head"])
    choices = Choices(optimizer="adamw", batch_norm="batch")
    make_artifacts(model, selection, folder / "artifacts", backend="portable", choices=choices, check=False)
    make_device(folder / "artifacts", folder / "device")
    with np.load(DEMO / "digits_shifted.npz") as arrays:
        for name, images, labels in (("", "x_train", "y_train"), ("held_", "x_test", "y_test")):
            (arrays[images].transpose(0, 3, 1, 2)[:300] / 255).astype("<f4").tofile(folder / f"{name}x")
            arrays[labels][:300].astype("<i8").tofile(folder / f"{name}y")
    return folder


@functools.cache
def demo_package(base: Path, language: str) -> Path:
    """The package of the demo for the tests of a language, with its data beside it."""
    return shutil.copytree(demo_files(base), base / f"device-demo-{language}") / "device"


@functools.cache
def resnet_package(base: Path) -> Path:
    """A package of ResNet-20, and random data beside it."""
    if not RESNET.is_file():
        missing("the shared models are not there")
    folder = base / "device-resnet20"
    model = open_model(RESNET)
    selection = select(model, strategy="last", rho=0.1)
    make_artifacts(model, selection, folder / "artifacts", backend="portable", check=False)
    make_device(folder / "artifacts", folder / "device")
    rng = np.random.default_rng(0)
    rng.standard_normal((60, 3, 32, 32)).astype("<f4").tofile(folder / "x")
    rng.integers(0, 10, 60).astype("<i8").tofile(folder / "y")
    return folder / "device"


@functools.cache
def trained(program: DeviceProgram) -> list[str]:
    """Train two epochs with all output files, which come beside the package; returns the printed lines."""
    names = ("x", "y", "held_x", "held_y", "progress", "delta", "selected")
    before = {path.name: path.read_bytes() for path in program.package.iterdir()}
    files = {name: program.place(name) for name in names}
    files["progress"].unlink(missing_ok=True)
    printed = program.run("fit", **files, epochs=2, batch=16, rate=0.005, seed=3)
    assert before == {path.name: path.read_bytes() for path in program.package.iterdir()}
    return printed
