"""The gated recurrent unit (Cho et al. 2014).

    r_t = sigmoid(W_r x_t + U_r h_{t-1} + b_r)
    z_t = sigmoid(W_z x_t + U_z h_{t-1} + b_z)
    n_t = tanh(W_n x_t + b_n + r_t (U_n h_{t-1} + c))
    h_t = (1 - z_t) n_t + z_t h_{t-1}

That is cuDNN's form, and torch's: the gate r acts after the product. In Cho's own it acts before,
n_t = tanh(W_n x_t + b_n + U_n (r_t h_{t-1})), at another product a step. z keeps, as in torch; in
the paper's text too, where others write 1 - z for it. Gates stand in the order r, z, n.

Shapes: B rows, T steps, D width. Over time, time comes first: [T, B, D].
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import parts
from missing_bits.nets.sequences.parts import Mixed
from missing_bits.nets.transformer import computed_once

_UNROLL = 4  # steps of one turn of the loop: more compile longer


class State(NamedTuple):
    """What the layer remembers."""

    h: jax.Array  # [B, D], float32


class GRU(hk.Module):
    """The layer, a `parts.Mixer`.

    Args:
      before: whether the gate r acts before the product, as in Cho's own form.
      name: of the module.
    """

    def __init__(self, before: bool = False, name: str | None = None):
        super().__init__(name)
        self._before = before

    def initial(self, batch: int, width: int) -> State:
        """Zeros."""
        return State(jnp.zeros((batch, width), jnp.float32))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: State | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        batch, _, width = x.shape
        state = self.initial(batch, width) if state is None else state
        gates, u, c = self._weights(jnp.moveaxis(x, 1, 0))
        keep = None if reset is None else ~reset.T[:, :, None]
        h = (
            _run_before(gates, u, keep, state.h)
            if self._before
            else run(gates, u, c, keep, state.h)
        )
        return Mixed(jnp.moveaxis(h, 0, 1).astype(x.dtype), State(h[-1]))

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: State) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        gates, u, c = self._weights(x)
        h = parts.kept(state, reset).h
        h = _cell_before(gates, u, h) if self._before else _cell(gates, u, c, h).h
        return Mixed(h.astype(x.dtype), State(h))

    @hk.name_like("__call__")
    def _weights(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """W x + b [..., 3 D], U [D, 3 D], and c [D], which Cho's form has not."""
        width = x.shape[-1]
        gates = parts.Linear(3 * width, name="input")(x)
        u = hk.get_parameter("w", [width, 3 * width], jnp.float32, parts.GLOROT)
        if self._before:
            return gates, u.astype(x.dtype), None
        c = hk.get_parameter("c", [width], jnp.float32, jnp.zeros)
        return gates, u.astype(x.dtype), c


class _Cell(NamedTuple):
    h: jax.Array  # [B, D]
    gates: jax.Array  # [B, 4 D]: r, z, n, and U_n h + c


def _cell(gates: jax.Array, u: jax.Array, c: jax.Array, h: jax.Array) -> _Cell:
    """One step, of W x + b [B, 3 D] and the last h [B, D]."""
    width = h.shape[1]
    gates = gates.astype(jnp.float32)
    uh = (h.astype(u.dtype) @ u).astype(jnp.float32)  # [B, 3 D]
    rz = jax.nn.sigmoid(gates[:, : 2 * width] + uh[:, : 2 * width])
    r = rz[:, :width]
    z = rz[:, width:]
    m = uh[:, 2 * width :] + c[None]
    n = jnp.tanh(gates[:, 2 * width :] + r * m)
    return _Cell(n + z * (h - n), jnp.concatenate([rz, n, m], axis=1))


def _cell_before(gates: jax.Array, u: jax.Array, h: jax.Array) -> jax.Array:
    """The next h [B, D] in Cho's form, of W x + b [B, 3 D] and the last h."""
    width = h.shape[1]
    gates = gates.astype(jnp.float32)
    uh = (h.astype(u.dtype) @ u[:, : 2 * width]).astype(jnp.float32)
    rz = jax.nn.sigmoid(gates[:, : 2 * width] + uh)
    r = rz[:, :width]
    z = rz[:, width:]
    n = jnp.tanh(gates[:, 2 * width :] + (r * h).astype(u.dtype) @ u[:, 2 * width :])
    return n + z * (h - n)


def _run_before(gates: jax.Array, u: jax.Array, keep: jax.Array | None, h: jax.Array) -> jax.Array:
    """All steps in Cho's form; arguments and result are those of `run`."""

    def body(h, inputs):
        gates, keep = inputs
        h = _cell_before(gates, u, h if keep is None else jnp.where(keep, h, 0))
        return h, h

    return jax.lax.scan(body, h, (gates, keep), unroll=_UNROLL)[1]


@jax.custom_vjp
def run(
    gates: jax.Array, u: jax.Array, c: jax.Array, keep: jax.Array | None, h: jax.Array
) -> jax.Array:
    """All steps, one after the other, with products outside of the loop as in `lstm.run`.

    Args:
      gates: W x + b, [T, B, 3 D].
      u: U, [D, 3 D].
      c: [D].
      keep: bool [T, B, 1], false where the state starts anew; None for never.
      h: before the first step, [B, D].

    Returns:
      h [T, B, D], float32.
    """
    return _forward(gates, u, c, keep, h)[0]


def _forward(gates, u, c, keep, h):
    """What each step came to."""

    def body(h, inputs):
        gates, keep = inputs
        cell = _cell(gates, u, c, h if keep is None else jnp.where(keep, h, 0))
        return cell.h, cell

    return jax.lax.scan(body, h, (gates, keep), unroll=_UNROLL)[1]


def _run_forward(gates, u, c, keep, start):
    h, activated = _forward(gates, u, c, keep, start)
    h_tm1 = jnp.concatenate([start[None], h[:-1]])
    if keep is not None:
        h_tm1 = jnp.where(keep, h_tm1, 0)
    return h, (gates, u, c, keep, h_tm1, activated)


def _run_backward(saved, dh_of_steps):
    gates, u, _, keep, h_tm1, activated = saved
    width = h_tm1.shape[2]

    def body(dh, inputs):
        dh_t, h_tm1, activated, keep = inputs
        r, z, n, m = jnp.split(activated, 4, axis=1)
        dh += dh_t
        dn = dh * (1 - z) * (1 - n * n)
        dh, dn = computed_once((dh, dn))  # else once for each gate
        dz = dh * (h_tm1 - n) * z * (1 - z)
        dr = dn * m * r * (1 - r)
        duh = jnp.concatenate([dr, dz, dn * r], axis=1).astype(u.dtype)
        dh = dh * z + (duh @ u.T).astype(jnp.float32)
        return dh if keep is None else jnp.where(keep, dh, 0), (duh, dn)

    dh, (duh, dn) = jax.lax.scan(
        body,
        jnp.zeros_like(dh_of_steps[0]),
        (dh_of_steps, h_tm1, activated, keep),
        reverse=True,
        unroll=_UNROLL,
    )
    du = h_tm1.reshape(-1, width).astype(u.dtype).T @ duh.reshape(-1, 3 * width)
    dc = jnp.sum(duh[:, :, 2 * width :], axis=(0, 1), dtype=jnp.float32)
    dgates = jnp.concatenate([duh[:, :, : 2 * width], dn.astype(u.dtype)], axis=2)
    return dgates.astype(gates.dtype), du, dc, None, dh


run.defvjp(_run_forward, _run_backward)
