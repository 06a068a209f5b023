"""docs/schemas: files written by commands are valid, damaged ones fail the schema and the reader, old ones load.

Everything is done once, with the demo's model and a part of its data. docs/formats says what the entries mean.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TRAINING
from jsonschema import Draft202012Validator

from adabet_onnx import RecordError, load_scores, load_selection
from adabet_onnx.cli.main import main
from adabet_onnx.cost.measure import Cost
from adabet_onnx.fleet.record import read_fleet
from adabet_onnx.report.gather import gather
from adabet_onnx.study.results import load_results
from adabet_onnx.study.runs import read as read_run
from adabet_onnx.study.stability_record import load_stability
from adabet_onnx.training.manifest import load_manifest

pytestmark = pytest.mark.slow
SCHEMAS = ROOT / "docs" / "schemas"
NAMES = sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json"))
QUICK = ("--samples", "32", "--subset-size", "16", "--subsets", "2", "-q")
TRAIN, TEST = 150, 40


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text())


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def read(path: Path) -> Any:
    """The content of a JSON file; of a file of lines, the last line, which has the most entries."""
    text = path.read_text()
    return json.loads(text.splitlines()[-1]) if path.suffix == ".jsonl" else json.loads(text)


def put(path: Path, content: Any) -> None:
    """Write a JSON file; of a file of lines, the last one anew."""
    kept = path.read_text().splitlines(keepends=True)[:-1] if path.suffix == ".jsonl" else []
    path.write_text("".join(kept) + json.dumps(content))


def run_commands(folder: Path) -> None:
    """Write every file, in ``folder``, which is the working directory."""
    for name in ("digits.onnx", "digits_shifted.npz"):
        (folder / name).write_bytes((resources.files("adabet_onnx.demo") / name).read_bytes())
    with np.load(folder / "digits_shifted.npz", allow_pickle=False) as stored:
        sizes = {"x_train": TRAIN, "y_train": TRAIN, "x_test": TEST, "y_test": TEST, "classes": None}
        np.savez(folder / "data.npz", **{name: stored[name][:size] for name, size in sizes.items()})
    commands = [
        ("score", "digits.onnx", "data.npz", "-o", "scores.json", "--channels", *QUICK),
        ("select", "scores.json", "-o", "selection.json", "--rho", "0.3", "--max-memory", "64MB", "-q"),
        ("select", "scores.json", "-o", "channels.json", "--rho", "0.3", "--channel-rho", "0.5", "-q"),
        ("select", "digits.onnx", "-o", "head.json", "--strategy", "head", "-q"),
        ("artifacts", "digits.onnx", "selection.json", "-o", "artifacts", "-q"),
        ("artifacts", "digits.onnx", "channels.json", "-o", "of-channels", "--no-check", "--optimizer", "sgd", "-q"),
        ("artifacts", "digits.onnx", "head.json", "-o", "int8", "--no-check", "--frozen-precision", "int8",
         "--data", "data.npz", "-q"),
        ("train", "artifacts", "data.npz", "--epochs", "2", "-q"),
        ("run", "digits.onnx", "data.npz", "-o", "run", "--num-classes", "10", "--epochs", "1", "--no-check", *QUICK),
        ("run", "digits.onnx", "data.npz", "-o", "predicted", "--epochs", "1", "--no-check", "--no-measure", *QUICK),
        ("compare", "digits.onnx", "data.npz", "-o", "compared", "--strategies", "adabet,fisher,head", "--rho", "0.2",
         "--seeds", "1", "--epochs", "1", "--rates", "0.003", "--old-domain", "data.npz", *QUICK),
        ("stability", "digits.onnx", "data.npz", "-o", "stability.json", "--subset-size", "16", "--subsets", "2",
         "--seeds", "1", "--no-fisher", "-q"),
        ("fleet", "simulate", "digits.onnx", "data.npz", "-o", "fleet", "--clients", "2", "--rounds", "1", "-q",
         "--samples", "32", "--subset-size", "16", "--subsets", "2"),
        ("fleet", "simulate", "digits.onnx", "data.npz", "-o", "unasked", "--clients", "2", "--rounds", "1", "-q",
         "--strategy", "head"),
    ]  # fmt: skip
    if TRAINING:
        commands.append(("artifacts", "digits.onnx", "head.json", "-o", "ort", "--backend", "ort", "--no-check", "-q"))
    for words in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["adabet-onnx", *words])
            with pytest.raises(SystemExit) as left:
                main()
        assert left.value.code == 0, " ".join(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of all files. Costs of steps are made up, since measuring would start processes."""
    folder = tmp_path_factory.mktemp("formats")
    cost = Cost(memory_bytes=3 << 20, seconds=0.01, frozen_bytes=3 << 20, frozen_seconds=0.02, tail_bytes=1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("adabet_onnx.cost.measure._measure", lambda *given: cost)
        run_commands(folder)
    return folder


@pytest.fixture
def one(folder, tmp_path) -> Path:
    """A copy that may be damaged; big files are links."""
    return Path(shutil.copytree(folder, tmp_path / "copy", copy_function=copied))


def copied(source: str, target: str) -> str:
    path = Path(source)
    if path.suffix in (".json", ".jsonl"):
        return str(shutil.copy2(source, target))
    Path(target).hardlink_to(path)
    return target


WRITTEN = {
    "scores": ["scores.json", "run/scores.json", "predicted/scores.json", "compared/scores/0.json"],
    "selection": [
        "selection.json", "channels.json", "head.json", "run/selection.json", "fleet/selection.json",
        "unasked/selection.json",
    ],
    "manifest": [
        "artifacts/manifest.json", "of-channels/manifest.json", "int8/manifest.json", "run/artifacts/manifest.json",
        "fleet/artifacts/manifest.json",
    ],
    "run": ["run/run.json", "predicted/run.json"],
    "metrics": ["artifacts/metrics.jsonl", "run/metrics.jsonl"],
    "results": ["compared/results.json"],
    "plan": ["compared/plan.json"],
    "stability": ["stability.json"],
    "fleet": ["fleet/fleet.json", "unasked/fleet.json"],
    "fleet-round": ["fleet/fleet.jsonl", "unasked/fleet.jsonl"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one_and_explained(name):
    Draft202012Validator.check_schema(schema(name))
    pages = [*(ROOT / "docs" / "formats").glob("*.md"), ROOT / "docs" / "device-package.md"]
    assert any(f"schemas/{name}.schema.json" in page.read_text() for page in pages)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "device"])
def test_what_is_written_is_valid(folder, name):
    files = WRITTEN.get(name) or [f"compared/runs/{path.name}" for path in (folder / "compared" / "runs").iterdir()]
    if name == "manifest" and TRAINING:
        files = [*files, "ort/manifest.json"]
    for file in files:
        lines = (folder / file).read_text().splitlines() if file.endswith(".jsonl") else None
        contents = [read(folder / file)] if lines is None else [json.loads(line) for line in lines]
        for content in contents:
            errors = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(content)]
            assert errors == [], file


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("device", "plan", "results")])
def test_schema_and_page_name_every_key_that_is_written(folder, name):
    """So that every new key is documented."""
    file = WRITTEN[name][0] if name in WRITTEN else "compared/runs/" + next((folder / "compared/runs").iterdir()).name
    known = set(keys_of(schema(name)))
    page = "\n".join(path.read_text() for path in (ROOT / "docs" / "formats").glob("*.md"))
    for key in read(folder / file):
        assert key in known, key
        assert f"`{key}`" in page, f"docs/formats does not explain {key!r} of {file}"


