"""The quasi-recurrent network (Bradbury et al. 2016): gates look at inputs alone.

With * a convolution over the last k steps (section 2, equations 1 and 2):

    z = tanh(W_z * x)
    f = sigmoid(W_f * x + b_f), and o and i alike

What is left to compute one step after the other is affine (section 2.1, "pooling"):

    f-pooling    h_t = f_t h_{t-1} + (1 - f_t) z_t
    fo-pooling   c_t = f_t c_{t-1} + (1 - f_t) z_t,  h_t = o_t c_t
    ifo-pooling  c_t = f_t c_{t-1} + i_t z_t,        h_t = o_t c_t

so that `affine.scan` computes it. b_f starts at 1: the layer remembers at first. The paper has no
biases; its zoneout (section 2.2) is left out.

Shapes: B rows, T steps, D width, K steps of the convolution.
"""

from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from missing_bits.nets.sequences import affine, parts, window
from missing_bits.nets.sequences.parts import Mixed

Pooling = Literal["f", "fo", "ifo"]


class State(NamedTuple):
    """What the layer remembers."""

    c: jax.Array  # [B, D], float32
    recent: window.Recent


class _Gates(NamedTuple):
    """Float32, [..., D] each."""

    f: jax.Array
    b: jax.Array  # what comes to f c: (1 - f) z, or i z
    o: jax.Array | None  # None in f-pooling


class QRNN(hk.Module):
    """The layer, a `parts.Mixer`.

    Args:
      pooling: with which gates.
      size: K.
      way: how the recurrence is computed.
      name: of the module.
    """

    def __init__(
        self,
        pooling: Pooling = "fo",
        size: int = 2,
        way: affine.Way = "auto",
        name: str | None = None,
    ):
        super().__init__(name)
        self._pooling = pooling
        self._size = size
        self._way = way

    def initial(self, batch: int, width: int) -> State:
        """Zeros."""
        c = jnp.zeros((batch, width), jnp.float32)
        return State(c, window.initial(batch, self._size, width))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: State | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        state = self.initial(x.shape[0], x.shape[2]) if state is None else state
        lags, recent = window.see(x, reset, state.recent)
        gates = self._gates(lags)
        c = affine.scan(gates.f, gates.b, state.c, reset, self._way)  # [B, T, D]
        h = c if gates.o is None else gates.o * c
        return Mixed(h.astype(x.dtype), State(c[:, -1], recent))

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: State) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        lags, recent = window.see_step(x, reset, state.recent)
        gates = self._gates(lags)
        c = gates.f * parts.kept(state.c, reset) + gates.b
        h = c if gates.o is None else gates.o * c
        return Mixed(h.astype(x.dtype), State(c, recent))

    @hk.name_like("__call__")
    def _gates(self, lags: list[jax.Array]) -> _Gates:
        width = lags[0].shape[-1]
        names = "z" + self._pooling
        convolved = parts.Linear(len(names) * width, name="gates")(jnp.concatenate(lags, axis=-1))
        given = dict(
            zip(names, jnp.split(convolved.astype(jnp.float32), len(names), -1), strict=True)
        )
        z = jnp.tanh(given["z"])
        f = jax.nn.sigmoid(given["f"] + 1)
        b = (1 - f) * z if "i" not in given else jax.nn.sigmoid(given["i"]) * z
        return _Gates(f, b, jax.nn.sigmoid(given["o"]) if "o" in given else None)
