"""The cross-entropy of next tokens: by hand, and its gradient whatever part is computed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missing_bits.losses import next_token


def draw(count, width, vocabulary, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (count, width)).astype(dtype)
    table = jax.random.normal(keys[1], (vocabulary, width)).astype(dtype)
    return x, table, jax.random.randint(keys[2], (count,), 0, vocabulary)


def test_losses_by_hand():
    """Logits (0, ln 3) give 1/4 and 3/4; logits far from 0 overflow nowhere."""
    table = jnp.array([[0.0], [1.0]])
    x = jnp.array([[np.log(3)], [np.log(3)], [1e4]])
    losses = next_token.each(x, table, jnp.array([0, 1, 0]))
    np.testing.assert_allclose(losses, [np.log(4), np.log(4 / 3), 1e4], rtol=1e-6)
    total = next_token.total(x, table, jnp.array([0, 1, 0]))
    assert total == pytest.approx(float(losses.sum()), rel=1e-6)


@pytest.mark.parametrize("at_once", [1 << 24, 7 * 5, 20])
def test_gradients_are_those_of_the_plain_loss(at_once, monkeypatch):
    """Of all tokens at once, of seven at a time (the last part is not full), and of four."""
    monkeypatch.setattr(next_token, "_AT_ONCE", at_once)
    x, table, targets = draw(17, 3, 5)

    def plain(x, table):
        logits = x @ table.T
        right = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
        return 0.3 * jnp.sum(jax.nn.logsumexp(logits, axis=1) - right)

    def ours(x, table):
        return 0.3 * next_token.total(x, table, targets)

    wanted, wanted_gradients = jax.value_and_grad(plain, (0, 1))(x, table)
    found, gradients = jax.jit(jax.value_and_grad(ours, (0, 1)))(x, table)
    assert found == pytest.approx(float(wanted), rel=1e-5)
    for gradient, other in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)
    assert next_token.total(x, table, targets) == pytest.approx(float(wanted) / 0.3, rel=1e-5)


def test_in_bfloat16_losses_are_summed_in_float32():
    x, table, targets = draw(64, 8, 11, jnp.bfloat16)
    exact = next_token.total(x.astype(jnp.float32), table.astype(jnp.float32), targets)
    found, gradients = jax.value_and_grad(next_token.total, (0, 1))(x, table, targets)
    assert found.dtype == jnp.float32
    assert found == pytest.approx(float(exact), rel=1e-2)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16] * 2
