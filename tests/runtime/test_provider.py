"""Execution providers: scoring, the frozen part and predictions run on one, training on the CPU."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import command_of
from conftest import HELPERS, ROOT, missing
from models import tiny

import adabet_onnx
from adabet_onnx import (
    Adapting,
    ModelError,
    Plan,
    ProviderWarning,
    Runtime,
    Settings,
    UsageError,
    evaluate,
    make_artifacts,
    open_model,
    placement,
    predict,
    runtime,
    select,
)
from adabet_onnx.cli.translate import translate
from adabet_onnx.kendall import kendall_tau
from adabet_onnx.training import features
from adabet_onnx.training.training_data import open_training_data

PYTHON = ROOT / ".venv-openvino" / ("Scripts" if os.name == "nt" else "bin") / "python"
DEMO = Path(adabet_onnx.__file__).parent / "demo"
CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What tests/helpers/on_a_provider.py found."""
    if not PYTHON.exists() or not list(PYTHON.parent.parent.rglob("site-packages/onnxruntime")):
        missing("no environment with onnxruntime-openvino (make test makes one)")
    folder = tmp_path_factory.mktemp("provider") / "artifacts"
    script = HELPERS / "on_a_provider.py"
    command = [PYTHON, script, DEMO / "digits.onnx", DEMO / "digits_shifted.npz", folder]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=500, check=False, env=here
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_scores_agree_with_those_of_the_cpu(both):
    assert kendall_tau(both["scores"]["cpu"], both["scores"]["provider"]) >= 0.99
    np.testing.assert_allclose(both["scores"]["provider"], both["scores"]["cpu"], rtol=0.05)


@pytest.mark.slow
def test_features_agree_with_those_of_the_cpu(both):
    assert both["computed"]
    assert both["largest"] > 0.1
    assert max(both["apart"].values()) <= 1e-3


@pytest.mark.slow
def test_the_frozen_part_runs_on_the_provider_and_the_step_on_the_cpu(both):
    assert both["used"]["frozen"][0] == OPENVINO
    assert both["used"]["step"] == [CPU]


@pytest.mark.slow
def test_a_training_on_top_learns_as_it_does_on_the_cpu(both):
    losses = both["losses"]["provider"]
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, both["losses"]["cpu"], rtol=1e-2)


@pytest.mark.slow
def test_predictions_agree_with_those_of_the_cpu(both):
    assert abs(both["accuracy"][0] - both["accuracy"][1]) < 0.01
    np.testing.assert_allclose(both["logits"][1], both["logits"][0], atol=1e-2)


@pytest.mark.slow
def test_a_provider_that_takes_little_is_told_once(both):
    assert both["taken"] == []
    (said,) = both["declined"]
    assert f"{OPENVINO} runs 1 of the 3 nodes of <ModelProto>: the CPU computes the others (Conv, Det)" in said


def event(name: str, operator: str, provider: str) -> dict:
    """A node's, as it stands in a profile."""
    return {"cat": "Node", "name": name, "args": {"op_name": operator, "provider": provider}}


NODES = ("Conv", "Relu", "Conv", "Relu", "MaxPool", "Flatten", "Gemm")
PART = event("part", "OpenVINO-EP-subgraph_1", OPENVINO)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([PART], None),
        ([PART, event("a", "MaxPool", CPU), event("m", "MemcpyToHost", CPU), event("r", "ReorderOutput", CPU)], None),
        ([PART, event("a", "MaxPool", CPU), event("a", "MaxPool", CPU)], None),  # in two runs
        (
            [PART, *(event(name, "Relu", CPU) for name in "abcd")],
            f"{OPENVINO} runs 3 of the 7 nodes of the model: the CPU computes the others (Relu)",
        ),
        (
            [PART, event("a", "Conv", CPU), event("b", "FusedConv", CPU)],  # what takes the time
            "runs 5 of the 7 nodes of the model: the CPU computes the others (Conv, FusedConv)",
        ),
        ([event(str(i), name, CPU) for i, name in enumerate(NODES)], "runs none of the 7 nodes"),
        ([{"cat": "Session", "name": "model_run"}], None),
        (None, None),
    ],
)
def test_what_a_profile_says_of_a_provider(tmp_path, events, said):
    (tmp_path / "profile").write_text("[" if events is None else json.dumps(events))
    found = placement.placement(tmp_path / "profile", NODES)
    text = None if found is None else found.warning(OPENVINO, "the model")
    assert (text is None) == (said is None)
    assert said is None or said in text
    assert text is None or text.endswith("Leave out `provider` unless it is faster.")


def test_the_profile_of_a_run_tells_where_nodes_ran(tmp_path, monkeypatch):
    """With the real runtime: the named provider runs nothing, since it does not exist."""
    monkeypatch.setattr(placement, "_warned", set())
    monkeypatch.setattr(placement.tempfile, "tempdir", str(tmp_path))
    model = tiny.conv_net()
    options = runtime.session_options(1)
    with placement.profiled(options) as folder:
        session = runtime.inference_session(model.SerializeToString(), "the model", options)
    assert not options.enable_profiling
    watched = placement.Watched(session, folder, OPENVINO, "the model", [node.op_type for node in model.graph.node])
    shape = [2, *open_model(model).inputs[0].shape[1:]]
    feeds = {watched.get_inputs()[0].name: np.ones(shape, np.float32)}
    with pytest.warns(ProviderWarning, match=f"{OPENVINO} runs .* of the .* nodes of the model: the CPU computes"):
        first = runtime.run_session(watched, None, feeds, "the model")
    assert not list(tmp_path.iterdir())
    second = runtime.run_session(watched, None, feeds, "the model")  # pytest makes a second warning an error
    assert first[0].tobytes() == second[0].tobytes()


