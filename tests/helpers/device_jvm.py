"""Compiles samples/java and samples/android for the JVM of this machine, and runs them.

ONNX Runtime's Java API is that of the Android package; its native half runs here with a shim (tests/mobile/shim.c).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import c_damages
from conftest import ROOT, missing
from device_damages import Damage
from device_mistakes import COMMON
from device_programs import DeviceProgram, MenuAnswer, RuleChecks, words_of
from device_rules import shuffled

MOBILE = ROOT / "tests" / "mobile"
ONNXRUNTIME = MOBILE / "node_modules" / "com.github.asus4.onnxruntime" / "Plugins"
KOTLIN = MOBILE / "node_modules" / "kotlin-compiler" / "lib"
RUNTIME_JARS = (KOTLIN / "kotlin-stdlib.jar", KOTLIN / "kotlinx-coroutines-core-jvm.jar")
ANDROID, JAVA = ROOT / "samples" / "android", ROOT / "samples" / "java"
LIBRARY = ANDROID / "adabet" / "src" / "main" / "kotlin"
PROGRAM = "dev.adabet.sample.Main"


def tools() -> None:
    """Skip if a compiler or runtime is missing."""
    for tool in ("java", "javac", "cc"):
        if shutil.which(tool) is None:
            missing(f"there is no {tool} (make test installs openjdk-17-jdk-headless)")
    for package in (ONNXRUNTIME, KOTLIN):
        if not package.is_dir():
            missing(f"{package.relative_to(MOBILE)} is not there (make test installs the packages of tests/mobile)")


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, which must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


@contextmanager
def made_once(name: str, sources: Iterable[Path], extra: str = "") -> Iterator[tuple[Path, bool]]:
    """A folder for the output of these sources, and whether it exists already; other processes wait."""
    digest = hashlib.sha256(extra.encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    place = ROOT / "build" / "jvm"
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = place / f"{name}-{digest.hexdigest()[:16]}"
        if folder.is_dir():
            yield folder, True
            return
        for old in place.glob(f"{name}-*"):
            shutil.rmtree(old)
        part = place / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part, False
        part.rename(folder)


def kotlinc(sources: Sequence[Path], jar: Path, classpath: Sequence[Path], *options: str) -> None:
    """Compile Kotlin; a warning is an error."""
    quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # it is finished before optimising pays off
    compiler = ["java", *quick, "-cp", f"{KOTLIN}/*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    words = ["-no-stdlib", "-jvm-target", "17", "-Werror", *options, "-cp", joined(classpath), "-d", jar]
    run(*compiler, *words, *sources)


def joined(paths: Iterable[Path]) -> str:
    return os.pathsep.join(str(path) for path in paths)


@dataclass(frozen=True)
class Jvm:
    """Compiled classes, and the native libraries that they load."""

    classpath: tuple[Path, ...]
    native: Path

    def command(self, main: str = PROGRAM, *options: str) -> list[str]:
        """The command that starts a class."""
        where = [f"-Donnxruntime.native.path={self.native}", "-cp", joined(self.classpath)]
        return ["java", "-XX:+UseSerialGC", *options, *where, main]

    def environment(self) -> dict[str, str]:
        """The environment in which the shim is found."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.native)}


def native_libraries() -> tuple[Path, Path]:
    """ONNX Runtime's Java classes, and the folder of the libraries for them."""
    archive = ONNXRUNTIME / "Android" / "onnxruntime.aar"
    library = ONNXRUNTIME / "Linux" / "x64" / "libonnxruntime.so"
    version = ONNXRUNTIME.parent / "package.json"
    with made_once("native", [MOBILE / "shim.c", version], str(library)) as (folder, there):
        if not there:
            with zipfile.ZipFile(archive) as files:
                for name in ("classes.jar", "jni/x86_64/libonnxruntime4j_jni.so"):
                    (folder / Path(name).name).write_bytes(files.read(name))
            (folder / library.name).symlink_to(library)
            for name in ("libc.so", "libm.so", "libdl.so"):
                flags = ["-shared", "-fPIC", "-O1", "-fno-builtin", "-nostartfiles", f"-Wl,-soname,{name}"]
                run("cc", *flags, "-o", folder / name, MOBILE / "shim.c")
    place = next((ROOT / "build" / "jvm").glob("native-*"))
    return place / "classes.jar", place


def compiled() -> Jvm:
    """The library, the Java program and the tests' runner."""
    tools()
    classes, native = native_libraries()
    kotlin = sorted(LIBRARY.rglob("*.kt"))
    java = [*sorted((JAVA / "src").rglob("*.java")), MOBILE / "Runner.java"]
    with made_once("library", kotlin) as (folder, there):
        if not there:
            kotlinc(kotlin, folder / "adabet.jar", [classes, *RUNTIME_JARS], "-Xexplicit-api=strict")
    jar = next((ROOT / "build" / "jvm").glob("library-*")) / "adabet.jar"
    with made_once("program", [*kotlin, *java]) as (folder, there):
        if not there:
            run("javac", "-Xlint:all", "-Werror", "-cp", joined([jar, classes, *RUNTIME_JARS]), "-d", folder, *java)
    program = next((ROOT / "build" / "jvm").glob("program-*"))
    return Jvm((program, jar, classes, *RUNTIME_JARS), native)


