"""Networks of Flax and JAX, as in a user's file; training one takes a few seconds."""

from __future__ import annotations

import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

KEPT = (nnx.Param, nnx.BatchStat)


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, rngs=rngs)
        self.depth = nnx.Conv(width, width, (3, 3), feature_group_count=width, use_bias=False, rngs=rngs)
        self.depth_bn = nnx.BatchNorm(width, use_scale=False, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.bn(self.conv(x)))
        return x + nnx.relu(self.depth_bn(self.depth(y)))


class Net(nnx.Module):
    def __init__(self, classes: int = 4, seed: int = 0):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([Block(8, rngs) for _ in range(2)])
        self.dense = nnx.Linear(128, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(16, classes, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        return self.head(self.dropout(nnx.relu(self.norm(self.dense(x)))))


def load(path: str = "weights.npz") -> Net:
    """The trained network."""
    net = Net()
    leaves, tree = jax.tree.flatten(nnx.state(net, KEPT))
    with np.load(path) as saved:
        nnx.update(net, jax.tree.unflatten(tree, [saved[str(index)] for index in range(len(leaves))]))
    return net


def train(x: np.ndarray, y: np.ndarray, path: Path, steps: int = 40) -> None:
    """Train it on images of 0 to 255, and write its weights."""
    net = Net()
    optimizer = nnx.Optimizer(net, optax.adam(0.01), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, x, y):
        def loss(net):
            return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

        optimizer.update(net, nnx.grad(loss)(net))

    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.integers(0, len(x), 32)
        step(net, optimizer, x[batch] / np.float32(255), y[batch])
    leaves = jax.tree.leaves(nnx.state(net, KEPT))
    np.savez(path, **{str(index): np.asarray(leaf) for index, leaf in enumerate(leaves)})


class Linen(nn.Module):
    """The other API of Flax."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn")(nn.Conv(8, (3, 3), name="stem")(x)))
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        x = nn.Dropout(0.5, deterministic=not train)(nn.gelu(nn.LayerNorm()(nn.Dense(16)(x))))
        return nn.Dense(4, name="head")(x)


def linen():
    """(function, variables), with statistics as after training; equal scales and biases stay equal."""
    module = Linen()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda value: jnp.asarray(rng.uniform(0.5, 1.5, value.shape)), variables["batch_stats"])
    return functools.partial(module.apply, train=False), {**variables, "batch_stats": moved}


def plain():
    """(function, parameters) of JAX alone."""
    rng = np.random.default_rng(0)
    layers = [
        {"w": rng.standard_normal((rows, columns), np.float32), "b": np.zeros(columns, np.float32)}
        for rows, columns in ((6, 5), (5, 3))
    ]

    def apply(layers, x):
        for layer in layers[:-1]:
            x = jax.nn.gelu(x @ layer["w"] + layer["b"])
        return x @ layers[-1]["w"] + layers[-1]["b"]

    return apply, layers


class Tokens(nnx.Module):
    """Operators that an opset of 17 does not have in the form that jax2onnx writes."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embedding = nnx.Embed(50, 16, rngs=rngs)
        self.norm = nnx.RMSNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, tokens):
        x = self.embedding(tokens)
        return self.head((x + self.attention(self.norm(x))).mean(1))


def two():
    return lambda x: (x, x)


def positional():
    return lambda x: nnx.max_pool(x, (2, 2), (2, 2))


def by_batch():
    """A network that was not put into evaluation mode, which its output depends on."""
    net = nn.BatchNorm(use_running_average=False)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
    return lambda x: net.apply(variables, x, mutable=["batch_stats"])[0] + x


number = 3
