"""The recurrence x_t = a_t x_{t-1} + b_t, element by element, in three ways.

Each step is an affine map of the state, and one after another they make an affine map again:

    (a_2, b_2) after (a_1, b_1) is (a_2 a_1, a_2 b_1 + b_2)

So what looks serial may be computed in any grouping (Blelloch 1990, section 1.4; Martin and Cundy
2018): QRNN, S4 and Mamba rest on it. All three ways give the same numbers, up to rounding:

- serial: one step after the other: T turns of little work each, and no work twice.
- associative: in a tree (`jax.lax.associative_scan`): 2 log2 T turns, about three times the work,
  and several copies of everything.
- chunked: a tree within each chunk of steps, one chunk after the other: copies of one chunk alone.

The gradient is such a recurrence too, backwards: with g_t the gradient of all that x_t goes into,

    g_t = dx_t + a_{t+1} g_{t+1},  db_t = g_t,  da_t = g_t x_{t-1}

so that training keeps a and x, and nothing of how x was computed. The state is float32 whatever
comes in.

Shapes: B rows, T steps; further axes (written D) are the state's.
"""

import functools
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from missing_bits.numeric import ceil_div

Way = Literal["auto", "serial", "associative", "chunked"]

_CHUNK = 64  # steps
_UNROLL = 8  # serial steps of one turn of the loop


def scan(
    a: jax.Array,
    b: jax.Array,
    start: jax.Array | None = None,
    reset: jax.Array | None = None,
    way: Way = "auto",
) -> jax.Array:
    """All x_t of x_t = a_t x_{t-1} + b_t.

    Args:
      a: [B, T, D...].
      b: [B, T, D...].
      start: x_0 [B, D...], before the first step; None for zeros.
      reset: bool [B, T]: where it holds, x_{t-1} counts as zero; None for nowhere.
      way: how to compute it; "auto" chooses by platform and length.

    Returns:
      x [B, T, D...], float32.
    """
    chex.assert_equal_shape([a, b])
    a = a.astype(jnp.float32)
    b = b.astype(jnp.float32)
    if reset is not None:
        a = jnp.where(reset.reshape(*reset.shape, *(1,) * (a.ndim - 2)), 0, a)
    start = jnp.zeros_like(b[:, 0]) if start is None else start.astype(jnp.float32)
    chex.assert_equal_shape([start, b[:, 0]])
    return _scan(way, a, b, start)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(way: Way, a: jax.Array, b: jax.Array, start: jax.Array) -> jax.Array:
    return _solve(way, a, b, start, False)


def _scan_forward(way, a, b, start):
    x = _scan(way, a, b, start)
    return x, (a, start, x)


def _scan_backward(way, saved, dx):
    a, start, x = saved
    g = _solve(way, a, dx, jnp.zeros_like(start), True)
    x_tm1 = jnp.concatenate([start[:, None], x[:, :-1]], axis=1)
    return g * x_tm1, g, a[:, 0] * g[:, 0]


_scan.defvjp(_scan_forward, _scan_backward)


def _solve(way: Way, a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """The recurrence forwards, or the one of its gradient backwards.

    The latter is x_t = a_{t+1} x_{t+1} + b_t, with `start` in place of the last step's a x.

    What is chosen by itself is what was fastest here on two cores of a CPU at every length and
    width that was tried (`benchmarks/sequence_speed.py`). No accelerator was at hand: there it is
    the tree as long as its copies are few, then chunks.
    """
    serial = functools.partial(_serial, reverse=reverse)
    associative = functools.partial(_associative, reverse=reverse)
    chunked = functools.partial(_chunked, reverse=reverse)
    match way:
        case "serial":
            return serial(a, b, start)
        case "associative":
            return associative(a, b, start)
        case "chunked":
            return chunked(a, b, start)
        case "auto":
            parallel = associative if a.shape[1] <= _LONG else chunked
            return jax.lax.platform_dependent(a, b, start, cpu=serial, default=parallel)


_LONG = 2_048  # steps beyond which the tree's copies are too many


def _serial(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """One step after the other, in place: time stays where it is, in the second axis.

    (`jax.lax.scan` would turn all arrays to have it first.)
    """
    length = a.shape[1]

    def turn(step: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, out = carry
        t = length - 1 - step if reverse else step
        a_t = jax.lax.dynamic_slice_in_dim(a, t, 1, axis=1)
        b_t = jax.lax.dynamic_slice_in_dim(b, t, 1, axis=1)
        x_t = x + b_t if reverse else a_t * x + b_t
        out = jax.lax.dynamic_update_slice_in_dim(out, x_t, t, axis=1)
        return a_t * x_t if reverse else x_t, out

    carry = (start[:, None], jnp.zeros_like(b))
    return jax.lax.fori_loop(0, length, turn, carry, unroll=min(_UNROLL, length))[1]


def _associative(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """In a tree."""

    def after(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    if reverse:
        a = jnp.concatenate([a[:, 1:], jnp.ones_like(a[:, :1])], axis=1)
    factor, x = jax.lax.associative_scan(after, (a, b), reverse=reverse, axis=1)
    return x + factor * start[:, None]


def _chunked(a: jax.Array, b: jax.Array, start: jax.Array, reverse: bool) -> jax.Array:
    """In a tree within each chunk, one chunk after the other."""
    length = a.shape[1]
    chunks = ceil_div(length, _CHUNK)
    if length % _CHUNK:  # zeros at the end change nothing before it
        missing = ((0, 0), (0, chunks * _CHUNK - length), *((0, 0),) * (a.ndim - 2))
        a = jnp.pad(a, missing)
        b = jnp.pad(b, missing)

    def turn(step: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, out = carry
        t = (chunks - 1 - step if reverse else step) * _CHUNK
        a_t = jax.lax.dynamic_slice_in_dim(a, t, _CHUNK, axis=1)
        b_t = jax.lax.dynamic_slice_in_dim(b, t, _CHUNK, axis=1)
        x_t = _associative(a_t, b_t, x, reverse)
        out = jax.lax.dynamic_update_slice_in_dim(out, x_t, t, axis=1)
        return a_t[:, 0] * x_t[:, 0] if reverse else x_t[:, -1], out

    return jax.lax.fori_loop(0, chunks, turn, (start, jnp.zeros_like(b)))[1][:, :length]
