"""The app on top of the Kotlin library, and docs/app-android.md, of which each block of code is compiled or run."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from device_jvm import ANDROID, MOBILE, Jvm, compiled, kotlinc, made_once, run
from safetensors.numpy import load_file

import adabet_onnx
from adabet_onnx import load_delta

pytestmark = pytest.mark.slow

DEMO = Path(adabet_onnx.__file__).parent / "demo"
PAGE = ROOT / "docs" / "app-android.md"
APP = ANDROID / "app" / "src" / "main"


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def app() -> Jvm:
    """The app, the page's code and tests/mobile/Checks.kt, compiled with stubs for Android and its libraries."""
    jvm = compiled()
    page = "\n".join(blocks("kotlin"))
    sources = [*sorted(APP.rglob("*.kt")), MOBILE / "Checks.kt", *sorted((MOBILE / "stubs").glob("*.kt"))]
    with made_once("app", [*sources, *jvm.classpath[1:2]], page) as (folder, there):
        if not there:
            (folder / "Page.kt").write_text(page)
            kotlinc([*sources, folder / "Page.kt"], folder / "app.jar", jvm.classpath[1:], "-nowarn")
    jar = next((ROOT / "build" / "jvm").glob("app-*")) / "app.jar"
    return Jvm((jar, *jvm.classpath), jvm.native)


def adabet(line: str, folder: Path) -> None:
    """Run a command of the page."""
    words = shlex.split(line)
    assert words[0] == "adabet-onnx"
    run(sys.executable, "-m", "adabet_onnx", *words[1:], cwd=folder)


@pytest.fixture(scope="module")
def place(app, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder in which the page's command for a menu and the checks ran, and the output of the checks."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "adapted").mkdir()
    shutil.copy(DEMO / "digits.onnx", folder / "adapted" / "adapted.onnx")
    _, menu, _ = blocks("bash")
    adabet(menu, folder)
    with np.load(DEMO / "digits_shifted.npz") as data:
        data["x_train"][:120].astype(np.uint8).tofile(folder / "images")
        data["y_train"][:120].astype("<i8").tofile(folder / "labels")
    (folder / "out").mkdir()
    given = (folder / name for name in ("device", "out", "images", "labels"))
    done = run(*app.command("ChecksKt"), *given, env=app.environment())
    return folder, done.stdout.splitlines()


def test_pauses_cancelled_trainings_and_the_apps_own_logic(place):
    _, printed = place
    expected = re.findall(r'holds\(\s*"([^"]+)"', (MOBILE / "Checks.kt").read_text())
    assert len(expected) > 25
    assert [line for line in printed if not re.match(r"epoch \d: loss ", line)] == expected
    assert sum(line.startswith("epoch") for line in printed) == 5, "the page's training tells each epoch"


def test_what_the_page_kept_goes_back_into_the_package(place):
    folder, _ = place
    *_, apply = blocks("bash")
    shutil.copy(folder / "out" / "personal.safetensors", folder)
    selected = f"device/{load_delta(folder / 'personal.safetensors').entry}.selected.bin"
    assert (folder / selected).is_file()
    adabet(apply.replace("device/head.selected.bin", selected), folder)
    values = (folder / selected).read_bytes()
    for array in load_file(folder / "personal.safetensors").values():
        assert array.tobytes() in values


def test_the_page_names_what_the_build_files_have(place):
    [line] = blocks("kts")
    assert line.strip() in (ANDROID / "app" / "build.gradle.kts").read_text()
    assert 'include(":adabet"' in (ANDROID / "settings.gradle.kts").read_text()
    catalog = (ANDROID / "gradle" / "libs.versions.toml").read_text()
    assert '"com.microsoft.onnxruntime:onnxruntime-android"' in catalog
    assert all(language in ("kotlin", "bash", "kts") for language in re.findall(r"^```(\w+)$", PAGE.read_text(), re.M))


def test_build_files_name_what_the_catalog_has():
    catalog = (ANDROID / "gradle" / "libs.versions.toml").read_text()
    names = set(re.findall(r"^([\w-]+) = \{", catalog, re.M))
    used = set()
    for build in (ANDROID / "build.gradle.kts", *ANDROID.glob("*/build.gradle.kts")):
        used |= {name.replace(".", "-") for name in re.findall(r"\(libs\.(?:plugins\.)?([\w.]+)\)", build.read_text())}
    assert used == names
    manifest = (APP / "AndroidManifest.xml").read_text()
    kotlin = {path.stem for path in APP.rglob("*.kt")}
    assert set(re.findall(r'android:name="\.(\w+)"', manifest)) <= kotlin
