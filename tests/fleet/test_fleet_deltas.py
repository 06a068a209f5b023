"""A round without an engine: merging deltas of devices; and the commands of fleets."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import command_of
from conftest import ROOT
from models import tiny

from adabet_onnx import (
    Choices,
    DataError,
    RecordError,
    Settings,
    Trainer,
    UsageError,
    apply_delta,
    load_delta,
    make_artifacts,
    make_device,
    make_menu,
    merge_deltas,
    open_model,
    save_delta,
    select,
)
from adabet_onnx.device.delta import write_delta
from adabet_onnx.device.description import load_device
from adabet_onnx.fleet.checks import distance
from adabet_onnx.fleet.drawing import plot_rounds

pytestmark = pytest.mark.usefixtures("checked_here")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, list[Path]]:
    """Artifacts, and deltas of three devices that trained them."""
    folder = tmp_path_factory.mktemp("round")
    opened = open_model(tiny.conv_net())
    make_artifacts(opened, select(opened, strategy="all"), folder / "artifacts", choices=Choices(), check=False)
    paths = []
    for number in range(3):
        rng = np.random.default_rng(number)
        data = rng.standard_normal((30, 3, 8, 8)).astype(np.float32), rng.integers(0, 4, 30)
        Trainer(folder / "artifacts").fit(data, settings=Settings(epochs=1, learning_rate=0.01, validation=0.0))
        paths.append(folder / f"{number}.safetensors")
        save_delta(folder / "artifacts", paths[-1])
    return folder / "artifacts", paths


def test_the_mean_of_deltas(trained, tmp_path):
    folder, paths = trained
    found = merge_deltas(folder, paths, tmp_path / "m.safetensors", weights=[1, 2, 5])
    assert found.counted == tuple(map(str, paths))
    assert not found.dropped
    read = [load_delta(path).tensors for path in paths]
    merged = load_delta(tmp_path / "m.safetensors")
    assert (merged.model_sha256, merged.entry) == (load_delta(paths[0]).model_sha256, "all")
    assert list(merged.tensors) == list(read[0])
    for name, array in merged.tensors.items():
        assert np.allclose(array, np.average([each[name] for each in read], axis=0, weights=[1, 2, 5]), atol=1e-6)
    assert apply_delta(folder, merged, tmp_path / "adapted.onnx") == "model"
    alone = merge_deltas(folder, paths[:1], tmp_path / "one.safetensors")
    assert alone.delta.sha256 == load_delta(paths[0]).sha256
    assert repr(found) == "MergedDeltas(m.safetensors, of 3 deltas)"


def hostile(good: Path, folder: Path) -> dict[str, Path]:
    """Files that must not influence the new delta."""
    delta, raw = load_delta(good), good.read_bytes()
    tensors = {name: np.array(array) for name, array in delta.tensors.items()}

    def written(name: str, changed: dict[str, np.ndarray], **about: str) -> Path:
        given = {"model_sha256": delta.model_sha256, "entry": delta.entry, **about}
        write_delta(folder / name, changed, **given)
        return folder / name

    def bytes_of(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    altered = bytearray(raw)
    altered[-2] ^= 4
    huge = {**tensors, "fc.bias": tensors["fc.bias"] + np.float32(1e12)}
    nan = bytearray(raw)
    nan[-4:] = np.array([np.nan], "<f4").tobytes()
    return {
        "truncated": bytes_of("a", raw[:-9]),
        "empty": bytes_of("b", b""),
        "altered": bytes_of("c", bytes(altered)),
        "NaN": bytes_of("d", bytes(nan)),
        "not there": folder / "nothing",
        "another model": written("e", tensors, model_sha256="ab" * 32),
        "missing tensor": written("f", {name: a for name, a in tensors.items() if name != "fc.bias"}),
        "extra tensor": written("g", {**tensors, "more": np.zeros(2, np.float32)}),
        "other shape": written("h", {**tensors, "fc.bias": np.zeros(1, np.float32)}),
        "huge": written("i", huge),
    }


def test_what_does_not_fit_is_dropped_with_a_line(trained, tmp_path):
    folder, paths = trained
    expected = merge_deltas(folder, paths, tmp_path / "expected").delta
    bad = hostile(paths[0], tmp_path)
    found = merge_deltas(folder, [*bad.values(), *paths], tmp_path / "found")
    assert [file for file, _ in found.dropped] == list(map(str, bad.values()))
    assert all(why and "\n" not in why for _, why in found.dropped)
    assert found.delta.sha256 == expected.sha256
    with pytest.raises(DataError, match=r"none of 10 deltas can be merged: .*not a valid safetensors file"):
        merge_deltas(folder, list(bad.values()), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_weights_that_do_not_count(trained, tmp_path):
    folder, paths = trained
    found = merge_deltas(folder, paths, tmp_path / "m", weights=[0, 3, -1])
    assert found.counted == (str(paths[1]),)
    assert [why for _, why in found.dropped] == [
        "its number of samples is 0, expected more than 0 and at most 1000000",
        "its number of samples is -1, expected more than 0 and at most 1000000",
    ]
    with pytest.raises(UsageError, match="`weights` has 1 numbers for 3 deltas"):
        merge_deltas(folder, paths, tmp_path / "m", weights=[1])


def test_where_devices_began(trained, tmp_path):
    folder, paths = trained
    base = load_delta(paths[0])
    norm = distance(load_delta(paths[1]).tensors, base.tensors)
    near = merge_deltas(folder, [paths[1]], tmp_path / "m", base=paths[0], max_norm=norm * 1.01)
    assert near.counted
    with pytest.raises(DataError, match="distance from the values that were sent"):
        merge_deltas(folder, [paths[1]], tmp_path / "m", base=paths[0], max_norm=norm * 0.99)
    write_delta(tmp_path / "other", base.tensors, model_sha256="ab" * 32, entry="all")
    with pytest.raises(RecordError, match="belongs to another model"):
        merge_deltas(folder, paths, tmp_path / "m", base=tmp_path / "other")


def test_deltas_of_a_package(trained, tmp_path):
    """Also those of another entry with some of the tensors: they count for these."""
    folder, paths = trained
    make_device(folder, tmp_path / "device", start="initial")
    found = merge_deltas(tmp_path / "device", paths, tmp_path / "m")
    assert found.delta.sha256 == merge_deltas(folder, paths, tmp_path / "n").delta.sha256
    assert apply_delta(tmp_path / "device", found.delta, tmp_path / "selected.bin") == "selected"
    make_menu(open_model(tiny.conv_net()), tmp_path / "menu", check=False)
    device = load_device(tmp_path / "menu")
    entries = sorted(device.entries, key=lambda entry: len(entry.personal))
    small, large = entries[0], entries[-1]
    assert {tensor.name for tensor in small.personal} < {tensor.name for tensor in large.personal}

    def of(entry: Any, value: float, name: str) -> Path:
        tensors = {tensor.name: np.full(tensor.shape, value, np.float32) for tensor in entry.personal}
        write_delta(tmp_path / name, tensors, model_sha256=device.model_sha256, entry=entry.name)
        return tmp_path / name

    given = [of(large, 1.0, "1"), of(large, 2.0, "2"), of(small, 6.0, "3")]
    merged = merge_deltas(tmp_path / "menu", given, tmp_path / "merged", max_norm=1e6).delta
    assert merged.entry == large.name
    shared = {tensor.name for tensor in small.personal}
    for name, array in merged.tensors.items():
        assert np.allclose(array, 3.0 if name in shared else 1.5)
    other = merge_deltas(tmp_path / "menu", given, tmp_path / "x", entry=small.name, max_norm=1e6)
    assert other.delta.entry == small.name
    assert [file for file, _ in other.dropped] == list(map(str, given[:2]))
    for where in (tmp_path / "menu", folder):
        with pytest.raises(UsageError, match="has no `entry` 'none'"):
            merge_deltas(where, given, tmp_path / "x", entry="none")


def test_nothing_that_is_read_is_written_over(trained, tmp_path):
    folder, paths = trained
    with pytest.raises(UsageError, match="which is also an input"):
        merge_deltas(folder, paths, paths[1])
    with pytest.raises(RecordError, match="neither an artifact folder"):
        merge_deltas(tmp_path, paths, tmp_path / "m")


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def adabet(monkeypatch, capfd, tmp_path) -> Callable[..., Any]:
    """Commands, in a folder with a model and data."""
    embedded = ROOT / "adabet_onnx" / "demo"
    shutil.copy(embedded / "digits.onnx", tmp_path / "model.onnx")
    shutil.copy(embedded / "digits_shifted.npz", tmp_path / "new_domain.npz")
    monkeypatch.chdir(tmp_path)
    return command_of(monkeypatch, capfd)


@pytest.mark.slow
def test_simulate_says_what_came_of_it(adabet, tmp_path):
    quick = ["--clients", "4", "--rounds", "1", "--rho", "0.2", "--no-check", "--schedule", "constant"]
    said = adabet("fleet", "simulate", "model.onnx", "new_domain.npz", "-o", "f", *quick).out
    assert re.search(r"^votes: 4 clients, agreement \(Kendall's W\) 0\.\d\d; first head", said, re.MULTILINE)
    assert re.search(r"^round +1 +4 clients +loss \d", said, re.MULTILINE)
    assert "each client downloads" in said
    more = ["--resume", "--json", *quick[:3], "2", *quick[4:]]
    found = json.loads(adabet("fleet", "simulate", "model.onnx", "new_domain.npz", "-o", "f", *more).out)
    assert [row["round"] for row in found["rounds"]] == [0, 1, 2]
    assert found["poll"]["voters"] == [0, 1, 2, 3]
    error = adabet("fleet", "simulate", "model.onnx", "new_domain.npz", "-o", "g", "--partition", "x", code=2).err
    assert "unknown partition 'x'" in error
    error = adabet("fleet", "simulate", "model.onnx", "new_domain.npz", "-o", "g", "--minimum", "30", code=2).err
    assert "--clients" in error
    assert "--minimum" in error
    for command in (["simulate", "model.onnx", "new_domain.npz"], ["app", "model.onnx"]):
        error = adabet("fleet", *command, "-o", "g", "--lr", "auto", code=2).err
        assert "a fleet cannot search for a learning rate" in error
        assert "--lr" in error
    adabet("report", "f", "-o", "page.html")
    page = Path("page.html").read_text()
    assert "b1_hat and shift are means over the clients that voted" in page
    best = max(found["poll"]["layers"], key=lambda layer: layer["b1_hat"])
    assert f"{best['b1_hat']:.1e}" in page
    assert "was not found" not in page


def test_a_picture_and_a_page(adabet, tmp_path):
    """Of a fleet in which a reply was dropped; and records that are damaged are refused."""
    quick = ["--clients", "4", "--rounds", "2", "--strategy", "last", "--no-check", "--plot", "rounds.svg"]
    adabet("fleet", "simulate", "model.onnx", "new_domain.npz", "-o", "f", *quick)
    assert "accuracy" in Path("rounds.svg").read_text()
    rows = [json.loads(line) for line in Path("f/fleet.jsonl").read_text().splitlines()]
    rows[2]["dropped"] = [{"client": 3, "why": "it did not reply"}]
    Path("f/fleet.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_rounds(rows, "again.png")
    adabet("report", "f", "-o", "page.html", "--no-costs")
    page = Path("page.html").read_text()
    assert "<h2>The fleet</h2>" in page
    assert "Replies that did not count: 1" in page
    assert 'id="fleet-' in page
    for file, spoilt in (
        ("fleet.jsonl", Path("f/fleet.jsonl").read_text().replace('"loss": ', '"loss": "x", "other": ')),
        ("fleet.jsonl", "{"),
        ("fleet.json", "{}"),
        ("fleet.json", Path("f/fleet.json").read_text().replace('"bytes_up": ', '"bytes_up": "y", "other": ')),
        ("fleet.json", Path("f/fleet.json").read_text().replace('"model_file": ', '"model_file": 3, "other": ')),
    ):
        whole = Path("f", file).read_text()
        Path("f", file).write_text(spoilt)
        assert file in adabet("report", "f", "-o", "page.html", "--no-costs", code=1).err
        Path("f", file).write_text(whole)


COMMANDS = re.findall(r"^    (adabet-onnx .*?(?:\\\n.*?)*)$", (ROOT / "docs" / "fleet.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_every_command_of_the_docs_runs(adabet, trained):
    """In order, in a folder with the files that they read, with fewer rounds and clients."""
    folder, paths = trained
    shutil.copytree(folder, "artifacts")
    make_device(folder, "device", start="initial")
    Path("deltas").mkdir()
    for path in paths:
        shutil.copy(path, "deltas")
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        given: list[str] = []
        for word in shlex.split(command.replace("\\\n", " "))[1:]:
            given += sorted(map(str, Path().glob(word))) if word.startswith("deltas/") else [word]
        for option, fewer in (("--rounds", "1"), ("--clients", "4"), ("--per-round", "2")):
            if option in given:
                given[given.index(option) + 1] = fewer
        adabet(*given)
