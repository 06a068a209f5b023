"""What only samples/ios is tested with, if there is a Swift compiler: a lack of memory, pauses, steps, its page.

test_device_languages.py has what all languages share.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from device_c import environment
from device_commands import checked
from device_languages import checks_program, demo_program
from device_rules import description, run_graph
from device_swift import library, linked
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow, pytest.mark.swift, pytest.mark.usefixtures("checked_here")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The program with a package of the demo's model, with batch statistics that move, and its data in files."""
    with demo_program("swift", tmp_path_factory.getbasetemp()) as program:
        yield program


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    with checks_program("swift", tmp_path_factory.getbasetemp()) as program:
        yield program


def test_a_lack_of_memory_is_an_error(demo, tmp_path):
    samples = 200_000  # the files are memory-mapped; the features are in memory
    for name, width in (("x", 4 * 256), ("y", 8)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, samples * width)
    command = demo.command("fit", x=tmp_path / "x", y=tmp_path / "y", progress=tmp_path / "p")
    most = 1 << 30
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most))  # noqa: E731
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, preexec_fn=limit)
    kept = samples * description(demo.package)["entries"][0]["boundary"][0]["bytes"]
    assert kept > most
    expected = f"the features of {samples} samples ({kept} bytes): take fewer"
    assert done.stderr == f"no memory: there is not enough memory for {expected}\n"
    assert not (tmp_path / "p").exists()


def test_pausing_cancelling_and_going_on(demo, checks):
    lines = checks.printed("pause", demo.package, demo.place("x"), demo.place("y"))
    assert len(lines) == 9
    assert all(line.startswith("holds: ") for line in lines), lines


def test_two_thousand_steps_take_no_more_memory_than_twenty(demo, checks):
    lines = checks.printed("steps", demo.package, demo.place("x"), demo.place("y"), 2000)
    (first, before), (last, after) = (map(int, line.split()) for line in lines[:2])
    assert (first, last) == (20, 2000)
    assert after - before < 8 << 20


HARNESS = """
let words = CommandLine.arguments.dropFirst().map { URL(fileURLWithPath: $0) }
let device = try await opened(words[0])
let pixels = try Data(contentsOf: words[1]), labels = try Data(contentsOf: words[2]).map { Int($0) }
let size = pixels.count / labels.count
let pictures: [[UInt8]] = (0..<labels.count).map { place in
    pixels[place * size..<(place + 1) * size].flatMap { [$0, $0, $0, 255] }
}
let data = try samples(device, pictures, labels)
let model = try await personalised(device, data, in: words[3], memory: 1 << 30, gate: PauseGate())
let found = try await kept(model, data, delta: words[3].appendingPathComponent("delta"))
print(found.map { String($0) }.joined(separator: " "))
"""


def test_what_the_page_says_runs(demo, tmp_path, tmp_path_factory):
    blocks = re.findall(r"```swift\n(.*?)```", (ROOT / "docs" / "app-ios.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "main.swift").write_text("\n".join([*blocks, HARNESS]))
    program = linked(library(tmp_path_factory.getbasetemp()), "page", tmp_path / "main.swift")
    rule = {"scale": 1 / 255, "mean": [0], "std": [1], "channel_axis": 1, "bgr": False, "data": "integer"}
    package = shutil.copytree(demo.package, tmp_path / "device")
    (package / "device.json").write_text(json.dumps(description(demo.package) | {"preprocessing": rule}))
    x, y = demo.data()
    (x * 255).round().astype("u1").tofile(tmp_path / "x")
    y.astype("u1").tofile(tmp_path / "y")
    out = tmp_path / "out"
    out.mkdir()
    lines = checked(program, package, tmp_path / "x", tmp_path / "y", out, env=environment()).stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"epoch {epoch}" for epoch in range(1, 6)]
    entry, delta = description(package)["entries"][0], load_file(out / "delta")
    kept = [tensor for tensor in entry["tensors"] if tensor["kind"] in ("parameter", "statistic")]
    feeds = {"input": x} | {tensor["input"]: delta[tensor["name"]] for tensor in kept}
    expected = run_graph(package / entry["prediction"], feeds)["logits"].argmax(1)
    assert [int(word) for word in lines[-1].split()] == expected.tolist()
    assert np.mean(expected == y) > 0.5
