"""Make the embedded demo: a small digit classifier in ONNX, and digits from a shifted domain.

The source domain is scikit-learn's digits drawn at 16x16: upright, light ink on a black background. The shifted domain
imitates a tilted camera that sees such digits chalked on a grey board under uneven light: rotated, slanted, with less
contrast, shaded from one side, noisy, and in 16 grey levels. Three disjoint sets of digits are used for source
training, adaptation training and adaptation test. On one machine, a seed always gives the same bytes.

    python samples/demo/make_demo.py [--out adabet_onnx/demo] [--seed 0]

Needs numpy, onnx, scikit-learn and torch.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

SIZE = 16  # height and width of the images
N_SOURCE, N_TRAIN = 497, 900  # digits for source and adaptation training; the other 400 are for testing
CLASSES = [str(digit) for digit in range(10)]
MIN_SOURCE_ACCURACY = 0.97


def draw(ink: Tensor, angle: Tensor, slant: Tensor, scale: Tensor, move: Tensor) -> Tensor:
    """Draw ``ink`` [N,1,8,8], 0..1, at SIZE x SIZE: rotated by ``angle`` radians, slanted, scaled, moved."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([cos, sin, slant * cos - sin, slant * sin + cos], dim=1).view(-1, 2, 2)
    theta = torch.cat([matrix / scale.view(-1, 1, 1), move.view(-1, 2, 1)], dim=2)
    grid = functional.affine_grid(theta, [len(ink), 1, SIZE, SIZE], align_corners=False)
    return functional.grid_sample(ink, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def draw_source(ink: Tensor, jitter: float = 0.0) -> Tensor:
    """Draw images of the source domain, in 0..255; ``jitter`` 1 adds the small variations of source training."""
    n = len(ink)
    angle, slant, scale = torch.randn(3, n) * jitter * torch.tensor([[math.radians(5)], [0.1], [0.06]])
    return (draw(ink, angle, slant, 1 + scale, torch.randn(n, 2) * jitter * 0.08) * 255).round()


def draw_shifted(ink: Tensor) -> Tensor:
    """Draw images of the shifted domain, in 0..255."""
    n = len(ink)
    angle = torch.empty(n).uniform_(math.radians(25), math.radians(40))
    chalk = draw(ink, angle, torch.full((n,), 0.2), torch.full((n,), 0.9), torch.randn(n, 2) * 0.05)
    across = torch.linspace(-1, 1, SIZE)
    lamp = torch.empty(n, 1, 1, 1).uniform_(-0.6, 0.6)  # the light's direction, in radians off the horizontal
    light = 0.8 + 0.15 * (torch.cos(lamp) * across + torch.sin(lamp) * across.view(-1, 1))
    seen = light * (0.2 + 0.8 * chalk) + 0.03 * torch.randn(chalk.shape)
    return (seen.clamp(0, 1) * 15).round() * 17


class Block(nn.Module):
    """Two convolutions with batch normalization: a residual pair, or depthwise (stride 2) and pointwise."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.residual = c_in == c_out
        stride, groups, kernel = (1, 1, 3) if self.residual else (2, c_in, 1)
        self.conv1 = nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv2 = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features from the features ``x``."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(x + y if self.residual else y)


class Net(nn.Module):
    """The source model: a stem, four blocks, global average pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem = nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(16)})
        self.block1, self.block2 = Block(16, 16), Block(16, 32)
        self.block3, self.block4 = Block(32, 32), Block(32, 64)
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N,10] of the images ``x``."""
        x = functional.relu(self.stem["bn"](self.stem["conv"](x)))
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.head(x.mean(dim=(2, 3)))


def train_source(ink: Tensor, labels: Tensor, mean: float, std: float, epochs: int = 60) -> Net:
    """Train the source model on the source digits, with new small variations in each epoch."""
    net, rate, batch = Net(), 5e-3, 32
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-2)
    steps = epochs * math.ceil(len(ink) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        x = (draw_source(ink, jitter=1.0) / 255 - mean) / std
        for rows in torch.randperm(len(ink)).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[rows]), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def to_onnx(net: Net, mean: float, std: float) -> onnx.ModelProto:
    """Convert ``net`` to an ONNX graph; each node and initializer is named after its module."""
    nodes: list[onnx.NodeProto] = []

    def add(op: str, name: str, *inputs: str, **attributes: Any) -> str:
        output = "logits" if name == "head" else f"{name}.out"
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv_bn(prefix: str, number: str, x: str) -> str:
        conv, bn = f"{prefix}.conv{number}", f"{prefix}.bn{number}"
        m = net.get_submodule(conv)
        assert isinstance(m, nn.Conv2d)
        x = add("Conv", conv, x, f"{conv}.weight", kernel_shape=m.kernel_size, strides=m.stride,
                pads=[m.kernel_size[0] // 2] * 4, dilations=m.dilation, group=m.groups)  # fmt: skip
        parameters = [f"{bn}.{key}" for key in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", bn, x, *parameters, epsilon=1e-5, training_mode=0)

    x = add("Relu", "stem.relu", conv_bn("stem", "", "input"))
    for name in ("block1", "block2", "block3", "block4"):
        y = conv_bn(name, "2", add("Relu", f"{name}.relu1", conv_bn(name, "1", x)))
        if net.get_submodule(name).residual:
            y = add("Add", f"{name}.add", x, y)
        x = add("Relu", f"{name}.relu2", y)
    x = add("Flatten", "flatten", add("GlobalAveragePool", "pool", x), axis=1)
    add("Gemm", "head", x, "head.weight", "head.bias", transB=1)

    weights = {key: value.numpy() for key, value in net.state_dict().items() if value.is_floating_point()}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASSES)])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset, producer_name="make_demo")
    properties = {"mean": [mean], "std": [std], "classes": CLASSES}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in properties.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train the source model, check it, and write the two files."""
    parser = argparse.ArgumentParser(description="Make the embedded demo's model and data.")
    default = Path(__file__).resolve().parents[2] / "adabet_onnx" / "demo"
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, the training and the shift")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    digits = load_digits()
    order = np.random.default_rng(args.seed).permutation(len(digits.target))
    ink = torch.tensor(digits.images[order], dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target[order], dtype=torch.int64)
    first = N_SOURCE + N_TRAIN  # index of the first test digit
    source, train, test = slice(N_SOURCE), slice(N_SOURCE, first), slice(first, None)

    upright, shifted = draw_source(ink), draw_shifted(ink)
    mean, std = (round(float(v) / 255, 3) for v in (upright[source].mean(), upright[source].std()))
    net = train_source(ink[source], labels[source], mean, std)
    with torch.no_grad():
        logits = {k: net((v / 255 - mean) / std) for k, v in (("upright", upright), ("shifted", shifted))}
    right = {key: (value.argmax(dim=1) == labels).float() for key, value in logits.items()}
    for key, hit in right.items():
        print(f"{key}: {hit[train].mean():.4f} of adapt-train and {hit[test].mean():.4f} of adapt-test correct")
    assert right["upright"][N_SOURCE:].mean() >= MIN_SOURCE_ACCURACY, "the source model is too weak"

    model = to_onnx(net, mean, std)
    (check,) = ReferenceEvaluator(model).run(None, {"input": ((shifted[:8] / 255 - mean) / std).numpy()})
    np.testing.assert_allclose(check, logits["shifted"][:8].numpy(), rtol=1e-5, atol=1e-5)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "digits.onnx").write_bytes(model.SerializeToString(deterministic=True))
    images, y = shifted.permute(0, 2, 3, 1).numpy().astype(np.uint8), labels.numpy()
    np.savez_compressed(args.out / "digits_shifted.npz", x_train=images[train], y_train=y[train],
                        x_test=images[test], y_test=y[test], classes=np.array(CLASSES))  # fmt: skip


if __name__ == "__main__":
    main()
