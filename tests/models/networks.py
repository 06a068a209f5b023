"""Published networks as torch modules, in any width, from which `architectures` makes small or full ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Act = Callable[[], nn.Module]


def conv_bn(inputs: int, outputs: int, kernel: Any = 3, stride: int = 1, *, groups: int = 1, act: Act | None = nn.ReLU):
    """Convolution of the same size, BatchNormalization, activation."""
    padding = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    parts = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*parts, *([act()] if act else []))


def classifier(width: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


class Residual(nn.Module):
    """x + inner(x), or another shortcut, and an activation after the sum."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.shortcut, self.after = inner, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.shortcut(x) + self.inner(x))


def resnet18(width: int = 64, classes: int = 1000) -> nn.Module:
    parts: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        for step in (stride, 1):
            inner = nn.Sequential(conv_bn(inputs, outputs, 3, step), conv_bn(outputs, outputs, act=None))
            shortcut = None if inputs == outputs and step == 1 else conv_bn(inputs, outputs, 1, step, act=None)
            parts.append(Residual(inner, shortcut, nn.ReLU()))
            inputs = outputs
    return nn.Sequential(*parts, *classifier(inputs, classes))


def resnet50(width: int, classes: int, blocks: Sequence[int]) -> nn.Module:
    """`blocks`: bottleneck blocks of each stage; (3, 4, 6, 3) as published."""
    parts: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, count in enumerate(blocks):
        middle = width * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            inner = [conv_bn(inputs, middle, 1), conv_bn(middle, middle, 3, stride)]
            shortcut = None if block else conv_bn(inputs, 4 * middle, 1, stride, act=None)
            inner.append(conv_bn(middle, 4 * middle, 1, act=None))
            parts.append(Residual(nn.Sequential(*inner), shortcut, nn.ReLU()))
            inputs = 4 * middle
    return nn.Sequential(*parts, *classifier(inputs, classes))


def mobilenetv1(width: int = 32, classes: int = 1000, layers: Sequence[tuple[int, int]] = ()) -> nn.Module:
    """`layers`: (width in multiples of the first, stride) of each depthwise-separable convolution."""
    parts, inputs = [conv_bn(3, width, 3, 2)], width
    for factor, stride in layers:
        parts += [conv_bn(inputs, inputs, 3, stride, groups=inputs), conv_bn(inputs, width * factor, 1)]
        inputs = width * factor
    return nn.Sequential(*parts, *classifier(inputs, classes))


def inverted(inputs: int, expanded: int, outputs: int, kernel: int, stride: int, act: Act, gate: nn.Module | None):
    """An inverted residual: widen, depthwise, perhaps squeeze and excite, narrow."""
    parts = [conv_bn(inputs, expanded, 1, act=act)] if expanded != inputs else []
    parts.append(conv_bn(expanded, expanded, kernel, stride, groups=expanded, act=act))
    inner = nn.Sequential(*parts, *([gate] if gate else []), conv_bn(expanded, outputs, 1, act=None))
    return Residual(inner) if stride == 1 and inputs == outputs else inner


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int, act: Act, gate: Act) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(self.act(self.reduce(scale))))


def mobilenetv2(
    stem: int = 32, last: int = 1280, classes: int = 1000, stages: Sequence[tuple[int, int, int, int]] = ()
) -> nn.Module:
    """`stages`: (expansion, width, blocks, stride)."""
    parts, inputs = [conv_bn(3, stem, 3, 2, act=nn.ReLU6)], stem
    for expansion, outputs, blocks, stride in stages:
        for step in (stride, *[1] * (blocks - 1)):
            parts.append(inverted(inputs, inputs * expansion, outputs, 3, step, nn.ReLU6, None))
            inputs = outputs
    head = classifier(last, classes)
    return nn.Sequential(*parts, conv_bn(inputs, last, 1, act=nn.ReLU6), *head[:2], nn.Dropout(0.2), head[2])


