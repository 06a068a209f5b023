"""docs/app-dotnet.md: every block is run or compiled and run, in order; and the project files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import command_of
from conftest import ROOT
from device_commands import checked
from device_csharp import CSHARP, compile_all, compiled
from device_rules import description
from safetensors.numpy import load_file

import adabet_onnx

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("checked_here")]

PAGE = ROOT / "docs" / "app-dotnet.md"
DEMO = Path(adabet_onnx.__file__).parent / "demo"
APP = """
using System; using System.IO; using System.Threading; using System.Threading.Tasks; using Adabet.Device;

static class FileSystem  // as MAUI has it
{
    public static string AppDataDirectory = "data";
    public static Task<Stream> OpenAppPackageFileAsync(string name)
    {
        return Task.FromResult<Stream>(File.OpenRead(name));
    }
}

static class App
{
    static T[] Read<T>(string path, int size)
    {
        byte[] bytes = File.ReadAllBytes(path);
        var numbers = new T[bytes.Length / size];
        Buffer.BlockCopy(bytes, 0, numbers, 0, bytes.Length);
        return numbers;
    }

    static void Main() { Run().GetAwaiter().GetResult(); }

    static async Task Run()
    {
        float[] pixels = Read<float>("x", 4);
        long[] labels = Read<long>("y", 8);
        var stop = new CancellationTokenSource();
STATEMENTS
    }
METHODS
}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_says_what_kind_each_block_is():
    kinds = re.findall(r"^```(\S*)$", PAGE.read_text(), re.MULTILINE)
    assert set(kinds) == {"sh", "xml", "csharp", ""}
    assert len(kinds) == 2 * sum(len(blocks(kind)) for kind in ("sh", "xml", "csharp"))


def test_what_the_page_says_runs(tmp_path, tmp_path_factory, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / "digits.onnx", "model.onnx")
    [commands] = blocks("sh")
    for line in commands.splitlines():
        program, *words = line.split()
        assert program == "adabet-onnx"
        command_of(monkeypatch, capfd)(*words)
    with np.load(DEMO / "digits_shifted.npz") as data:
        data["x_train"][:64].transpose(0, 3, 1, 2).astype("<f4").tofile("x")
        data["y_train"][:64].astype("<i8").tofile("y")
    made = blocks("csharp")
    methods = [block for block in made if block.startswith("static ")]
    assert len(made) == 5
    assert len(methods) == 2
    app = APP.replace("STATEMENTS", "".join(block for block in made if block not in methods))
    (tmp_path / "App.cs").write_text(app.replace("METHODS", "".join(methods)))
    csharp = compile_all(tmp_path_factory.getbasetemp())
    library, unused = csharp.folder / "Adabet.Device.dll", ("-nowarn:219",)  # what the page shows need not be used
    compiled("exe", csharp.folder / "app.exe", [tmp_path / "App.cs"], library, more=unused)
    printed = checked(*csharp.command("app.exe"), env=csharp.environment).stdout
    assert printed.count("epoch") <= 5
    names = {file["name"] for file in description(Path("device"))["files"]}
    assert {path.name for path in Path("data/device").iterdir() if path.is_file()} == {
        "device.json",
        "me.progress",
        "me.safetensors",
        *names,
    }
    entries = {entry["name"]: entry for entry in description(Path("device"))["entries"]}
    delta = load_file("data/device/me.safetensors")
    [entry] = [
        e for e in entries.values() if {t["name"] for t in e["tensors"] if t["kind"] != "optimizer"} == set(delta)
    ]
    assert {path.name for path in Path("data/device/personal").iterdir()} == {
        entry["model"],
        entry["selected"],
        description(Path("device"))["weights"],
    }


def test_project_files_agree_with_the_page():
    [block] = blocks("xml")
    asked = {node.tag: node.attrib for node in ElementTree.fromstring(block)}
    library = ElementTree.parse(ROOT / asked["ProjectReference"]["Include"]).getroot()
    assert library.find(".//PackageReference").attrib == asked["PackageReference"]
    assert library.find(".//TargetFramework").text == "netstandard2.0"
    assert library.find(".//LangVersion").text == "7.3"
    program = ElementTree.parse(CSHARP / "Program" / "adabet-device.csproj").getroot()
    assert (CSHARP / "Program" / program.find(".//ProjectReference").attrib["Include"]).is_file()
