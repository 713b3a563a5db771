"""The recurrence of a diagonal state-space model, row by row, with a gradient of its own.

    x_t = A' x_{t-1} + B' u_t,  y_t = 2 Re(C x_t)

for M complex states of each feature, as pairs of reals. As in `selective`, the states of one row
stay in a processor's cache. With g the gradient of x (its two parts as a complex number), p_t what
is kept of x_{t-1}, and * the conjugate,

    g_t = A'* g_{t+1} + 2 C* dy_t
    dA' = sum_t g_t p_t*,  dB' = sum_t g_t u_t,  dC = 2 sum_t dy_t x_t*

Shapes: B rows, T steps, D features, M complex states of each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import blocks


class Complex(NamedTuple):
    """Complex numbers, as two arrays."""

    re: jax.Array
    im: jax.Array

    def times(self, other: "Complex") -> "Complex":
        """The product."""
        return Complex(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    @property
    def conjugate(self) -> "Complex":
        """The conjugate."""
        return Complex(self.re, -self.im)


def _plus(one: Complex, other: Complex) -> Complex:
    return jax.tree.map(jnp.add, one, other)


def _scaled(numbers: Complex, by: jax.Array) -> Complex:
    return Complex(numbers.re * by, numbers.im * by)


class Model(NamedTuple):
    """A', B' and C, [M, D]."""

    a: Complex
    b: Complex
    c: Complex


def by_rows(
    model: Model, u: jax.Array, kept: jax.Array, start: Complex
) -> tuple[jax.Array, Complex]:
    """The model over all steps, one row after the other.

    Args:
      model: in discrete time.
      u: inputs [B, T, D], float32.
      kept: [B, T], 0 where the state starts anew before the step and otherwise 1.
      start: the states [B, M, D] before the first step.

    Returns:
      y [B, T, D], and the last states.
    """

    def body(state, inputs):
        return _steps(model, state, *inputs)

    return blocks.by_rows(body, start, (u, kept), 2 * model.a.re.size)


@jax.custom_vjp
def _steps(model: Model, start: Complex, u: jax.Array, kept: jax.Array):
    """Some steps of a row: u [T, D], kept [T], start [M, D]. The last state, and y [T, D]."""
    return _forward(model, start, u, kept)[0]


def _forward(model, start, u, kept):
    def turn(t, carry):
        x, states, y = carry
        x = _plus(_scaled(model.a.times(x), kept[t]), _scaled(model.b, u[t][None]))
        states = jax.tree.map(lambda all_of, now: all_of.at[t].set(now), states, x)
        return x, states, y.at[t].set(2 * jnp.sum(model.c.times(x).re, axis=0))

    states = jax.tree.map(lambda leaf: jnp.zeros((len(u), *leaf.shape)), start)
    x, states, y = jax.lax.fori_loop(0, len(u), turn, (start, states, jnp.zeros_like(u)))
    return (x, y), (model, start, u, kept, states)


def _backward(saved, gradients):
    model, start, u, kept, states = saved
    dx, dy = gradients
    before = jax.tree.map(lambda first, x: jnp.concatenate([first[None], x[:-1]]), start, states)

    def turn(step, carry):
        q, found, du = carry
        t = len(u) - 1 - step
        x, x_tm1 = jax.tree.map(lambda leaf: leaf[t], (states, before))
        twice = 2 * dy[t][None]
        g = _plus(q, _scaled(model.c.conjugate, twice))
        kept_g = _scaled(g, kept[t])
        more = Model(
            kept_g.times(x_tm1.conjugate),
            _scaled(g, u[t][None]),
            _scaled(x.conjugate, twice),
        )
        du = du.at[t].set(jnp.sum(model.b.conjugate.times(g).re, axis=0))
        return model.a.conjugate.times(kept_g), jax.tree.map(jnp.add, found, more), du

    carry = (dx, jax.tree.map(jnp.zeros_like, model), jnp.zeros_like(u))
    dstart, dmodel, du = jax.lax.fori_loop(0, len(u), turn, carry)
    return dmodel, dstart, du, jnp.zeros_like(kept)


_steps.defvjp(_forward, _backward)