def mobilenetv3(stem: int, last: int, classes: int, blocks: Sequence[tuple[int, int, int, bool, bool, int]]):
    """`blocks`: (kernel, expanded width, width, squeeze and excite, hard swish, stride)."""
    parts, inputs = [conv_bn(3, stem, 3, 2, act=nn.Hardswish)], stem
    for kernel, expanded, outputs, squeezes, swish, stride in blocks:
        gate = SqueezeExcite(expanded, max(expanded // 4, 2), nn.ReLU, nn.Hardsigmoid) if squeezes else None
        parts.append(inverted(inputs, expanded, outputs, kernel, stride, nn.Hardswish if swish else nn.ReLU, gate))
        inputs = outputs
    parts.append(conv_bn(inputs, 6 * inputs, 1, act=nn.Hardswish))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6 * inputs, last), nn.Hardswish(), nn.Dropout(0.2)]
    return nn.Sequential(*parts, *head, nn.Linear(last, classes))


def efficientnet(stem: int, last: int, classes: int, blocks: Sequence[tuple[int, int, int, int]]) -> nn.Module:
    """`blocks`: (expansion, width, kernel, stride)."""
    parts, inputs = [conv_bn(3, stem, 3, 2, act=nn.SiLU)], stem
    for expansion, outputs, kernel, stride in blocks:
        expanded = inputs * expansion
        gate = SqueezeExcite(expanded, max(inputs // 4, 2), nn.SiLU, nn.Sigmoid)
        parts.append(inverted(inputs, expanded, outputs, kernel, stride, nn.SiLU, gate))
        inputs = outputs
    return nn.Sequential(*parts, conv_bn(inputs, last, 1, act=nn.SiLU), *classifier(last, classes))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            conv_bn(inputs, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


def densenet(width: int, growth: int, classes: int, stages: Sequence[int]) -> nn.Module:
    """`stages`: number of layers of each."""
    parts: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for index, layers in enumerate(stages):
        if index:
            narrow = nn.Conv2d(width, width // 2, 1, bias=False)
            parts += [nn.BatchNorm2d(width), nn.ReLU(), narrow, nn.AvgPool2d(2)]
            width //= 2
        for _ in range(layers):
            parts.append(DenseLayer(width, growth))
            width += growth
    return nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU(), *classifier(width, classes))


class Branches(nn.Module):
    """Several parallel branches, whose results are concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(width: int, classes: int) -> nn.Module:
    def square(inputs: int) -> nn.Module:
        return Branches(
            conv_bn(inputs, width, 1),
            nn.Sequential(conv_bn(inputs, width, 1), conv_bn(width, width, 5)),
            nn.Sequential(conv_bn(inputs, width, 1), conv_bn(width, width), conv_bn(width, width)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(inputs, width, 1)),
        )

    def asymmetric(inputs: int) -> nn.Module:
        return Branches(
            conv_bn(inputs, width, 1),
            nn.Sequential(conv_bn(inputs, width, 1), conv_bn(width, width, (1, 7)), conv_bn(width, 2 * width, (7, 1))),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn(inputs, width, 1)),
        )

    def smaller(inputs: int) -> nn.Module:
        return Branches(conv_bn(inputs, width, 3, 2), nn.MaxPool2d(3, 2, 1))

    blocks = [square(width), smaller(4 * width), asymmetric(5 * width)]
    return nn.Sequential(conv_bn(3, width, 3, 2), *blocks, *classifier(4 * width, classes))


class ShuffleUnit(nn.Module):
    """Of ShuffleNetV2: half of the channels (or, with a stride, all) through convolutions, then shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        entering = inputs if stride > 1 else inputs // 2
        self.stride = stride
        self.right = nn.Sequential(
            conv_bn(entering, half, 1), conv_bn(half, half, 3, stride, groups=half, act=None), conv_bn(half, half, 1)
        )
        if stride > 1:
            self.left = nn.Sequential(
                conv_bn(inputs, inputs, 3, stride, groups=inputs, act=None), conv_bn(inputs, half, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            y = torch.cat([self.left(x), self.right(x)], 1)
        else:
            kept, changed = x.chunk(2, 1)
            y = torch.cat([kept, self.right(changed)], 1)
        n, channels, height, width = y.shape
        return y.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


def shufflenetv2(stem: int, stages: Sequence[tuple[int, int]], last: int, classes: int) -> nn.Module:
    """`stages`: (width, units)."""
    parts, inputs = [conv_bn(3, stem, 3, 2), nn.MaxPool2d(3, 2, 1)], stem
    for outputs, units in stages:
        parts.append(ShuffleUnit(inputs, outputs, 2))
        parts += [ShuffleUnit(outputs, outputs, 1) for _ in range(units - 1)]
        inputs = outputs
    return nn.Sequential(*parts, conv_bn(inputs, last, 1), *classifier(last, classes))


class UNet(nn.Module):
    """Logits per pixel; up by transposed convolutions, or by resizing and a convolution."""

    def __init__(self, width: int, depth: int, classes: int, *, resize: bool) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        double = [(3, width), *pairwise(widths)]
        self.down = nn.ModuleList(nn.Sequential(conv_bn(a, b), conv_bn(b, b)) for a, b in double)
        pairs = list(pairwise(widths[::-1]))
        if resize:
            enlarge = [
                nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(a, b, 1)) for a, b in pairs
            ]
        else:
            enlarge = [nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs]
        self.enlarge = nn.ModuleList(enlarge)
        self.up = nn.ModuleList(nn.Sequential(conv_bn(2 * b, b), conv_bn(b, b)) for _, b in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        passed = []
        for block in self.down[:-1]:
            passed.append(block(x))
            x = F.max_pool2d(passed[-1], 2)
        x = self.down[-1](x)
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([passed.pop(), enlarge(x)], 1))
        return self.head(x)


class ChannelsFirstNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wider, self.narrower = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrower(F.gelu(self.wider(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext(widths: Sequence[int], depths: Sequence[int], classes: int) -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelsFirstNorm(widths[0], eps=1e-6)]
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if index:
            parts += [ChannelsFirstNorm(widths[index - 1], eps=1e-6), nn.Conv2d(widths[index - 1], width, 2, 2)]
        parts += [ConvNeXtBlock(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*parts, *head)


class Attention(nn.Module):
    """Self-attention; `fused` takes torch's own function, else Softmax is written out."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            weights = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
            y = torch.softmax(weights if mask is None else weights + mask, -1) @ v
        return self.project(y.transpose(1, 2).reshape(n, tokens, width))


def feed_forward(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class ViT(nn.Module):
    """Normalisation first, as published; a class token and position embeddings."""

    def __init__(
        self, pixels: int, patch: int, width: int, depth: int, heads: int, classes: int, *, fused: bool = True
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (pixels // patch) ** 2 + 1, width))
        norms = [nn.LayerNorm(width, eps=1e-6) for _ in range(2 * depth + 1)]
        self.norms = nn.ModuleList(norms)
        self.attentions = nn.ModuleList(Attention(width, heads, fused=fused) for _ in range(depth))
        self.forwards = nn.ModuleList(feed_forward(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for i, (attention, forward) in enumerate(zip(self.attentions, self.forwards, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + forward(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x)[:, 0])


class Bert(nn.Module):
    """Normalisation after each sum, as published; classes from the first token.

    Args:
        indexed: read the mask at (sample, position), as transformers 5 does; the exporters write this as index
            arithmetic over the whole batch.
    """

    def __init__(
        self, tokens: int, vocabulary: int, width: int, depth: int, heads: int, classes: int, *, indexed: bool = False
    ) -> None:
        super().__init__()
        self.indexed = indexed
        self.word, self.position = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.register_buffer("positions", torch.arange(tokens)[None])
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-12) for _ in range(2 * depth + 1))
        self.attentions = nn.ModuleList(Attention(width, heads, fused=False) for _ in range(depth))
        self.forwards = nn.ModuleList(feed_forward(width) for _ in range(depth))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        positions = self.positions.expand(input_ids.shape[0], -1)  # in every sample, so that it is a layer
        x = self.norms[0](self.word(input_ids) + self.position(positions))
        mask = None
        if attention_mask is not None and self.indexed:
            count, length = input_ids.shape
            sample, position = torch.arange(count)[:, None, None, None], torch.arange(length)[None, None, None, :]
            shown = attention_mask.bool()[sample, position].expand(count, 1, length, length)
            mask = torch.where(shown, 0.0, torch.finfo(torch.float32).min).to(x.dtype)
        elif attention_mask is not None:
            mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float32).min
        for i, (attention, forward) in enumerate(zip(self.attentions, self.forwards, strict=True)):
            x = self.norms[2 * i + 1](x + attention(x, mask))
            x = self.norms[2 * i + 2](x + forward(x))
        return self.head(torch.tanh(self.pooler(x[:, 0])))


class Gpt(nn.Module):
    """A decoder: each token sees those before it; the next token from the last one."""

    def __init__(self, tokens: int, vocabulary: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.register_buffer("positions", torch.arange(tokens)[None])
        self.register_buffer("future", torch.triu(torch.full((tokens, tokens), -1e9), 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))
        self.attentions = nn.ModuleList(Attention(width, heads, fused=False) for _ in range(depth))
        self.forwards = nn.ModuleList(feed_forward(width) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.word(input_ids) + self.position(self.positions.expand(input_ids.shape[0], -1))
        for i, (attention, forward) in enumerate(zip(self.attentions, self.forwards, strict=True)):
            x = x + attention(self.norms[2 * i](x), self.future)
            x = x + forward(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x)[:, -1])


class Recurrent(nn.Module):
    """Of vectors (N, steps, width), by their mean state: two layers of an LSTM, GRU or RNN."""

    def __init__(self, kind: str, inputs: int, units: int, classes: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.body = getattr(nn, kind)(inputs, units, 2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(units * (2 if bidirectional else 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(1))


def audio(width: int, classes: int) -> nn.Module:
    """Of raw sound (N, 1, samples), after M5."""
    parts: list[nn.Module] = []
    inputs = 1
    for outputs, kernel, stride in ((width, 16, 4), (width, 3, 1), (2 * width, 3, 1)):
        conv = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 4)
        parts += [conv, nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]
        inputs = outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(inputs, classes))


def vgg(width: int, classes: int, layers: Sequence[int]) -> nn.Module:
    """`layers`: width in multiples of the first, 0 for pooling."""
    parts: list[nn.Module] = []
    inputs = 3
    for factor in layers:
        if factor:
            parts += [nn.Conv2d(inputs, width * factor, 3, padding=1), nn.ReLU()]
            inputs = width * factor
        else:
            parts.append(nn.MaxPool2d(2))
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * inputs, 16), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*parts, nn.Linear(16, classes))


def alexnet(width: int, classes: int) -> nn.Module:
    """Two of the convolutions in groups, as first published; without local response normalisation, which torch does
    not export.
    """
    parts = [nn.Conv2d(3, width, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    parts += [nn.Conv2d(width, 2 * width, 5, padding=2, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    parts += [nn.Conv2d(2 * width, 3 * width, 3, padding=1), nn.ReLU()]
    parts += [nn.Conv2d(3 * width, 2 * width, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    parts += [nn.Flatten(), nn.Dropout(), nn.Linear(2 * width, 16), nn.ReLU(), nn.Linear(16, classes)]
    return nn.Sequential(*parts)


def mlp(inputs: int, units: int, classes: int) -> nn.Module:
    layers = [nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.Tanh(), nn.Linear(units, classes)]
    return nn.Sequential(*layers)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


def squeezenet(width: int, classes: int) -> nn.Module:
    """The head is a convolution with a Relu after it."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    fires = [Fire(2 * width, width // 2, width), Fire(2 * width, width // 2, width), Fire(2 * width, width, 2 * width)]
    body = [nn.Conv2d(3, 2 * width, 3, 2), nn.ReLU(), pool(), *fires[:2], pool(), fires[2]]
    head = [nn.Dropout(), nn.Conv2d(4 * width, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, *head)