def keys_of(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from part.get("properties", {})
        for value in part.values():
            yield from keys_of(value)
    elif isinstance(part, list):
        for value in part:
            yield from keys_of(value)


# --- damaged files ----------------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (None, True, "text", -1, 0.5, [], [None], {})
Reader = Callable[[Path], object]
READERS: dict[str, tuple[str, Reader]] = {
    "scores": ("scores.json", load_scores),
    "selection": ("selection.json", load_selection),
    "manifest": ("artifacts/manifest.json", lambda path: load_manifest(path.parent, verify=False)),
    "run": ("run/run.json", lambda path: gather(path.parent)),
    "results": ("compared/results.json", load_results),
    "plan": ("compared/plan.json", lambda path: gather(path.parent)),
    "compare-run": ("compared/runs/NAME.json", read_run),
    "stability": ("stability.json", load_stability),
    "fleet": ("fleet/fleet.json", lambda path: read_fleet(path.parent)),
    "fleet-round": ("fleet/fleet.jsonl", lambda path: read_fleet(path.parent)),
}
# Entries that no reader checks, by key or by path; a reader may accept anything there.
UNREAD: dict[str, tuple[str, ...]] = {
    "scores": ("preprocessing.data",),
    "selection": ("preprocessing.data",),
    "manifest": (
        "selection.preprocessing.data", "preprocessing.data", "outputs",
        "label_details", "opset", "ir_version", "oldest_onnxruntime", "batch_norm", "recompute", "frozen",
        "frozen_precision", "ort_format", "profile", "checked", "versions", "notes", "weight_decay", "momentum",
        "clip_norm", "bytes", "moves", "sha256.float", "precision", "format", "version",
    ),
    "run": (
        "data", "features", "head_start", "layers", "strategy", "full_precision", "size_tau", "not_measured",
        "predicted", "trainable_layers", "warnings", "advice", "notes", "learning_rate", "rates", "stored_bytes",
        "views", "validation_samples", "kept_epoch", "loss", "per_output", "samples", "trainable_share",
        "most_confused", "per_class", "confusion_matrix", "seconds", "frozen_seconds",
        "costs.inference.frozen_bytes", "costs.inference.tail_bytes", "costs.all.frozen_bytes",
        "costs.all.tail_bytes",
    ),
    "results": (),
    "plan": (
        "data_sha256", "source_sha256", "preprocessing", "data", "command", "strategies", "rhos", "seeds", "epochs",
        "accumulate", "rates", "rate_validation", "head", "train_samples", "budget", "max_accumulate", "scoring",
        "head_init",
    ),
    "compare-run": ("source", "curve"),
    "stability": (),
    "fleet": ("model_sha256", "options", "local", "validation", "schedule", "samples", "head", "layers", "dropped"),
    "fleet-round": ("attempts", "samples", "bytes_down", "bytes_up", "seconds", "dropped"),
}  # fmt: skip

# Numbers that readers convert, so that true is 1; and shapes, of which readers do not look at the batch dimension.
CONVERTED = ("scale", "mean", "std", "example", "round")
SHAPES = ("shape", "logits_shape")


def unread(name: str, where: tuple[str, ...], what: str) -> bool:
    key = where[-1] if where else ""
    if (key in CONVERTED and what in ("True", "[True]")) or (key in SHAPES and what.startswith("[")):
        return True
    return bool({*where, ".".join(where)} & set(UNREAD[name]))


def mutants(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Copies with one entry missing or replaced; of lists, in the first two items."""
    if isinstance(value, dict):
        for key, inner in value.items():
            here = (*where, key)
            yield here, "missing", {other: item for other, item in value.items() if other != key}
            yield from ((path, what, {**value, key: changed}) for path, what, changed in mutants(inner, here))
            yield from ((here, repr(wrong), {**value, key: copy.deepcopy(wrong)}) for wrong in WRONG)
    elif isinstance(value, list):
        for place, item in enumerate(value[:2]):
            for path, what, changed in mutants(item, where):
                yield path, what, [*value[:place], changed, *value[place + 1 :]]
            yield from ((where, f"[{wrong!r}]", [*value[:place], wrong, *value[place + 1 :]]) for wrong in WRONG[:3])


def refused(reader: Reader, path: Path) -> bool:
    try:
        reader(path)
    except RecordError:
        return True
    return False


@pytest.mark.parametrize("name", READERS)
def test_what_the_schema_rejects_the_reader_rejects(one, name):
    """A missing key or a wrong type, wherever the reader checks it; exceptions are listed."""
    file, reader = READERS[name]
    path = next((one / "compared" / "runs").iterdir()) if "NAME" in file else one / file
    content, valid = read(path), validator(name)
    assert not refused(reader, path)
    rejected, accepted = 0, []
    for where, what, mutant in mutants(content):
        if valid.is_valid(mutant):
            continue
        rejected += 1
        if unread(name, where, what):
            continue
        put(path, mutant)
        if not refused(reader, path):
            accepted.append(f"{'.'.join(where)}: {what}")
    put(path, content)
    assert accepted == []
    assert rejected > 30


@pytest.mark.parametrize("name", READERS)
def test_a_missing_key_fails_both(one, name):
    """Every key that the schema requires, one after the other."""
    file, reader = READERS[name]
    path = next((one / "compared" / "runs").iterdir()) if "NAME" in file else one / file
    content, form = read(path), schema(name)
    entry = content[0] if isinstance(content, list) else content
    required = form["items"]["required"] if isinstance(content, list) else form["required"]
    for key in required:
        value = entry.pop(key)
        put(path, content)
        assert not validator(name).is_valid(content)
        assert refused(reader, path), key
        entry[key] = value


def test_limits_that_are_not_known_fail_both(one):
    content = read(one / "selection.json")
    content["budget"]["limits"]["max_energy"] = 1.0
    put(one / "selection.json", content)
    assert not validator("selection").is_valid(content)
    assert refused(load_selection, one / "selection.json")


def test_other_keys_are_allowed(one):
    """As a newer release may write them."""
    for name, (file, reader) in READERS.items():
        path = next((one / "compared" / "runs").iterdir()) if "NAME" in file else one / file
        content = read(path)
        (content[0] if isinstance(content, list) else content)["something new"] = {"a": 1}
        put(path, content)
        assert validator(name).is_valid(content)
        reader(path)


# --- older files ------------------------------------------------------------------------------------------------------


def test_an_artifact_folder_of_version_1_is_valid_and_loads():
    path = ROOT / "tests" / "folders" / "version1" / "manifest.json"
    content = read(path)
    assert content["version"] == 1
    assert validator("manifest").is_valid(content)
    assert load_manifest(path.parent).boundary == []
    assert validator("selection").is_valid(content["selection"])
    for line in (path.parent / "metrics.jsonl").read_text().splitlines():
        assert validator("metrics").is_valid(json.loads(line))


def test_scores_and_selections_of_older_releases_are_valid_and_load(one):
    """Without later additions: sketches, signals, channels, bindings, micro-batches of budgets."""
    content = read(one / "scores.json") | {"version": 1}
    for key in ("inputs", "channel_layers", "notes", "new_head"):
        del content[key]
    for layer in content["layers"]:
        for key in ("shift", "dead", "effective_rank", "untrainable", "channels", "is_norm"):
            del layer[key]
    del content["settings"]["sketch"]
    put(one / "scores.json", content)
    assert validator("scores").is_valid(content)
    assert load_scores(one / "scores.json").layers[0].effective_rank is None
    content = read(one / "selection.json")
    for key in ("inputs", "channels", "channel_rho", "left_out"):
        del content[key]
    del content["budget"]["accumulate"]
    put(one / "selection.json", content)
    assert validator("selection").is_valid(content)
    assert load_selection(one / "selection.json").budget.accumulate == 1


@pytest.mark.parametrize("name", ["scores", "selection", "manifest"])
def test_newer_versions_fail_both(one, name):
    file, reader = READERS[name]
    content = read(one / file) | {"version": 99}
    put(one / file, content)
    assert not validator(name).is_valid(content)
    with pytest.raises(RecordError, match="99"):
        reader(one / file)
