"""QRNN's poolings by hand, and its gates against numpy."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.nets.sequences.qrnn import QRNN


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_pooling_by_hand(pooling):
    """Inputs 1, -1, 2 of one feature, two steps at once, a reset before the last."""
    net = hk.without_apply_rng(hk.transform(lambda x, reset: QRNN(pooling, 2)(x, reset, None).y))
    x = jnp.array([1.0, -1, 2]).reshape(1, 3, 1)
    reset = jnp.array([[False, False, True]])
    count = len("z" + pooling)
    now = np.array([0.5, -1.0, 2.0, 0.3])[:count]  # of z and the gates, for the step itself
    before = np.array([-0.2, 0.4, 1.0, 0.7])[:count]  # for the one before
    if pooling == "ifo":  # its gates stand in the order i, f, o
        now = now[[0, 3, 1, 2]]
        before = before[[0, 3, 1, 2]]
    params = net.init(jax.random.key(0), x, reset)
    w = jnp.asarray(np.stack([now, before]), jnp.float32)
    assert params["qrnn/gates"]["w"].shape == w.shape
    params["qrnn/gates"] = {"w": w, "b": jnp.zeros(count)}
    y = net.apply(params, x, reset)

    # What each step sees: (1, 0), (-1, 1), and after the reset (2, 0).
    c = 0.0
    expected = []
    for t, (one, other) in enumerate([(1, 0), (-1, 1), (2, 0)]):
        z = np.tanh(0.5 * one - 0.2 * other)
        f = sigmoid(-1 * one + 0.4 * other + 1)
        o = sigmoid(2 * one + 1.0 * other)
        i = sigmoid(0.3 * one + 0.7 * other)
        c = f * (0 if t == 2 else c) + (i if pooling == "ifo" else 1 - f) * z
        expected.append(c if pooling == "f" else o * c)
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-5)
