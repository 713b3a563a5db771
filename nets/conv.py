"""A 2-D convolution whose gradients are fast on a CPU too, also inside a loop.

XLA's CPU backend has fast convolutions for one layout: images NHWC, kernels HWIO, result NHWC. It
rewrites other layouts into this one, but not inside `fori_loop` or `scan`, where they run as naive
loops, tens to hundreds of times slower. JAX states both gradients of a convolution in other
layouts, and this suite always trains inside a loop.

So the gradients are stated here in the fast layout, on a CPU alone; on other platforms, and forward
everywhere, this is `jax.lax.conv_general_dilated`. `benchmarks/conv_speed.py` measures the gain.
The gradients are the same sums as the stock ones, equal up to rounding. There is no forward mode
and there are no second derivatives.

Shapes: batch B, image H x W, kernel h x w, channels C in and O out, places of the window H' x W'.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from missing_bits.numeric import ceil_div

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNK = 2048  # pixels of a result whose transposed copies stay in the cache

Pair = tuple[int, int]
Arrays = tuple[jax.Array, jax.Array]
Function = Callable[[jax.Array, jax.Array], jax.Array]


def conv2d(
    x: jax.Array, w: jax.Array, stride: int | Pair = 1, padding: str | Sequence[Pair] = "SAME"
) -> jax.Array:
    """Convolves images with a kernel.

    Args:
      x: [B, H, W, C], float32 or bfloat16. Sums are float32.
      w: [h, w, C, O]; cast to the type of x.
      stride: pixels between windows, for both axes or for each.
      padding: "SAME", "VALID", or for each axis the pixels before and after.

    Returns:
      [B, H', W', O], of the type of x.
    """
    chex.assert_rank([x, w], 4)
    chex.assert_type([x, w], float)
    chex.assert_equal(x.shape[3], w.shape[2])
    stride = _pair(stride)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], stride, padding)
    around = tuple((int(before), int(after)) for before, after in padding)
    return _conv2d(x, w.astype(x.dtype), stride, around)


class Conv2D(hk.Module):
    """`hk.Conv2D` by `conv2d`: the same parameters, `w` and `b`, and the same start.

    Args:
      output_channels: O.
      kernel_shape: pixels, for both axes or for each.
      stride: as `conv2d` takes it.
      padding: as `conv2d` takes it.
      with_bias: whether to add `b` [O].
      w_init: initializer of `w`; by default a normal truncated at two deviations, of deviation 1 /
        sqrt(h w C).
      name: of the module.
    """

    def __init__(
        self,
        output_channels: int,
        kernel_shape: int | Pair,
        stride: int | Pair = 1,
        padding: str | Sequence[Pair] = "SAME",
        with_bias: bool = True,
        w_init: hk.initializers.Initializer | None = None,
        name: str | None = None,
    ):
        super().__init__(name)
        self._channels = output_channels
        self._with_bias = with_bias
        self._w_init = w_init
        self._kernel_shape = _pair(kernel_shape)
        self._conv = functools.partial(conv2d, stride=stride, padding=padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x [B, H, W, C] to [B, H', W', O] of its type. Parameters are float32."""
        height, width = self._kernel_shape
        channels = x.shape[-1]
        w_init = self._w_init
        if w_init is None:
            w_init = hk.initializers.TruncatedNormal((height * width * channels) ** -0.5)
        w = hk.get_parameter("w", (height, width, channels, self._channels), init=w_init)
        y = self._conv(x, w)
        if self._with_bias:
            b = hk.get_parameter("b", (self._channels,), init=jnp.zeros)
            y += b.astype(y.dtype)[None, None, None]
        return y


def _pair(number: int | Pair) -> Pair:
    """One number for both axes, or one for each."""
    if isinstance(number, int):
        return number, number
    height, width = number
    return height, width


def _stock(
    x: jax.Array, w: jax.Array, stride: Pair, padding: Sequence[Pair], **dilation: Pair
) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=_LAYOUT, **dilation)