def test_a_number_of_threads_is_still_a_number(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(tiny.conv_net(), path)
    x = np.zeros((3, *open_model(path).inputs[0].shape[1:]), np.float32)
    found = [predict(path, x, threads=threads) for threads in (1, None, Runtime(1), Runtime(provider="cpu"))]
    assert all(rows == found[0] for rows in found)


def test_names_may_be_short():
    assert Runtime(provider="cpu").provider == Runtime(provider=CPU).provider == CPU
    assert Runtime(provider="cpu", provider_options={"a": 1}).provider_options == {"a": "1"}


def test_what_is_not_there_is_named_with_what_is():
    missing_one = next(name for name in onnxruntime.get_all_providers() if name.startswith("Tensorrt"))
    with pytest.raises(UsageError, match=f"{missing_one} is not in the installed onnxruntime .* It has .*{CPU}"):
        Runtime(provider="tensorrt")
    with pytest.raises(UsageError, match=f"knows no execution provider 'opnvino'.*{CPU}.*Did you mean {OPENVINO}"):
        Runtime(provider="opnvino")
    with pytest.raises(UsageError, match=r"`provider_options` belong to an execution provider. Give `provider` too"):
        Runtime(provider_options={"device_type": "GPU"})


class Session:
    """An InferenceSession that leaves a provider out, as ONNX Runtime does where its library is missing."""

    def __init__(self, source, options, *, providers):
        self.asked = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        print("*************** EP Error ***************")
        print(f"EP Error [ONNXRuntimeError] : 1 : FAIL : no such device when using {providers}")

    def get_providers(self):
        return [CPU]


@pytest.fixture
def elsewhere(monkeypatch):
    """An onnxruntime that has another provider, and cannot start it."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


def test_a_provider_that_falls_back_to_the_cpu_is_said(elsewhere, capsys):
    where = Runtime(provider="openvino", provider_options={"device_type": "NPU"})
    with pytest.raises(ModelError, match=rf"compute the model on the CPU: {OPENVINO} could not be started \(no such"):
        runtime.inference_session(tiny.conv_net().SerializeToString(), "the model", None, where)
    assert capsys.readouterr().out == ""


def test_options_carry_it_to_workers():
    where = Runtime(provider="cpu", provider_options={"a": "b"})
    plan = Plan(processes=2, threads=where)
    assert plan.training_threads == Runtime(1, "cpu", {"a": "b"})
    assert pickle.loads(pickle.dumps(plan.training_threads)) == plan.training_threads
    assert Plan(processes=2).training_threads.threads == 1
    assert repr(Adapting(threads=where)).count("CPUExecutionProvider") == 1


def test_the_command_line_has_it(tmp_path, monkeypatch, capfd):
    command, model = command_of(monkeypatch, capfd), DEMO / "digits.onnx"
    done = command("predict", model, DEMO / "digits_shifted.npz", "--provider", "cpu", "--threads", "1", "--json")
    assert len(json.loads(done.out)) > 100
    said = command("predict", model, DEMO / "digits_shifted.npz", "--provider", "nothing", code=2).err
    assert f"It has {CPU}" in said or CPU in said
    said = command("predict", model, DEMO / "digits_shifted.npz", "--provider-option", "a=b", code=2).err
    assert "--provider-option belong to an execution provider. Give --provider too" in said
    config = tmp_path / "run.toml"
    config.write_text('[runtime]\nprovider = "nothing"\nprovider-option = {device_type = "GPU", num = 1}\n')
    said = command("run", model, DEMO / "digits_shifted.npz", "-o", tmp_path / "out", "--config", config, code=2).err
    assert "no execution provider 'nothing'" in said


def test_texts_are_translated():
    assert translate("`threads=Runtime(provider='openvino')`") == "--provider openvino"
    assert translate("`Runtime(provider_options={'device_type': 'GPU'})`") == "--provider-option device_type=GPU"


def test_a_folder_evaluates_with_it(tmp_path):
    found = [
        evaluate(DEMO / "digits.onnx", DEMO / "digits_shifted.npz", threads=threads)["loss"]
        for threads in (1, Runtime(1, "cpu"))
    ]
    assert found[0] == found[1]


def test_kept_features_are_of_one_provider(tmp_path, monkeypatch):
    """The provider of the frozen part and its options are part of the key of stored features."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])
    manifest = make_artifacts(
        DEMO / "digits.onnx", select(DEMO / "digits.onnx", strategy="head"), tmp_path, check=False
    )
    opened = open_model(DEMO / "digits.onnx")
    used = open_training_data(
        manifest, opened, DEMO / "digits_shifted.npz", Settings(), preprocessing=None, resumed=None
    )
    places = (
        *(Runtime(), Runtime(provider="cpu"), Runtime(1), Runtime(2), Runtime(2, provider="cpu")),
        *(Runtime(provider="openvino"), Runtime(provider="openvino", provider_options={"device_type": "GPU"})),
    )
    keys = [features._key(manifest, used, 8, where) for where in places]
    assert keys[0] == keys[1]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 5, "sums may be taken in another order on another number of threads"
