"""Mamba against plain loops in float64."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.sequences import blocks, mamba, selective

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
def block(way):
    def whole(x, reset):
        return mamba.Mamba(STATES, way)(x, reset, None).y

    net = hk.without_apply_rng(hk.transform(whole))
    params = net.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)), None)
    rng = np.random.default_rng(0)

    def moved(leaf):
        return leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(moved, params), net.apply


def blocks_of(steps, monkeypatch):
    """Computes `steps` steps of 2 rows at a time, in either form."""
    monkeypatch.setattr(blocks, "ELEMENTS", steps * 2 * FEATURES * STATES)
    monkeypatch.setattr(blocks, "IN_CACHE", steps * FEATURES * STATES)


@pytest.mark.parametrize("way", ["auto", "serial"])
@pytest.mark.parametrize("steps", [LENGTH, 5])
def test_the_block_is_its_loops(steps, way, monkeypatch):
    """In one block of steps, or in several of 5, which do not divide 23."""
    blocks_of(steps, monkeypatch)
    params, apply = block(way)
    x = np.random.default_rng(1).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
    reset = np.zeros((2, LENGTH), bool)
    reset[1, [4, 5, 11]] = True
    y = jax.jit(lambda x, reset: apply(params, x, reset))(x, reset)
    for row, resets in enumerate([(), (4, 5, 11)]):
        expected = block_by_loops(params, x[row].astype(np.float64), resets)
        np.testing.assert_allclose(y[row], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("steps", [LENGTH, 5])
@pytest.mark.parametrize("resets", [False, True])
def test_the_scans_own_gradient_is_that_of_a_plain_loop(steps, resets, monkeypatch):
    """With respect to all that is learned or came before, of y and of the last state."""
    blocks_of(steps, monkeypatch)
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    u = drawn(2, LENGTH, FEATURES)
    dt = jax.nn.softplus(drawn(2, LENGTH, FEATURES))
    selected = selective.Selected(dt, drawn(2, LENGTH, STATES), drawn(2, LENGTH, STATES))
    a = -jnp.exp(drawn(FEATURES, STATES))
    start = drawn(2, FEATURES, STATES)
    reset = jnp.zeros((2, LENGTH), bool).at[1, jnp.array([0, 4, 5, 11])].set(True)

    def own(u, selected, a, start):
        return selective.scan(u, selected, a, reset if resets else None, start)

    def plain(u, selected, a, start):
        h = start
        y = []
        for t in range(LENGTH):
            if resets:
                h = jnp.where(reset[:, t, None, None], 0, h)
            dt, b, c = (leaf[:, t] for leaf in selected)
            h = jnp.exp(dt[:, :, None] * a[None]) * h + (dt * u[:, t])[:, :, None] * b[:, None]
            y.append(jnp.sum(h * c[:, None], axis=2))
        return jnp.stack(y, axis=1), h

    weights = (drawn(2, LENGTH, FEATURES), drawn(2, FEATURES, STATES))

    def gradients(form):
        def total(*arguments):
            return sum(jnp.sum(w * x) for w, x in zip(weights, form(*arguments), strict=True))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(u, selected, a, start)

    found = jax.tree.leaves(gradients(own))
    expected = jax.tree.leaves(gradients(plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_steps_start_log_uniform():
    """softplus(bias) lies between 0.001 and 0.1, and its logarithm's mean in their middle."""
    start = hk.transform(lambda: hk.get_parameter("b", [2_000], init=mamba._steps))
    steps = jax.nn.softplus(start.init(jax.random.key(0))["~"]["b"])
    assert steps.min() > 0.00099
    assert steps.max() < 0.101
    assert abs(np.log10(steps).mean() + 2) < 0.05