def _by_platform(cpu: Function, default: Function, a: jax.Array, b: jax.Array) -> jax.Array:
    """Chooses a function when the program is compiled.

    On a CPU, sums in float32, and takes what is vmapped one after the other: it would be slow as a
    grouped convolution.
    """

    @jax.custom_batching.sequential_vmap
    def in_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        return cpu(a.astype(jnp.float32), b.astype(jnp.float32)).astype(a.dtype)

    return lax.platform_dependent(a, b, cpu=in_float32, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    conv = functools.partial(_stock, stride=stride, padding=padding)
    return _by_platform(conv, conv, x, w)


def _forward(
    x: jax.Array, w: jax.Array, stride: Pair, padding: tuple[Pair, Pair]
) -> tuple[jax.Array, Arrays]:
    return _conv2d(x, w, stride, padding), (x, w)


class _Axis(NamedTuple):
    """A convolution along one axis, in pixels but for `places`."""

    size: int  # of the image
    kernel: int
    stride: int
    places: int  # of the window
    before: int  # padding
    after: int  # padding; negative: pixels that no window sees


def _axis(size: int, kernel: int, stride: int, places: int, before: int) -> _Axis:
    reach = (places - 1) * stride + kernel  # of all windows
    return _Axis(size, kernel, stride, places, before, after=reach - before - size)


def _of_separate_windows(x: jax.Array, dy: jax.Array, rows: _Axis, columns: _Axis) -> jax.Array:
    """The gradient [h, w, C, O] of a kernel where no pixel is in two windows."""
    around = [
        (axis.before, axis.places * axis.stride - axis.size - axis.before, 0)
        for axis in (rows, columns)
    ]
    x = lax.pad(x, jnp.float32(0), [(0, 0, 0), *around, (0, 0, 0)])
    x = x.reshape(len(x), rows.places, rows.stride, columns.places, columns.stride, -1)
    windows = x[:, :, : rows.kernel, :, : columns.kernel]
    return jnp.einsum("bihjwc,bijo->hwco", windows, dy)


def _backward(stride: Pair, padding: tuple[Pair, Pair], xw: Arrays, dy: jax.Array) -> Arrays:
    x, w = xw
    rows = _axis(x.shape[1], w.shape[0], stride[0], dy.shape[1], padding[0][0])
    columns = _axis(x.shape[2], w.shape[1], stride[1], dy.shape[2], padding[1][0])

    def to_x(dy: jax.Array, w: jax.Array) -> jax.Array:
        """Convolves dy, its places `stride` apart, with the turned kernel."""
        turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
        around = [
            (axis.kernel - 1 - axis.before, axis.kernel - 1 - axis.after)
            for axis in (rows, columns)
        ]
        return _stock(dy, turned, (1, 1), around, lhs_dilation=stride)

    def to_w(x: jax.Array, dy: jax.Array) -> jax.Array:
        """Sums the products of windows and dy."""
        if rows.kernel <= rows.stride and columns.kernel <= columns.stride:
            return _of_separate_windows(x, dy, rows, columns)

        def add(dw: jax.Array, chunk: Arrays) -> tuple[jax.Array, None]:
            """Convolves x with dy as the kernel: channels for examples, examples for channels."""
            x, dy = chunk
            x = x.transpose(3, 1, 2, 0)  # [C, H, W, B]
            dy = dy.transpose(1, 2, 0, 3)  # [H', W', B, O]
            around = [(rows.before, rows.after), (columns.before, columns.after)]
            more = _stock(x, dy, (1, 1), around, rhs_dilation=stride)  # [C, h, w, O]
            return dw + more.transpose(1, 2, 0, 3), None

        # Fewer than 8 examples do not fill the vector unit.
        examples = min(len(x), max(8, _CHUNK // (rows.places * columns.places)))

        def chunked(a: jax.Array) -> jax.Array:
            """Examples in chunks [chunks, examples, ...]; those of zeros at the end add nothing."""
            chunks = ceil_div(len(a), examples)
            fill = (0, chunks * examples - len(a))
            padded = jnp.pad(a, (fill, (0, 0), (0, 0), (0, 0)))
            return padded.reshape(chunks, examples, *a.shape[1:])

        dw, _ = lax.scan(add, jnp.zeros(w.shape), (chunked(x), chunked(dy)))
        return dw

    def stock_to_x(dy: jax.Array, w: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda x: _stock(x, w, stride, padding), x)(dy)[0]

    def stock_to_w(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: _stock(x, w, stride, padding), w)(dy)[0]

    return _by_platform(to_x, stock_to_x, dy, w), _by_platform(to_w, stock_to_w, x, dy)


_conv2d.defvjp(_forward, _backward)
