"""Artifacts of the portable backend, models whose logits have more axes, and the results of torch training."""

from __future__ import annotations

import numpy as np
import onnx
from models import tiny
from onnx import helper

from adabet_onnx import make_artifacts, open_model, score, select
from adabet_onnx.scoring.options import Scoring
from adabet_onnx.trainability.choices import Choices

node = helper.make_node


def made(model, folder, strategy="all", rho=0.5, check=True, **choices):
    """Artifacts of the portable backend, with its self-check."""
    opened = open_model(model)
    shape = opened.inputs[0].shape[1:]
    data = np.random.default_rng(1).standard_normal((32, *shape)).astype(np.float32)
    selection = select(score(opened, data, scoring=Scoring(samples=32)), strategy=strategy, rho=rho)
    return make_artifacts(opened, selection, folder, backend="portable", check=check, choices=Choices(**choices))


def dense_net(pixels: bool) -> onnx.ModelProto:
    """Logits per pixel (N, 4, 8, 8), or per token (N, 5, 4)."""
    if pixels:
        nodes = [
            node("Conv", ["input", "a.weight", "a.bias"], ["h"], "/a", pads=[1] * 4),
            node("Relu", ["h"], ["r"], "/relu"),
            node("Conv", ["r", "b.weight", "b.bias"], ["logits"], "/b"),
        ]
        values = {
            "a.weight": tiny.normal(6, 3, 3, 3),
            "a.bias": tiny.normal(6),
            "b.weight": tiny.normal(4, 6, 1, 1),
            "b.bias": tiny.normal(4),
        }
        return tiny.build(nodes, values, output_shape=["N", 4, 8, 8])
    nodes = [
        node("MatMul", ["input", "a.weight"], ["m"], "/a/m"),
        node("Add", ["m", "a.bias"], ["h"], "/a/add"),
        node("Tanh", ["h"], ["t"], "/tanh"),
        node("MatMul", ["t", "b.weight"], ["logits"], "/b"),
    ]
    values = {"a.weight": tiny.normal(6, 8), "a.bias": tiny.normal(8), "b.weight": tiny.normal(8, 4)}
    return tiny.build(nodes, values, input_shape=["N", 5, 6], output_shape=["N", 5, 4])


def torch_training(oracle, manifest, batches, loss, optimizer, rate, *, clip=None, statistics=False):
    """Losses before each step, by torch in float64."""
    import torch

    model = onnx.load(manifest.file("model"))
    stored = {t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in model.graph.initializer}
    given = {k: v.double() if v.is_floating_point() else v for k, v in stored.items()}
    leaves = [given[name].requires_grad_(True) for name in manifest.parameters]
    stepper, found = optimizer(leaves, lr=rate), []
    for feeds, labels in batches:
        tensors = {k: torch.from_numpy(v).double() for k, v in feeds.items()}
        logits = oracle.execute(model, {**given, **tensors})[manifest.content["model_logits"]]
        value = loss(logits, torch.from_numpy(labels))
        found.append(value.item())
        stepper.zero_grad()
        value.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(leaves, clip)
        stepper.step()
    return found


LABELS = {
    "vector": ((8,), 4),
    "pixels": ((8, 8, 8), 4),
    "tokens": ((8, 5), 4),
}
