"""Mamba against plain loops in float64."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.sequences import blocks, mamba

WIDTH, STATES, LENGTH = 6, 3, 23
FEATURES = 2 * WIDTH


def silu(x):
    return x / (1 + np.exp(-x))


def block_by_loops(params, x, resets):
    """The block for one row [T, D]; `resets` are the places where it starts anew."""
    params = {
        name: {leaf: np.asarray(array, np.float64) for leaf, array in module.items()}
        for name, module in params.items()
    }
    own = params["mamba"]
    into = x @ params["mamba/in"]["w"]
    a = -np.exp(own["log_rate"])  # [E, N]
    h = np.zeros((FEATURES, STATES))
    window = []  # inputs of the convolution, the newest last
    found = []
    for t in range(len(x)):
        if t in resets:
            h[:] = 0
            window = []
        window.append(into[t, :FEATURES])
        u = own["bias"].copy()
        for lag, seen in enumerate(reversed(window[-4:])):
            u += own["taps"][lag] * seen
        u = silu(u)
        chosen = u @ params["mamba/select"]["w"]
        rank = len(chosen) - 2 * STATES
        b = chosen[rank : rank + STATES]
        c = chosen[rank + STATES :]
        dt = np.log1p(np.exp(chosen[:rank] @ params["mamba/step"]["w"] + own["step_bias"]))
        y = np.zeros(FEATURES)
        for feature in range(FEATURES):
            for state in range(STATES):
                h[feature, state] *= np.exp(dt[feature] * a[feature, state])
                h[feature, state] += dt[feature] * b[state] * u[feature]
                y[feature] += c[state] * h[feature, state]
        y += own["skip"] * u
        found.append((y * silu(into[t, FEATURES:])) @ params["mamba/out"]["w"])
    return np.array(found)


@functools.cache
def block():
    net = hk.without_apply_rng(hk.transform(lambda x, reset: mamba.Mamba(STATES)(x, reset, None).y))
    params = net.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)), None)
    rng = np.random.default_rng(0)

    def moved(leaf):
        return leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(moved, params), net.apply


@pytest.mark.parametrize("steps", [LENGTH, 5])
def test_the_block_is_its_loops(steps, monkeypatch):
    """In one block of steps, or in several of 5, which do not divide 23."""
    monkeypatch.setattr(blocks, "_ELEMENTS", steps * 2 * FEATURES * STATES)
    params, apply = block()
    x = np.random.default_rng(1).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
    reset = np.zeros((2, LENGTH), bool)
    reset[1, [4, 5, 11]] = True
    y = jax.jit(lambda x, reset: apply(params, x, reset))(x, reset)
    for row, resets in enumerate([(), (4, 5, 11)]):
        expected = block_by_loops(params, x[row].astype(np.float64), resets)
        np.testing.assert_allclose(y[row], expected, atol=1e-5 * np.abs(expected).max())


def test_steps_start_log_uniform():
    """softplus(bias) lies between 0.001 and 0.1, and its logarithm's mean in their middle."""
    start = hk.transform(lambda: hk.get_parameter("b", [2_000], init=mamba._steps))
    steps = jax.nn.softplus(start.init(jax.random.key(0))["~"]["b"])
    assert steps.min() > 0.00099
    assert steps.max() < 0.101
    assert abs(np.log10(steps).mean() + 2) < 0.05
