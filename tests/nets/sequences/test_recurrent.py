"""LSTM and GRU against torch's with the same weights (reference.npz, by make_reference.py)."""

from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.sequences import gru, lstm
from missing_bits.nets.sequences.gru import GRU
from missing_bits.nets.sequences.lstm import LSTM

REFERENCE = np.load(Path(__file__).parent / "reference.npz")
WIDTH = REFERENCE["x"].shape[2]


def transformed(layer):
    return hk.without_apply_rng(hk.transform(lambda x, reset=None: layer()(x, reset, None).y))


def copied(name, prefix=""):
    """Weights of torch, or with "d" their gradients, as this suite's layer has them."""
    w = REFERENCE[f"{name}.{prefix}weight_ih_l0"].T
    u = REFERENCE[f"{name}.{prefix}weight_hh_l0"].T
    of_x = REFERENCE[f"{name}.{prefix}bias_ih_l0"]
    of_h = REFERENCE[f"{name}.{prefix}bias_hh_l0"]
    if name == "lstm":  # torch adds two biases; the gradient of either is that of the sum
        b = of_x if prefix else of_x + of_h
        return {"lstm/input": {"w": w}, "lstm": {"b": b, "w": u}}
    inner = np.arange(3 * WIDTH) < 2 * WIDTH  # of the gates r and z: one bias is enough
    b = of_x if prefix else np.where(inner, of_x + of_h, of_x)
    return {"gru/input": {"w": w, "b": b}, "gru": {"w": u, "c": of_h[2 * WIDTH :]}}


@pytest.mark.parametrize(("name", "layer"), [("lstm", LSTM), ("gru", GRU)])
def test_outputs_and_gradients_are_torchs(name, layer):
    net = transformed(layer)

    def loss(params, x):
        y = net.apply(params, x)
        return jnp.sum(y * REFERENCE["weights"]), y

    x = jnp.asarray(REFERENCE["x"])
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, y), (dparams, dx) = both(jax.tree.map(jnp.asarray, copied(name)), x)
    np.testing.assert_allclose(y, REFERENCE[f"{name}.y"], atol=1e-6)
    np.testing.assert_allclose(dx, REFERENCE[f"{name}.dx"], atol=1e-5)
    for module, leaves in copied(name, "d").items():
        for leaf, expected in leaves.items():
            np.testing.assert_allclose(dparams[module][leaf], expected, atol=1e-5)


def drawn(gates, rows=2, steps=9):
    """W x + b, U, resets and a start for so many gates."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    keep = jnp.asarray(rng.random((steps, rows, 1)) > 0.3)
    return draw(steps, rows, gates * 4), draw(4, gates * 4), draw(4), keep, draw(rows, 4)


def same_gradients(mine, plain, *inputs):
    """Asserts that the gradients of two functions to all inputs are the same."""

    def loss(run):
        return lambda *inputs: jnp.sum(
            sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(run(*inputs)))
        )

    places = tuple(range(len(inputs)))
    for found, expected in zip(
        jax.tree.leaves(jax.jit(jax.grad(loss(mine), places))(*inputs)),
        jax.tree.leaves(jax.jit(jax.grad(loss(plain), places))(*inputs)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("resets", [True, False])
def test_the_lstms_own_gradient_is_that_of_a_plain_loop(resets):
    gates, u, c, keep, h = drawn(4)
    b = jnp.tile(c, 4)
    keep = keep if resets else None

    def plain(gates, u, b, state):
        h = []
        for t in range(len(gates)):
            if resets:
                state = lstm.State(jnp.where(keep[t], state.h, 0), jnp.where(keep[t], state.c, 0))
            i, f, g, o = jnp.split(gates[t] + state.h @ u + b[None], 4, axis=1)
            c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
            state = lstm.State(jax.nn.sigmoid(o) * jnp.tanh(c), c)
            h.append(state.h)
        return jnp.stack(h), state

    def mine(gates, u, b, state):
        return lstm.run(gates, u, b, keep, state)

    same_gradients(mine, plain, gates, u, b, lstm.State(h, 2 * h))


@pytest.mark.parametrize("resets", [True, False])
def test_the_grus_own_gradient_is_that_of_a_plain_loop(resets):
    gates, u, c, keep, h = drawn(3)
    keep = keep if resets else None

    def plain(gates, u, c, h):
        found = []
        for t in range(len(gates)):
            h = jnp.where(keep[t], h, 0) if resets else h
            r, z = jnp.split(jax.nn.sigmoid(gates[t, :, :8] + h @ u[:, :8]), 2, axis=1)
            n = jnp.tanh(gates[t, :, 8:] + r * (h @ u[:, 8:] + c[None]))
            h = (1 - z) * n + z * h
            found.append(h)
        return jnp.stack(found)

    def mine(gates, u, c, h):
        return gru.run(gates, u, c, keep, h)

    same_gradients(mine, plain, gates, u, c, h)


def test_chos_gate_acts_before_the_product():
    """One step from h by the formula of the paper, in numpy."""
    gates, u, _, _, h = (np.asarray(leaf) for leaf in drawn(3, steps=1))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    r, z = np.split(sigmoid(gates[0, :, :8] + h @ u[:, :8]), 2, axis=1)
    n = np.tanh(gates[0, :, 8:] + (r * h) @ u[:, 8:])
    found = gru._cell_before(jnp.asarray(gates[0]), jnp.asarray(u), jnp.asarray(h))
    np.testing.assert_allclose(found, (1 - z) * n + z * h, atol=1e-6)


def test_the_forget_gate_starts_open():
    params = transformed(LSTM).init(jax.random.key(0), jnp.zeros((1, 1, 2)))
    assert params["lstm"]["b"].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
