"""What only samples/c and samples/cpp have: the memory that is needed or lacking, the C++ header, an installation.

test_device_languages.py has what all languages share.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
from conftest import missing
from device_c import CPP, WARNINGS, C, build, environment
from device_commands import checked, runtime_library
from device_damages import small_package
from device_languages import checks_program, demo_program
from device_rules import description

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The program with a package of the demo's model, with batch statistics that move, and its data in files."""
    with demo_program("c", tmp_path_factory.getbasetemp()) as program:
        yield program


def test_too_little_memory_names_what_the_smallest_needs(demo):
    pairs = dict(description(demo.package)["entries"][0]["memory"])
    for batch, needs in ((8, pairs[8]), (9, pairs[32]), (48, -(-pairs[32] * 48 // 32))):
        line = demo.fails("score", x=demo.place("x"), memory=needs - 1, batch=batch)
        assert line.endswith(f"at a batch size of {batch}: the smallest needs {needs}")
        assert demo.run("score", x=demo.place("x"), memory=needs, batch=batch)[-1].startswith("choice ")


def test_the_choice_is_the_worth_then_the_need_then_the_order(demo, tmp_path):
    [entry] = description(demo.package)["entries"]
    head, more = ["head"], ["head", "block4.conv1", "no such layer"]
    entries = [("a", head, 100), ("b", more, 200), ("c", more, 150), ("d", more, 150), ("e", head, 90)]
    items = [entry | {"name": n, "layers": names, "memory": [[8, b]]} for n, names, b in entries]
    menu = demo.of(shutil.copytree(demo.package, tmp_path / "device"))
    (menu.package / "device.json").write_text(json.dumps(description(demo.package) | {"entries": items}))
    for memory, expected in ((1000, "c"), (150, "c"), (149, "e"), (90, "e")):
        assert menu.run("score", x=demo.place("x"), batch=4, memory=memory)[-1] == f"choice {expected}"
    assert menu.fails("score", x=demo.place("x"), batch=16, memory=179).endswith("the smallest needs 180")


def test_the_cpp_header_does_the_same(demo, tmp_path):
    folder = build(CPP, tmp_path / "b", f"-DCMAKE_CXX_FLAGS={WARNINGS}")
    command = [folder / "example", demo.package, demo.place("x"), demo.place("y"), tmp_path / "delta"]
    printed = checked(*command, env=environment()).stdout.splitlines()
    expected = demo.run("fit", x=demo.place("x"), y=demo.place("y"), epochs=2, delta=tmp_path / "expected")
    assert printed[:2] == [line.replace(" loss", ": loss") for line in expected if line.startswith("epoch")]
    assert re.fullmatch(r"right [1-9]\d+ of 300", printed[2])
    assert (tmp_path / "delta").read_bytes() == (tmp_path / "expected").read_bytes()


def test_installed_it_is_found_by_pkg_config_and_can_be_linked(demo, tmp_path):
    if shutil.which("pkg-config") is None:
        missing("there is no pkg-config")
    library = tmp_path / "libonnxruntime.so.1"
    library.symlink_to(runtime_library())
    build(C, tmp_path / "b", f"-DONNXRUNTIME_LIBRARY={library}", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'usr'}")
    checked("cmake", "--install", tmp_path / "b")
    environment_of = {**environment(), "PKG_CONFIG_PATH": str(next(tmp_path.glob("usr/lib*/**/pkgconfig")))}
    words = checked("pkg-config", "--cflags", "--libs", "adabet", env=environment_of).stdout.split()
    source = tmp_path / "main.c"
    source.write_text(
        "#include <adabet.h>\n#include <stdio.h>\nint main(void) { return puts(adabet_code_name(ADABET_OK)) < 0; }"
    )
    checked("gcc", source, "-o", tmp_path / "main", *words, "-Wl,--unresolved-symbols=ignore-in-shared-libs")
    program = replace(demo, path=tmp_path / "b" / "adabet-device")
    paths = {**environment(), "LD_LIBRARY_PATH": str(tmp_path), "ADABET_ONNXRUNTIME": "/nowhere.so"}
    assert "entry layers: 4 layers" in checked(*program.command("show"), env=paths).stdout


def test_no_lack_of_memory_crashes_it(tmp_path, tmp_path_factory):
    """With sanitizers, one allocation fails per attempt: each gives an error and no leak, until an attempt succeeds."""
    package = small_package(tmp_path)
    (out := tmp_path / "out").mkdir()
    with checks_program("c", tmp_path_factory.getbasetemp()) as checks:
        [(stage, code, message)] = checks.tried(tmp_path / "x", tmp_path / "y", out, {"nothing": package}, "11")
    assert (stage, code) == ("save", "ok")
    tries, allocations = (int(word) for word in re.findall(r"\d+", message))
    assert 0 < 1 + 11 * (tries - 1) - allocations <= 11
    assert allocations > 500
