"""S4D: a diagonal state-space model for each feature (Gu, Gupta, Goel and Re 2022).

Each of the D features has N / 2 complex states, which with their conjugates make N real ones:

    dx/dt = A x + B u,  y = 2 Re(C x) + skip u

A = -exp(rate) + i frequency stays stable whatever is learned. It starts as the eigenvalues of
HiPPO-LegS without its low-rank part ("S4D-LegS", section 4): S4 proper (Gu, Goel and Re 2021) has
that matrix as a diagonal plus a rank-one term P P*, and a Cauchy kernel to compute with it; here
the term is left out, as the paper shows one may. B is 1, as what matters is the product of B and C
(section 3.2); C starts normal, the step size dt log-uniform from 0.001 to 0.1. In steps of dt
(section 2, "discretization"):

    zero-order hold  A' = exp(dt A),                     B' = (A' - 1) / A B
    bilinear         A' = (1 + dt A / 2) / (1 - dt A / 2), B' = dt / (1 - dt A / 2) B

    x_t = A' x_{t-1} + B' u_t,  y_t = 2 Re(C x_t) + skip u_t

Two forms of one function: the recurrence, and the convolution of u with y's answer to a single 1,
K_l = 2 Re(C A'^l B'), by the fast Fourier transform (section 3.3). The latter knows no resets.
Complex numbers are pairs of reals. On a CPU the recurrence is that of `diagonal`; elsewhere, and
where a way is asked for, each state turns along with its frequency, by which its factor becomes the
real |A'|, and `affine.scan` computes it. Around it: GELU, and a linear
layer to twice the width with a gate (Dauphin et al. 2016), as in the paper's section 5.1.

Shapes: B rows, T steps, D width, N states.
"""

from typing import Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.nets.sequences import affine, blocks, diagonal, parts
from missing_bits.nets.sequences.diagonal import Complex
from missing_bits.nets.sequences.parts import Mixed

Discretization = Literal["zero_order_hold", "bilinear"]


class State(NamedTuple):
    """What the layer remembers."""

    x: jax.Array  # [B, D, N], float32: real parts of N / 2 states, then imaginary ones


class System(NamedTuple):
    """The model in discrete time, float32."""

    log_factor: jax.Array  # [D, N / 2], log |A'|, negative
    angle: jax.Array  # [D, N / 2], the argument of A', in radians a step
    b_re: jax.Array  # [D, N / 2], B'
    b_im: jax.Array
    c_re: jax.Array  # [D, N / 2], C
    c_im: jax.Array


