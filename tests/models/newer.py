"""Operators of opsets 23 to 25 between a projection and a head, and the same in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from .tiny import normal

POSITIONS, WIDTH, FEATURES = 7, 6, 4  # of the input, and of each head


def text(body: str, weights: dict[str, np.ndarray], *, opset: int, ir_version: int = 11, output: int = 3):
    """A model from ``input`` (N, 7, 6) to ``logits``; ``body`` gives ``y`` (N, ?, width of the head)."""
    proto = onnx.parser.parse_model(
        f"""<ir_version: {ir_version}, opset_import: ["" : {opset}]>
        net (float[N, {POSITIONS}, {WIDTH}] input) => (float[N, {output}] logits) {{
            {body}
            middle = Constant<value_ints = [1]>()
            pooled = ReduceMean<keepdims = 0>(y, middle)
            logits = Gemm(pooled, "fc.weight", "fc.bias")
        }}"""
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"/{node.op_type}_{index}"
    return proto


@dataclass(frozen=True)
class Case:
    """An Attention.

    Attributes:
        axes: 3 or 4, of its inputs.
        heads: of queries.
        few: heads of keys and values.
        queries: how many positions of the input are queries.
        keys: how many are keys.
        attributes: of the node.
        mask: None, or how the mask is made: ``bool`` and ``float`` constant; ``seen`` and ``bias`` from the input, by
            which all keys of some samples are masked.
        opset: of the model.
    """

    axes: int = 4
    heads: int = 2
    few: int = 2
    queries: int = POSITIONS
    keys: int = POSITIONS
    attributes: tuple[tuple[str, float], ...] = ()
    mask: str | None = None
    opset: int = 23

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Initializers."""
        rng = np.random.default_rng(7)
        wide, narrow = self.heads * FEATURES, self.few * FEATURES
        return {
            "q.weight": normal(WIDTH, wide, scale=0.8),
            "k.weight": normal(WIDTH, narrow, scale=0.9),
            "v.weight": normal(WIDTH, narrow, scale=0.7),
            "fc.weight": normal(wide, 3),
            "fc.bias": normal(3),
            "bool": rng.random((self.queries, self.keys)) > 0.4,
            "float": normal(self.heads, self.queries, self.keys, scale=1.0),
        }

    def model(self) -> onnx.ModelProto:
        """The ONNX model."""
        weights = self.weights
        for name in ("bool", "float"):
            if self.mask != name:
                del weights[name]
        lines = [
            "zero = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()",
            "least = Constant<value_float = 0.3>()",
            *(f"end_{n} = Constant<value_ints = [{end}]>()" for n, end in (("q", self.queries), ("k", self.keys))),
            "xq = Slice(input, zero, end_q, one)  xk = Slice(input, zero, end_k, one)",
        ]
        for name, count in (("q", self.heads), ("k", self.few), ("v", self.few)):
            flat = name if self.axes == 3 else f"flat_{name}"
            lines.append(f'{flat} = MatMul(x{"q" if name == "q" else "k"}, "{name}.weight")')
            if self.axes == 4:
                lines.append(f"shape_{name} = Constant<value_ints = [0, 0, {count}, {FEATURES}]>()")
                lines.append(f"split_{name} = Reshape({flat}, shape_{name})")
                lines.append(f"{name} = Transpose<perm = [0, 2, 1, 3]>(split_{name})")
        given = f'"{self.mask}"' if self.mask in ("bool", "float") else "seen"
        if self.mask in ("seen", "bias"):
            lines += [
                "place = Constant<value_int = 0>()  flat = Gather<axis = 2>(xk, place)  more = Greater(flat, least)",
                "axes = Constant<value_ints = [1, 2]>()  seen = Unsqueeze(more, axes)",
            ]
        if self.mask == "bias":
            lines.append("none = Constant<value_float = 0.0>()  never = Log(none)  bias = Where(seen, none, never)")
            given = "bias"
        attributes = dict(self.attributes)
        if self.axes == 3:
            attributes |= {"q_num_heads": self.heads, "kv_num_heads": self.few}
        written = ", ".join(f"{key} = {value}" for key, value in attributes.items())
        inputs = "q, k, v" + (f", {given}" if self.mask else "")
        lines.append(f"{'y' if self.axes == 3 else 'a'} = Attention{f'<{written}>' if written else ''}({inputs})")
        if self.axes == 4:
            lines.append(f"merged = Constant<value_ints = [0, 0, {self.heads * FEATURES}]>()")
            lines.append("b = Transpose<perm = [0, 2, 1, 3]>(a)  y = Reshape(b, merged)")
        return text("\n".join(lines), weights, opset=self.opset)

    def in_torch(self, x, weights):
        """Logits in torch, by the definition; float64 tensors in and out."""
        import torch

        def heads(name, count, length):
            flat = x[:, :length] @ weights[f"{name}.weight"]
            return flat.reshape(len(x), length, count, FEATURES).transpose(1, 2)

        q = heads("q", self.heads, self.queries)
        k, v = (heads(n, self.few, self.keys).repeat_interleave(self.heads // self.few, 1) for n in "kv")
        attributes = dict(self.attributes)
        scores = q @ k.transpose(2, 3) * attributes.get("scale", 1 / math.sqrt(FEATURES))
        if "softcap" in attributes:
            scores = attributes["softcap"] * torch.tanh(scores / attributes["softcap"])
        i, j = torch.arange(self.queries)[:, None], torch.arange(self.keys)[None]
        keep = torch.ones(self.queries, self.keys, dtype=torch.bool)
        if attributes.get("is_causal"):
            keep &= j <= i
        if "left_window_size" in attributes:
            keep &= i - j <= attributes["left_window_size"]
        if "right_window_size" in attributes:
            keep &= j - i <= attributes["right_window_size"]
        if self.mask == "bool":
            keep = keep & torch.from_numpy(self.weights["bool"])
        elif self.mask == "float":
            scores = scores + torch.from_numpy(self.weights["float"])
        elif self.mask:
            keep = keep & (x[:, : self.keys, 0] > 0.3)[:, None, None]
        dead = ~keep.any(-1, keepdim=True)
        weight = torch.softmax(scores.masked_fill(~(keep | dead), -math.inf), -1) * ~dead
        y = (weight @ v).transpose(1, 2).reshape(len(x), self.queries, -1)
        return y.mean(1) @ weights["fc.weight"] + weights["fc.bias"]
