"""A 2-D convolution whose gradients are fast on a CPU too, also inside a loop.

XLA's CPU backend has fast convolutions for one layout: images NHWC, kernels HWIO, result NHWC. It
rewrites other layouts into this one, but not inside `fori_loop` or `scan`, where they run as naive
loops, tens to hundreds of times slower. JAX states both gradients of a convolution in other
layouts, and this suite always trains inside a loop.

So the gradients are stated here in the fast layout, on a CPU alone; on other platforms this is
`jax.lax.conv_general_dilated`, and so is the forward pass on a CPU. But between many channels
kernels of 3 x 3 take fewer products there, in all three (`winograd.py`). `benchmarks/conv_speed.py`
measures the gain. Results equal the stock ones up to rounding. A convolution and its two gradients
are linear in each of their arguments, and the gradients of any of the three are the other
two: derivatives of every order are fast, as a penalty on gradients needs. There is no forward mode.

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

from missing_bits.nets import winograd
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
    sizes = zip(x.shape[1:3], w.shape[:2], stride, padding, strict=True)
    return convolve(x, w.astype(x.dtype), _Axes(*(_Axis(*size) for size in sizes)))


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


class _Axis(NamedTuple):
    """A convolution along one axis, in pixels."""

    size: int  # of the image
    kernel: int
    stride: int
    padding: Pair

    @property
    def places(self) -> int:
        """How many places the window has."""
        return max(0, (self.size + sum(self.padding) - self.kernel) // self.stride + 1)

    @property
    def before(self) -> int:
        """Padding before the image."""
        return self.padding[0]

    @property
    def after(self) -> int:
        """Padding behind it that windows reach; negative: pixels that no window sees."""
        reach = (self.places - 1) * self.stride + self.kernel  # of all windows
        return reach - self.before - self.size


class _Axes(NamedTuple):
    """A convolution along both axes."""

    rows: _Axis
    columns: _Axis

    @property
    def stride(self) -> Pair:
        return self.rows.stride, self.columns.stride

    @property
    def padding(self) -> tuple[Pair, Pair]:
        return self.rows.padding, self.columns.padding


def _convolve(x: jax.Array, w: jax.Array, axes: _Axes) -> jax.Array:
    """The convolution [B, H', W', O] of images [B, H, W, C] with a kernel [h, w, C, O]."""
    conv = functools.partial(_stock, stride=axes.stride, padding=axes.padding)
    cpu = winograd.convolve if _gains(x.shape, w.shape, axes) else conv
    return _by_platform(cpu, conv, x, w)


def _gains(x_shape: tuple[int, ...], w_shape: tuple[int, ...], axes: _Axes) -> bool:
    """Whether a convolution [B, H, W, C] by [h, w, C, O] takes fewer products on a CPU."""
    same = all(axis.stride == 1 and axis.padding == (1, 1) for axis in axes)
    return same and winograd.gains(x_shape, w_shape)


def _to_x(dy: jax.Array, w: jax.Array, axes: _Axes) -> jax.Array:
    """The gradient [B, H, W, C] to the images, of gradients dy [B, H', W', O]."""

    def cpu(dy: jax.Array, w: jax.Array) -> jax.Array:
        """Convolves dy, its places `stride` apart, with the turned kernel."""
        turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
        around = [(axis.kernel - 1 - axis.before, axis.kernel - 1 - axis.after) for axis in axes]
        if axes.stride != (1, 1) and any(axis.kernel > axis.places for axis in axes):
            # Some of these end XLA's compiler and the process with it (JAX 0.12), which swaps the
            # kernel and what is smaller. So zeros are put in beforehand, behind a barrier, as it
            # would undo that.
            gaps = [(*both, axis.stride - 1) for both, axis in zip(around, axes, strict=True)]
            apart = lax.pad(dy, jnp.float32(0), [(0, 0, 0), *gaps, (0, 0, 0)])
            return _stock(lax.optimization_barrier(apart), turned, (1, 1), [(0, 0), (0, 0)])
        return _stock(dy, turned, (1, 1), around, lhs_dilation=axes.stride)

    def default(dy: jax.Array, w: jax.Array) -> jax.Array:
        shape = (len(dy), axes.rows.size, axes.columns.size, w.shape[2])
        like = jax.ShapeDtypeStruct(shape, dy.dtype)
        return jax.linear_transpose(lambda x: _stock(x, w, axes.stride, axes.padding), like)(dy)[0]

    if _gains(dy.shape, w.shape, axes):
        cpu = winograd.to_x
    return _by_platform(cpu, default, dy, w)


def _to_w(x: jax.Array, dy: jax.Array, axes: _Axes) -> jax.Array:
    """The gradient [h, w, C, O] to the kernel: the sum of the products of windows and dy."""
    rows, columns = axes
    shape = (rows.kernel, columns.kernel, x.shape[3], dy.shape[3])

    def cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        if rows.kernel <= rows.stride and columns.kernel <= columns.stride:
            return _of_separate_windows(x, dy, axes)

        def add(dw: jax.Array, chunk: Arrays) -> tuple[jax.Array, None]:
            """Convolves x with dy as the kernel: channels for examples, examples for channels."""
            x, dy = chunk
            x = x.transpose(3, 1, 2, 0)  # [C, H, W, B]
            dy = dy.transpose(1, 2, 0, 3)  # [H', W', B, O]
            around = [(axis.before, axis.after) for axis in axes]
            more = _stock(x, dy, (1, 1), around, rhs_dilation=axes.stride)  # [C, h, w, O]
            return dw + more.transpose(1, 2, 0, 3), None

        # Fewer than 8 examples do not fill the vector unit.
        examples = min(len(x), max(8, _CHUNK // (rows.places * columns.places)))

        def chunked(a: jax.Array) -> jax.Array:
            """Examples in chunks [chunks, examples, ...]; those of zeros at the end add nothing."""
            chunks = ceil_div(len(a), examples)
            fill = (0, chunks * examples - len(a))
            padded = jnp.pad(a, (fill, (0, 0), (0, 0), (0, 0)))
            return padded.reshape(chunks, examples, *a.shape[1:])

        dw, _ = lax.scan(add, jnp.zeros(shape), (chunked(x), chunked(dy)))
        return dw

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        like = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda w: _stock(x, w, axes.stride, axes.padding), like)(dy)[0]

    if _gains(x.shape, shape, axes):
        cpu = winograd.to_w
    return _by_platform(cpu, default, x, dy)


def _of_separate_windows(x: jax.Array, dy: jax.Array, axes: _Axes) -> jax.Array:
    """The gradient [h, w, C, O] of a kernel where no pixel is in two windows."""
    rows, columns = axes
    around = [
        (axis.before, axis.places * axis.stride - axis.size - axis.before, 0) for axis in axes
    ]
    x = lax.pad(x, jnp.float32(0), [(0, 0, 0), *around, (0, 0, 0)])
    x = x.reshape(len(x), rows.places, rows.stride, columns.places, columns.stride, -1)
    windows = x[:, :, : rows.kernel, :, : columns.kernel]
    return jnp.einsum("bihjwc,bijo->hwco", windows, dy)


def _closed(product: Callable[[jax.Array, jax.Array, _Axes], jax.Array]) -> Callable:
    """A product of two arrays whose gradients are stated; what it keeps are its arguments."""
    made = jax.custom_vjp(product, nondiff_argnums=(2,))
    made.defvjp(lambda a, b, axes: (made(a, b, axes), (a, b)), _GRADIENTS[product])
    return made


# With c the gradient that comes in, of the shape of the product.
_GRADIENTS = {
    _convolve: lambda axes, xw, c: (to_x(c, xw[1], axes), to_w(xw[0], c, axes)),
    _to_x: lambda axes, yw, c: (convolve(c, yw[1], axes), to_w(c, yw[0], axes)),
    _to_w: lambda axes, xy, c: (to_x(xy[1], c, axes), convolve(xy[0], c, axes)),
}
convolve = _closed(_convolve)
to_x = _closed(_to_x)
to_w = _closed(_to_w)
