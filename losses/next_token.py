"""The cross-entropy of next tokens, whose logits exist for some tokens at a time only.

Shapes: N tokens, D width, V vocabulary.
"""

import chex
import jax
import jax.numpy as jnp

from missing_bits.numeric import ceil_div

_AT_ONCE = 1 << 24  # logits that exist at a time


def each(x: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    """The losses -log p(target), in nats, float32 [N], with p the softmax of x table^T.

    Args:
      x: [N, D], what a network makes of the tokens before.
      table: [V, D], a row for each token of the vocabulary.
      targets: int [N], in [0, V).
    """
    chex.assert_rank([x, table, targets], [2, 2, 1])
    logits = _logits(x, table)
    right = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - right


@jax.custom_vjp
def total(x: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
    """The sum of `each`, a scalar.

    Its gradient to x and to the table is computed in the same pass, a part of the tokens after the
    other, so that memory does not grow with N V.
    """
    return _with_gradients(x, table, targets)[0]


def _forward(x: jax.Array, table: jax.Array, targets: jax.Array) -> tuple[jax.Array, tuple]:
    loss, *gradients = _with_gradients(x, table, targets)
    return loss, tuple(gradients)


def _backward(gradients: tuple[jax.Array, jax.Array], scale: jax.Array) -> tuple:
    by_x, by_table = gradients
    return by_x * scale.astype(by_x.dtype), by_table * scale.astype(by_table.dtype), None


total.defvjp(_forward, _backward)


def _with_gradients(
    x: jax.Array, table: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sum of the losses, and its gradients to x and to the table, in their types."""
    count, width = x.shape
    parts = ceil_div(count * table.shape[0], _AT_ONCE)
    if parts <= 1:
        loss, by_x, by_table = _part(x, table, targets, jnp.ones(count, bool))
        return loss, by_x, by_table.astype(table.dtype)
    size = ceil_div(count, parts)
    missing = parts * size - count
    rows = jnp.pad(x, ((0, missing), (0, 0))).reshape(parts, size, width)
    labels = jnp.pad(targets, (0, missing)).reshape(parts, size)
    real = (jnp.arange(parts * size) < count).reshape(parts, size)

    def add(sums: tuple, part: tuple) -> tuple[tuple, jax.Array]:
        loss, by_table = sums
        more, by_x, by_table_too = _part(part[0], table, part[1], part[2])
        return (loss + more, by_table + by_table_too), by_x

    start = (jnp.float32(0), jnp.zeros(table.shape, jnp.float32))
    (loss, by_table), by_x = jax.lax.scan(add, start, (rows, labels, real))
    return loss, by_x.reshape(-1, width)[:count], by_table.astype(table.dtype)


def _part(
    x: jax.Array, table: jax.Array, targets: jax.Array, real: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss and its gradients for some tokens, of which only the real ones count."""
    logits = _logits(x, table)
    top = jnp.max(logits, axis=1, keepdims=True)
    powers = jnp.exp(logits - top)
    sums = jnp.sum(powers, axis=1, keepdims=True)
    right = jax.nn.one_hot(targets, table.shape[0], dtype=jnp.float32)
    losses = jnp.log(sums[:, 0]) + top[:, 0] - jnp.sum(logits * right, axis=1)
    by_logits = (powers / sums - right) * real[:, None]
    by_logits = jax.lax.optimization_barrier(by_logits.astype(x.dtype))
    by_x = jax.lax.dot(by_logits, table)
    by_table = jax.lax.dot(by_logits.T, x, preferred_element_type=jnp.float32)
    return jnp.sum(losses * real), by_x, by_table


def _logits(x: jax.Array, table: jax.Array) -> jax.Array:
    """Logits float32 [N, V]."""
    return jax.lax.dot(x, table.T, preferred_element_type=jnp.float32)
