"""Compiles samples/java and samples/android for the JVM of this machine, and runs them.

ONNX Runtime's Java API is that of the Android package; its native half runs here with a shim (tests/mobile/shim.c).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT, missing

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


def words_of(package: Path, command: str, options: dict[str, object]) -> list[str]:
    """The program's arguments: options are keywords, with _ for -."""
    words = [str(package), command]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@dataclass(frozen=True)
class Program:
    """The program with one package."""

    jvm: Jvm
    runner: Runner
    package: Path

    def run(self, command: str, **options: object) -> list[str]:
        """The lines it prints; it must succeed."""
        status, printed = self.runner.job("main", *words_of(self.package, command, options))
        assert status == 0, printed[-3:]
        return printed

    def fails(self, command: str, **options: object) -> str:
        """The error message; it must fail."""
        status, printed = self.runner.job("main", *words_of(self.package, command, options))
        assert status == 1, printed[-3:]
        return printed[-1]

    def alone(self, command: str, **options: object) -> list[str]:
        """The command that runs it in a separate JVM."""
        return [*self.jvm.command(), *words_of(self.package, command, options)]
