"""Long short-term memory (Hochreiter and Schmidhuber 1997), with a forget gate (Gers et al. 2000).

    i_t = sigmoid(W_i x_t + U_i h_{t-1} + b_i)    what to write
    f_t = sigmoid(W_f x_t + U_f h_{t-1} + b_f)    what to keep
    g_t = tanh(W_g x_t + U_g h_{t-1} + b_g)
    o_t = sigmoid(W_o x_t + U_o h_{t-1} + b_o)    what to say
    c_t = f_t c_{t-1} + i_t g_t
    h_t = o_t tanh(c_t)

No peepholes. b_f starts at 1, so that the cell remembers at first (Jozefowicz et al. 2015); all
other biases start at 0. Gates stand in the order i, f, g, o, as in torch.

Shapes: B rows, T steps, D width. Over time, time comes first: [T, B, D].
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import parts
from missing_bits.nets.sequences.parts import Mixed
from missing_bits.nets.transformer import computed_once

_UNROLL = 2  # steps of one turn of the loop: more compile longer, and are no faster


class State(NamedTuple):
    """What the layer remembers."""

    h: jax.Array  # [B, D], float32
    c: jax.Array  # [B, D], float32


class LSTM(hk.Module):
    """The layer, a `parts.Mixer`."""

    def initial(self, batch: int, width: int) -> State:
        """Zeros."""
        return State(*jnp.zeros((2, batch, width), jnp.float32))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: State | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        batch, _, width = x.shape
        state = self.initial(batch, width) if state is None else state
        gates, u, b = self._weights(jnp.moveaxis(x, 1, 0))
        keep = None if reset is None else ~reset.T[:, :, None]
        h, last = run(gates, u, b, keep, state)
        return Mixed(jnp.moveaxis(h, 0, 1).astype(x.dtype), last)

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: State) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        gates, u, b = self._weights(x)
        state = _cell(gates, u, b, parts.kept(state, reset)).state
        return Mixed(state.h.astype(x.dtype), state)

    @hk.name_like("__call__")
    def _weights(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """W x [..., 4 D], U [D, 4 D], and b [4 D]."""
        width = x.shape[-1]
        gates = parts.Linear(4 * width, bias=False, name="input")(x)
        b = hk.get_parameter("b", [4 * width], jnp.float32, _open)
        u = hk.get_parameter("w", [width, 4 * width], jnp.float32, parts.GLOROT)
        return gates, u.astype(x.dtype), b


def _open(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Biases that keep: of the gates i, f, g, o."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)


class _Cell(NamedTuple):
    state: State
    gates: jax.Array  # [B, 4 D], what i, f, g, o came to


def _cell(gates: jax.Array, u: jax.Array, b: jax.Array, state: State) -> _Cell:
    """One step, of W x [B, 4 D], U, b [4 D] and the last state."""
    gates = (gates + state.h.astype(u.dtype) @ u).astype(jnp.float32) + b[None]
    i, f, g, o = jnp.split(computed_once(gates), 4, axis=1)
    i = jax.nn.sigmoid(i)
    f = jax.nn.sigmoid(f)
    g = jnp.tanh(g)
    o = jax.nn.sigmoid(o)
    c = f * state.c + i * g
    return _Cell(State(o * jnp.tanh(c), c), jnp.concatenate([i, f, g, o], axis=1))


@jax.custom_vjp
def run(
    gates: jax.Array, u: jax.Array, b: jax.Array, keep: jax.Array | None, state: State
) -> tuple[jax.Array, State]:
    """All steps, one after the other.

    The product with the inputs is made before, for all steps at once, and so is the gradient of the
    weights U after the way back: as one product over all steps, not a sum that grows in the loop.

    Args:
      gates: W x, [T, B, 4 D].
      u: U, [D, 4 D].
      b: [4 D], float32.
      keep: bool [T, B, 1], false where the state starts anew; None for never.
      state: before the first step.

    Returns:
      h [T, B, D], float32, and the last state.
    """
    (h, _, _), last = _forward(gates, u, b, keep, state)
    return h, last


def _forward(gates, u, b, keep, state):
    """What each step came to, and the last state."""

    def body(state, inputs):
        gates, keep = inputs
        state = parts.kept(state, None if keep is None else ~keep[:, 0])
        cell = _cell(gates, u, b, state)
        return cell.state, (cell.state.h, state.c, cell.gates)

    last, steps = jax.lax.scan(body, state, (gates, keep), unroll=_UNROLL)
    return steps, last


def _run_forward(gates, u, b, keep, state):
    (h, c_tm1, activated), last = _forward(gates, u, b, keep, state)
    return (h, last), (gates, u, keep, state, h, c_tm1, activated)


def _run_backward(saved, cotangents):
    gates, u, keep, state, h, c_tm1, activated = saved
    dh_of_steps, dlast = cotangents

    def body(dstate, inputs):
        dh_t, c_tm1, activated, keep = inputs
        i, f, g, o = jnp.split(activated, 4, axis=1)
        tanh_c = jnp.tanh(f * c_tm1 + i * g)
        dh = dstate.h + dh_t
        dc = dstate.c + dh * o * (1 - tanh_c * tanh_c)
        dh, dc, tanh_c = computed_once((dh, dc, tanh_c))  # else once for each gate
        dgates = jnp.concatenate(
            [
                dc * g * i * (1 - i),
                dc * c_tm1 * f * (1 - f),
                dc * i * (1 - g * g),
                dh * tanh_c * o * (1 - o),
            ],
            axis=1,
        ).astype(u.dtype)
        before = State((dgates @ u.T).astype(jnp.float32), dc * f)
        return parts.kept(before, None if keep is None else ~keep[:, 0]), dgates

    dstate, dgates = jax.lax.scan(
        body, dlast, (dh_of_steps, c_tm1, activated, keep), reverse=True, unroll=_UNROLL
    )
    h_tm1 = jnp.concatenate([state.h[None], h[:-1]])
    if keep is not None:
        h_tm1 = jnp.where(keep, h_tm1, 0)
    width, many = u.shape
    du = h_tm1.reshape(-1, width).astype(u.dtype).T @ dgates.reshape(-1, many)
    db = jnp.sum(dgates, axis=(0, 1), dtype=jnp.float32)
    return dgates.astype(gates.dtype), du, db, None, dstate


run.defvjp(_run_forward, _run_backward)
