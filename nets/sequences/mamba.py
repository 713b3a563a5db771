"""Mamba: a state-space model whose inputs say what to keep (Gu and Dao 2023).

The gated block of section 3.4 and figure 3, with SiLU throughout and E = 2 D inner features:

    u, z = linear(x)
    u = silu(convolution(u))                       of each feature alone, over 4 steps
    y = silu(z) (model(u) + skip u)
    out = linear(y)

and the selective model of algorithm 2, with N states for each feature:

    B_t, C_t = linear(u_t);  dt_t = softplus(linear(u_t))    the latter through a few features
    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,  y_t = C_t . h_t

B enters times dt, as in the paper's code, where its equation 4 has the zero-order hold
(exp(dt A) - 1) / A B. A = -exp(rate) starts at -1, -2, ... -N (section 3.6, "S4D-Real"), dt
log-uniform from 0.001 to 0.1. The paper normalizes by root mean squares around it; the stack here
by layer normalization, as around all others.

Shapes: B rows, T steps, D width, E inner features, N states.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets.sequences import affine, parts, selective, window
from missing_bits.nets.sequences.parts import Mixed
from missing_bits.nets.sequences.selective import Selected
from missing_bits.numeric import ceil_div

_WINDOW = 4  # steps of the convolution


class State(NamedTuple):
    """What the layer remembers."""

    h: jax.Array  # [B, E, N], float32
    recent: window.Recent


class Mamba(hk.Module):
    """The layer, a `parts.Mixer`.

    Args:
      states: N.
      way: how the recurrence is computed.
      name: of the module.
    """

    def __init__(
        self,
        states: int = 16,
        way: affine.Way = "auto",
        name: str | None = None,
    ):
        super().__init__(name)
        self._states = states
        self._way = way

    def initial(self, batch: int, width: int) -> State:
        """Zeros."""
        h = jnp.zeros((batch, 2 * width, self._states), jnp.float32)
        return State(h, window.initial(batch, _WINDOW, 2 * width))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: State | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        state = self.initial(x.shape[0], x.shape[2]) if state is None else state
        u, z = self._into(x)
        lags, recent = window.see(u, reset, state.recent)
        u = self._convolve(lags)
        selected = self._select(u)
        y, h = selective.scan(u, selected, self._a(u), reset, state.h, self._way)
        return Mixed(self._out(y, u, z), State(h, recent))

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: State) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        u, z = self._into(x)
        lags, recent = window.see_step(u, reset, state.recent)
        u = self._convolve(lags)
        dt, b, c = self._select(u)
        h = jnp.exp(dt[:, :, None] * self._a(u)[None]) * parts.kept(state.h, reset)
        h += (dt * u.astype(jnp.float32))[:, :, None] * b[:, None]  # [B, E, N]
        y = jnp.sum(h * c[:, None], axis=2)
        return Mixed(self._out(y, u, z), State(h, recent))

    @hk.name_like("__call__")
    def _into(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """u and z [..., E]."""
        u, z = jnp.split(parts.Linear(4 * x.shape[-1], bias=False, name="in")(x), 2, axis=-1)
        return u, z

    def _convolve(self, lags: list[jax.Array]) -> jax.Array:
        """silu(convolution(u)) [..., E]."""
        u = lags[0]
        features = u.shape[-1]
        uniform = hk.initializers.RandomUniform(-(_WINDOW**-0.5), _WINDOW**-0.5)
        taps = hk.get_parameter("taps", [_WINDOW, features], init=uniform).astype(u.dtype)
        bias = hk.get_parameter("bias", [features], init=jnp.zeros).astype(u.dtype)
        alone = (1,) * (u.ndim - 1) + (features,)
        y = sum(lag * tap.reshape(alone) for lag, tap in zip(lags, taps, strict=True))
        return jax.nn.silu(y + bias.reshape(alone))

    @hk.name_like("__call__")
    def _select(self, u: jax.Array) -> Selected:
        features = u.shape[-1]
        rank = ceil_div(features, 32)  # ceil(D / 16), as in the paper's code
        chosen = parts.Linear(rank + 2 * self._states, bias=False, name="select")(u)
        few, b, c = jnp.split(chosen.astype(jnp.float32), [rank, rank + self._states], axis=-1)
        w_init = hk.initializers.RandomUniform(-(rank**-0.5), rank**-0.5)
        dt = parts.Linear(features, bias=False, w_init=w_init, name="step")(few)
        bias = hk.get_parameter("step_bias", [features], init=_steps)
        return Selected(jax.nn.softplus(dt + bias.reshape((1,) * (u.ndim - 1) + (-1,))), b, c)

    def _a(self, u: jax.Array) -> jax.Array:
        """A [E, N], negative."""
        shape = [u.shape[-1], self._states]
        return -jnp.exp(hk.get_parameter("log_rate", shape, init=_rates))

    @hk.name_like("__call__")
    def _out(self, y: jax.Array, u: jax.Array, z: jax.Array) -> jax.Array:
        features = u.shape[-1]
        skip = hk.get_parameter("skip", [features], init=jnp.ones)
        y += skip.reshape((1,) * (u.ndim - 1) + (-1,)) * u.astype(jnp.float32)
        return parts.Linear(features // 2, bias=False, name="out")(
            y.astype(z.dtype) * jax.nn.silu(z)
        )


def _rates(shape, dtype):
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype))[None], shape)


def _steps(shape, dtype):
    """Biases whose softplus is log-uniform from 0.001 to 0.1."""
    step = jnp.exp(hk.initializers.RandomUniform(np.log(0.001), np.log(0.1))(shape, dtype))
    return step + jnp.log(-jnp.expm1(-step))