class S4(hk.Module):
    """The layer, a `parts.Mixer`.

    Args:
      states: N, even.
      discretization: of time.
      way: how the recurrence is computed.
      name: of the module.
    """

    def __init__(
        self,
        states: int = 64,
        discretization: Discretization = "zero_order_hold",
        way: affine.Way = "auto",
        name: str | None = None,
    ):
        super().__init__(name)
        self._states = states
        self._discretization = discretization
        self._way = way

    def initial(self, batch: int, width: int) -> State:
        """Zeros."""
        return State(jnp.zeros((batch, width, self._states), jnp.float32))

    def __call__(self, x: jax.Array, reset: jax.Array | None, state: State | None) -> Mixed:
        """A sequence [B, T, D] to one of the same shape; see `parts.Mixer`."""
        parts.check(x, reset)
        u = x.astype(jnp.float32)
        system, skip = self._system(x.shape[2])
        if reset is None:
            y, last = convolved(system, u, None if state is None else state.x)
        else:
            before = self.initial(x.shape[0], x.shape[2]) if state is None else state
            y, last = recurrent(system, u, reset, before.x, self._way)
        return Mixed(self._out((y + skip[None, None] * u).astype(x.dtype)), State(last))

    @hk.name_like("__call__")
    def step(self, x: jax.Array, reset: jax.Array, state: State) -> Mixed:
        """One step [B, D] to one of the same shape; see `parts.Mixer`."""
        u = x.astype(jnp.float32)
        system, skip = self._system(x.shape[1])
        y, state = _step(system, u, parts.kept(state, reset).x)
        return Mixed(self._out((y + skip[None] * u).astype(x.dtype)), State(state))

    def _system(self, width: int) -> tuple[System, jax.Array]:
        """The model in discrete time, and `skip` [D]."""
        shape = [width, self._states // 2]
        rate = hk.get_parameter("state_rate", shape, init=_legs_rates)
        frequency = hk.get_parameter("state_frequency", shape, init=_legs_frequencies)
        log_step = hk.get_parameter("state_step", [width], init=_log_uniform)
        half = hk.initializers.RandomNormal(0.5**0.5)
        c = hk.get_parameter("c", [2, *shape], init=half)
        skip = hk.get_parameter("skip", [width], init=hk.initializers.RandomNormal())
        step = jnp.exp(log_step)[:, None]
        return discrete(-jnp.exp(rate), frequency, step, c[0], c[1], self._discretization), skip

    @hk.name_like("__call__")
    def _out(self, y: jax.Array) -> jax.Array:
        """What stands around the model."""
        both = parts.Linear(2 * y.shape[-1], name="out")(jax.nn.gelu(y))
        out, gate = jnp.split(both, 2, axis=-1)
        return out * jax.nn.sigmoid(gate)


def legs_eigenvalues(states: int) -> np.ndarray:
    """The eigenvalues of HiPPO-LegS without its low-rank part, those above the real axis.

    Gu et al. 2022, equation 6; their real parts are all -1/2.

    Args:
      states: N, even.

    Returns:
      complex128 [N / 2], by falling imaginary part.
    """
    root = np.sqrt(np.arange(states) + 0.5)
    product = np.outer(root, root)
    skew = np.triu(product, 1) - np.tril(product, -1)  # the matrix, but for -1/2 on its diagonal
    imaginary = np.linalg.eigvalsh(-1j * skew)
    return -0.5 + 1j * np.sort(imaginary)[::-1][: states // 2]


def _legs_rates(shape, dtype):
    return jnp.full(shape, np.log(0.5), dtype)


def _legs_frequencies(shape, dtype):
    frequencies = legs_eigenvalues(2 * shape[1]).imag
    return jnp.broadcast_to(jnp.asarray(frequencies, dtype)[None], shape)


def _log_uniform(shape, dtype):
    low, high = np.log(0.001), np.log(0.1)
    return hk.initializers.RandomUniform(low, high)(shape, dtype)


def discrete(
    a_re: jax.Array,
    a_im: jax.Array,
    step: jax.Array,
    c_re: jax.Array,
    c_im: jax.Array,
    discretization: Discretization,
) -> System:
    """The model in discrete time, with B = 1.

    Args:
      a_re: real parts of A, [D, N / 2], negative.
      a_im: imaginary parts.
      step: dt, [D, 1].
      c_re: real parts of C, [D, N / 2].
      c_im: imaginary parts.
      discretization: "zero_order_hold" or "bilinear".
    """
    re = step * a_re
    im = step * a_im
    if discretization == "zero_order_hold":
        log_factor = re
        angle = im
        # (exp(z) - 1) / A, where exp(z) - 1 keeps its digits near 0.
        up_re = jnp.expm1(re) * jnp.cos(im) - 2 * jnp.square(jnp.sin(im / 2))
        up_im = jnp.exp(re) * jnp.sin(im)
        square = a_re * a_re + a_im * a_im
        b_re = (up_re * a_re + up_im * a_im) / square
        b_im = (up_im * a_re - up_re * a_im) / square
    else:
        low_re = 1 - re / 2  # 1 - dt A / 2
        low_im = -im / 2
        high_re = 1 + re / 2
        square = low_re * low_re + low_im * low_im
        # |high|^2 = |low|^2 + 2 re: the logarithm of their ratio keeps its digits so.
        log_factor = 0.5 * jnp.log1p(2 * re / square)
        angle = jnp.arctan2(im / 2, high_re) - jnp.arctan2(low_im, low_re)
        b_re = step * low_re / square
        b_im = -step * low_im / square
    return System(log_factor, angle, b_re, b_im, c_re, c_im)


def _powers(system: System, exponents: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """A'^l for l of `exponents` [L]: real and imaginary parts, [L, D, N / 2]."""
    many = jnp.asarray(exponents, jnp.float32)[:, None, None]
    size = jnp.exp(many * system.log_factor[None])
    angle = many * system.angle[None]
    return size * jnp.cos(angle), size * jnp.sin(angle)


def kernel(system: System, length: int) -> jax.Array:
    """K_l = 2 Re(C A'^l B') for l from 0 to `length` - 1: [length, D].

    l = q n + r: the powers of q n and of r make all others in one product, at a cost in memory of
    the root of the length.
    """
    n = max(1, round(length**0.5))
    rows = -(-length // n)
    cb_re = 2 * (system.c_re * system.b_re - system.c_im * system.b_im)[None]
    cb_im = 2 * (system.c_re * system.b_im + system.c_im * system.b_re)[None]
    high_re, high_im = _powers(system, n * np.arange(rows))  # [rows, D, N / 2]
    low_re, low_im = _powers(system, np.arange(n))
    left_re = cb_re * high_re - cb_im * high_im
    left_im = cb_re * high_im + cb_im * high_re
    left = jnp.concatenate([left_re, -left_im], axis=2)
    right = jnp.concatenate([low_re, low_im], axis=2)
    k = jnp.einsum("qdn,rdn->qrd", left, right, precision=jax.lax.Precision.HIGHEST)
    return k.reshape(rows * n, -1)[:length]


def convolved(system: System, u: jax.Array, start: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The model as a convolution, without resets.

    Args:
      system: in discrete time.
      u: inputs [B, T, D].
      start: the state [B, D, N] before the first step; None for zeros.

    Returns:
      y [B, T, D] without `skip`, and the last state [B, D, N].
    """
    length = u.shape[1]
    twice = 2 * length  # so that the end does not come around to the beginning
    spectrum = jnp.fft.rfft(kernel(system, length).T, twice)[None]  # [1, D, T + 1]
    answer = jnp.fft.irfft(jnp.fft.rfft(jnp.moveaxis(u, 1, 2), twice) * spectrum, twice)
    y = jnp.moveaxis(answer[:, :, :length], 2, 1)
    # The last state costs as much again; where nobody asks for it, nothing computes it.
    back_re, back_im = _powers(system, np.arange(length - 1, -1, -1))  # [T, D, N / 2]
    into = jnp.concatenate(
        [
            back_re * system.b_re[None] - back_im * system.b_im[None],
            back_re * system.b_im[None] + back_im * system.b_re[None],
        ],
        axis=2,
    )
    highest = jax.lax.Precision.HIGHEST
    last = jnp.einsum("btd,tdn->bdn", u, into, precision=highest)
    if start is not None:
        re, im = jnp.split(start, 2, axis=2)  # [B, D, N / 2]
        on_re, on_im = _powers(system, np.arange(1, length + 1))
        out_re = 2 * (system.c_re[None] * on_re - system.c_im[None] * on_im)
        out_im = 2 * (system.c_re[None] * on_im + system.c_im[None] * on_re)
        y += jnp.einsum("bdn,tdn->btd", re, out_re, precision=highest)
        y -= jnp.einsum("bdn,tdn->btd", im, out_im, precision=highest)
        last += _turned(start, on_re[-1], on_im[-1])
    return y, last


def recurrent(
    system: System, u: jax.Array, reset: jax.Array | None, start: jax.Array, way: affine.Way
) -> tuple[jax.Array, jax.Array]:
    """The model as a recurrence; arguments and results are those of `convolved`, with resets."""
    if way != "auto":
        return _by_affine(system, u, reset, start, way)

    def anywhere(*operands):
        return _by_affine(*operands, "auto")

    return jax.lax.platform_dependent(system, u, reset, start, cpu=_by_rows, default=anywhere)


def _by_rows(
    system: System, u: jax.Array, reset: jax.Array | None, start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One row after the other, on a CPU."""
    size = jnp.exp(system.log_factor)
    a = Complex(size * jnp.cos(system.angle), size * jnp.sin(system.angle))
    model = diagonal.Model(a, Complex(system.b_re, system.b_im), Complex(system.c_re, system.c_im))
    model = jax.tree.map(jnp.transpose, model)  # sums over states go over whole vectors of features
    kept = jnp.ones(u.shape[:2]) if reset is None else 1.0 - reset
    before = Complex(*jnp.split(jnp.swapaxes(start, 1, 2), 2, axis=1))
    y, last = diagonal.by_rows(model, u, kept, before)
    return y, jnp.swapaxes(jnp.concatenate(last, axis=1), 1, 2)


def _by_affine(
    system: System, u: jax.Array, reset: jax.Array | None, start: jax.Array, way: affine.Way
) -> tuple[jax.Array, jax.Array]:
    """All rows, by the general recurrence: each state turns along with its frequency."""
    batch, _, width = u.shape
    states = start.shape[2]
    factor = jnp.exp(jnp.concatenate([system.log_factor] * 2, axis=1))  # [D, N]

    def body(state, inputs):
        u, reset = inputs
        steps = np.arange(1, u.shape[1] + 1)
        angle = jnp.asarray(steps, jnp.float32)[:, None, None] * system.angle[None]
        cos = jnp.cos(angle)  # [T, D, N / 2]
        sin = jnp.sin(angle)
        # x_t = turn^(t + 1) z_t, where turn = A' / |A'|: z_t = |A'| z_{t-1} + turn^-(t + 1) B' u_t
        into = jnp.concatenate(
            [
                cos * system.b_re[None] + sin * system.b_im[None],
                cos * system.b_im[None] - sin * system.b_re[None],
            ],
            axis=2,
        )
        out = jnp.concatenate(
            [
                cos * system.c_re[None] - sin * system.c_im[None],
                -cos * system.c_im[None] - sin * system.c_re[None],
            ],
            axis=2,
        )
        b = into[None] * u[..., None]  # [B, T, D, N]
        z = affine.scan(jnp.broadcast_to(factor[None, None], b.shape), b, state, reset, way)
        y = 2 * jnp.sum(z * out[None], axis=3)
        return _turned(z[:, -1], cos[-1], sin[-1]), y

    return blocks.by_blocks(body, start, (u, reset), batch * width * states)


def _step(system: System, u: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of inputs [B, D] on a state [B, D, N]: y [B, D] and the next state."""
    factor = jnp.exp(system.log_factor)
    state = _turned(state, factor * jnp.cos(system.angle), factor * jnp.sin(system.angle))
    state += jnp.concatenate([system.b_re, system.b_im], axis=1)[None] * u[..., None]
    c = jnp.concatenate([system.c_re, -system.c_im], axis=1)[None]
    return 2 * jnp.sum(c * state, axis=2), state


def _turned(state: jax.Array, by_re: jax.Array, by_im: jax.Array) -> jax.Array:
    """Complex states [B, D, N] times complex numbers [D, N / 2]."""
    re, im = jnp.split(state, 2, axis=2)
    by_re = by_re[None]
    by_im = by_im[None]
    return jnp.concatenate([re * by_re - im * by_im, re * by_im + im * by_re], axis=2)
