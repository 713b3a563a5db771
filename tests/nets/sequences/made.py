"""What the tests of networks on sequences share: each network is made and compiled once."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets.sequences.stack import Network, Settings

NAMES = ("lstm", "gru", "qrnn", "s4", "mamba", "transformer")
WIDTH = 8


class Made(NamedTuple):
    """A network with parameters, none of which is as it starts."""

    network: Network
    params: dict
    apply: object  # compiled
    step: object  # compiled


@functools.cache
def made(name, context=64, **settings):
    """A network of one layer."""
    options = {"layers": 1, "width": WIDTH, "heads": 2, "s4_states": 4, "mamba_states": 3}
    network = Settings(name, **{**options, **settings}).make(context)
    params = jax.jit(network.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), params
    )
    return Made(network, params, jax.jit(network.apply), jax.jit(network.step))


def sequence(length, rows=2, seed=0, share=0.1):
    """x [rows, length, WIDTH] and resets in its middle [rows, length]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, length, WIDTH)).astype(np.float32)
    return x, rng.random((rows, length)) < share


def by_steps(it, x, reset, state):
    """What `step` makes of a sequence, and the last state."""
    found = []
    for t in range(x.shape[1]):
        y, state = it.step(it.params, x[:, t], reset[:, t], state)
        found.append(y)
    return np.stack(found, axis=1), state


def close(found, expected, share=1e-5):
    """Asserts that two arrays are the same up to a share of the largest element."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=share * scale, rtol=0)