class Runner:
    """tests/mobile/Runner.java: one JVM for many jobs."""

    def __init__(self, jvm: Jvm) -> None:
        self._process = subprocess.Popen(
            jvm.command("Runner"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=jvm.environment(),
        )

    def job(self, *words: object) -> tuple[int, list[str]]:
        """Run a job; returns its status and output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(str(word) for word in words) + "\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith("= "):
                return int(line[2:]), printed
            printed.append(line.rstrip("\n"))
        raise AssertionError(f"the JVM ended with {self._process.wait()}: {printed[-20:]}")

    def close(self) -> None:
        """Stop it and check its exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=60) == 0
        self._process.stdout.close()


@dataclass(frozen=True)
class Program(DeviceProgram):
    """The program with one package."""

    jvm: Jvm
    runner: Runner

    stopped = "cancelled: training was stopped after step 20$"
    refusals: ClassVar[Mapping[str, str]] = COMMON | {
        "no labels": "usage: data: there are no labels",
        "NaN": "not finite: the loss is NaN in step 1: use a learning rate",
        "another entry": "wrong model: .* is for the entry 'none', which",
        "no hash": "wrong hash: .*unsigned: its data has the SHA-256",
        "cut short": "wrong file: .*cut is wrong: '.*' has no valid dtype, shape and offsets",
        "cut shorter": "wrong file: .*header is not a safetensors file: 100 bytes",
        "nothing": "wrong file: .*none cannot be read: No such file",
        "a folder": "wrong file: .* is not a file",
        "nowhere": "storage: /nowhere/d cannot be",
        "an option": "usage: --form is not an option",
    }

    def command(self, command: str, **options: object) -> list[str]:
        """The command that runs it in a separate JVM."""
        return [*self.jvm.command(), *words_of(self.package, command, options)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a separate JVM."""
        return self.jvm.environment()

    def run(self, command: str, **options: object) -> list[str]:
        """The lines it prints in the runner's JVM; it must succeed."""
        status, printed = self.runner.job("main", *words_of(self.package, command, options))
        assert status == 0, printed[-3:]
        return printed

    def failing(self, command: str, **options: object) -> tuple[list[str], str]:
        """The lines it prints in the runner's JVM, and the error message; it must fail."""
        status, printed = self.runner.job("main", *words_of(self.package, command, options))
        assert status == 1, printed[-3:]
        return printed[:-1], printed[-1]


# Messages that differ from those of samples/c.
SAID = {
    "no object": "it is an array; expected an object",
    "no UTF-8": "it is not UTF-8",
    "overlong UTF-8": "it is not UTF-8",
    "half a surrogate": "an invalid escape in a string",
    "NUL in a string": "an invalid escape in a string",
    "a wrong escape": "an invalid escape in a string",
    "format": "the 'format' 'onnx'; expected 'adabet-onnx/device'",
    "files no list": "'files' is an object; expected an array",
    "a file twice": "'files' has the file 'device.onnx' twice",
    "few classes": "'logits_shape' of .* has 4 classes; expected 1",
    "a mean of words": "item 0 of 'mean' of 'preprocessing' is a string; expected a number",
    "huge sketches": "'numbers' of .* is 2147483647; expected a whole number from 1 to 536870911",
    "an entry twice": "'entries' has the entry 'layers' twice",
    "logits": "'logits_shape' of .* has 5 classes; expected 4",
    "loss and logits": "has the output 'logits' twice",
    "no tensors": "'tensors' of .* is empty",
    "a huge boundary": "is 1099511627776, which is too large",
    "a huge tensor": "is 1099511627776, which is too large",
    "a huge optimizer": "is 1099511627776, which is too large",
    "another order": "'tensors' of .* does not begin with a parameter",
    "state.bin cut, hashed": "'selected_bytes' of .* is 2176; 'state' has 1305 bytes",
    "selected.bin cut, hashed": "'selected_bytes' of .* is 2176; 'selected' has 1305 bytes",
    "values that are NaN, hashed": "the loss is NaN in step 1",
}


@dataclass(frozen=True)
class Checks(RuleChecks):
    """tests/mobile/Runner.java."""

    runner: Runner

    damages: ClassVar[Mapping[str, tuple[Damage, str]]] = {
        name: (damage, SAID.get(name, message)) for name, (damage, message) in c_damages.ALL.items()
    }

    def tried(self, x: Path, y: Path, out: Path, folders: Mapping[str, Path]) -> list[tuple[str, str, str]]:
        """The last stage, the error's name, and the message for each package."""
        printed = self.printed("try", x, y, out, *folders.values())
        lines = [line.split("\t", 2) for line in printed]
        return [(stage, problem, message) for stage, problem, message in lines]

    def menu(self, file: Path) -> list[MenuAnswer]:
        """The answer for each case."""
        answers = []
        for said, what, *_ in (line.split("\t") for line in self.printed("menu", file)):
            answers.append(MenuAnswer(what) if said == "chosen" else MenuAnswer(None, f"{said}: {what}"))
        return answers

    def random_numbers(self) -> list[list[int]]:
        """The first numbers, and an order."""
        *first, order = self.printed("random")
        return [[int(number) for number in first], json.loads(order)]

    def further_random_numbers(self) -> list[list[int]]:
        """The order by Python."""
        return [shuffled(50, 2**32 - 1, 9)]

    def betti_numbers(self, file: Path, subsets: Path) -> tuple[list[int], None]:
        """The number of each matrix."""
        return [int(line) for line in self.printed("betti", file)], None

    def printed(self, *words: object) -> list[str]:
        """The lines of a job, which must succeed."""
        status, printed = self.runner.job(*words)
        assert status == 0, printed[-20:]
        return printed


@contextmanager
def running(jvm: Jvm) -> Iterator[Runner]:
    """A JVM for many jobs, which must end without an error."""
    runner = Runner(jvm)
    yield runner
    runner.close()
