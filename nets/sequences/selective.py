"""The selective recurrence of Mamba (Gu and Dao 2023, algorithm 2), with a gradient of its own.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,  y_t = C_t . h_t

Its states are N times as large as all that comes in and goes out. On a CPU what counts is that they
never leave the cache: one row after the other, each in a loop over its steps that makes factors
where they are needed, forwards and backwards. With q_t = exp(dt_t A) g_t and g the gradient of h,

    g_t = q_{t+1} + C_t dy_t,  dB_t = g_t . dt_t u_t,  d(dt_t A) = q_t h_{t-1}

Elsewhere factors are computed first, a block of steps at a time, and given to `affine.scan`.

Shapes: B rows, T steps, E features, N states of each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import affine, blocks


class Selected(NamedTuple):
    """What inputs choose, float32."""

    dt: jax.Array  # [..., E]
    b: jax.Array  # [..., N]
    c: jax.Array  # [..., N]


def scan(
    u: jax.Array,
    selected: Selected,
    a: jax.Array,
    reset: jax.Array | None,
    start: jax.Array,
    way: affine.Way = "auto",
) -> tuple[jax.Array, jax.Array]:
    """The model over all steps.

    Args:
      u: inputs [B, T, E].
      selected: what they choose, [B, T, ...].
      a: A [E, N], negative.
      reset: bool [B, T]: where it holds, h_{t-1} counts as zero; None for nowhere.
      start: the state [B, E, N] before the first step.
      way: how the recurrence is computed; "auto" is the loop over rows on a CPU.

    Returns:
      y [B, T, E], float32, and the last state.
    """
    kept = jnp.ones(u.shape[:2]) if reset is None else 1.0 - reset
    operands = (u.astype(jnp.float32), selected, a, kept, start)
    if way != "auto":
        return _by_affine(*operands, way)

    def anywhere(*operands):
        return _by_affine(*operands, "auto")

    return jax.lax.platform_dependent(*operands, cpu=_by_rows, default=anywhere)


def _by_affine(u, selected, a, kept, start, way):
    """All rows, by the general recurrence."""

    def body(h, inputs):
        (dt, b, c), u, kept = inputs
        factor = kept[:, :, None, None] * jnp.exp(dt[..., None] * a[None, None])  # [B, T, E, N]
        h = affine.scan(factor, (dt * u)[..., None] * b[:, :, None], h, None, way)
        return h[:, -1], jnp.sum(h * c[:, :, None], axis=3)

    return blocks.by_blocks(body, start, (selected, u, kept), start.size)


def _by_rows(u, selected, a, kept, start):
    """One row after the other, some steps at a time."""
    a = a.T  # [N, E]: sums over states go over whole vectors of features

    def body(h, inputs):
        u, (dt, b, c), kept = inputs
        return _steps(h, a, dt, dt * u, b, c, kept)

    y, last = blocks.by_rows(body, jnp.swapaxes(start, 1, 2), (u, selected, kept), a.size)
    return y, jnp.swapaxes(last, 1, 2)


@jax.custom_vjp
def _steps(start, a, dt, v, b, c, kept):
    """Some steps of a row.

    Args:
      start: [N, E].
      a: [N, E].
      dt: [T, E].
      v: dt u, [T, E].
      b: [T, N].
      c: [T, N].
      kept: [T], 0 where the state starts anew and otherwise 1.

    Returns:
      The last state, and y [T, E].
    """
    return _forward(start, a, dt, v, b, c, kept)[0]


def _forward(start, a, dt, v, b, c, kept):
    inputs = (dt, v, b, c, kept)

    def turn(t, carry):
        h, states, y = carry
        dt, v, b, c, kept = (leaf[t] for leaf in inputs)
        h = kept * jnp.exp(dt[None] * a) * h + v[None] * b[:, None]
        return h, states.at[t].set(h), y.at[t].set(jnp.sum(h * c[:, None], axis=0))

    states = jnp.zeros((len(dt), *a.shape))
    h, states, y = jax.lax.fori_loop(0, len(dt), turn, (start, states, jnp.zeros_like(dt)))
    return (h, y), (start, a, inputs, states)


def _backward(saved, gradients):
    start, a, inputs, states = saved
    dh, dy = gradients
    dt, v, b, c, kept = inputs
    before = jnp.concatenate([start[None], states[:-1]])

    def turn(step, carry):
        q, da, g_all, ddt = carry
        t = len(dt) - 1 - step
        g = q + dy[t][None] * c[t][:, None]
        q = kept[t] * jnp.exp(dt[t][None] * a) * g
        into = q * before[t]  # the gradient of dt A
        da += into * dt[t][None]
        return q, da, g_all.at[t].set(g), ddt.at[t].set(jnp.sum(into * a, axis=0))

    carry = (dh, jnp.zeros_like(a), jnp.zeros_like(states), jnp.zeros_like(dt))
    dstart, da, g, ddt = jax.lax.fori_loop(0, len(dt), turn, carry)
    dv = jnp.sum(g * b[:, :, None], axis=1)
    db = jnp.einsum("tne,te->tn", g, v)
    dc = jnp.einsum("tne,te->tn", states, dy)
    return dstart, da, ddt, dv, db, dc, jnp.zeros_like(kept)


_steps.defvjp(_forward, _backward)
